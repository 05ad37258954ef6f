// Rounding schemes that are Python classes, and every scheme's passes for those who check one.
#include <pybind11/stl.h>

#include <map>

#include "quant/array_rounding.h"
#include "tools/python/array.h"
#include "tools/python/module.h"

namespace cbq::python {
namespace {

/// The schemes that were registered from Python. Never destroyed: the interpreter ends first.
std::map<std::string, py::object>& python_schemes() {
  static auto* schemes = new std::map<std::string, py::object>;
  return *schemes;
}

/// A read-only view: a scheme that writes into u or v would change what other functions read.
py::object view_of(const Tensor& tensor) { return numpy_of({tensor, true}); }

/// What a function gave, as a tensor like `like`; numbers and smaller arrays are spread over it.
Tensor result_of(const py::object& value, const Tensor& like, const std::string& what) {
  const py::module_ numpy = py::module_::import("numpy");
  const py::object expected = numpy.attr("dtype")(like.dtype() == Dtype::f64 ? "f8" : "f4");
  py::object array = numpy.attr("asarray")(value, py::arg("dtype") = expected);
  const py::tuple shape = py::tuple(py::cast(like.shape()));
  if (!py::object(array.attr("shape")).equal(shape)) {
    try {
      array = numpy.attr("broadcast_to")(array, shape);
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_ValueError)) throw;
      throw std::invalid_argument(message_of(what, " gave an array of shape ",
                                             std::string(py::str(array.attr("shape"))),
                                             ", expected ", like.shape()));
    }
  }
  return array_of(numpy.attr("ascontiguousarray")(array), what.c_str()).tensor;
}

/// Method `name` of a registered scheme; looked up at each call, so that a class that is registered
/// again under the same name replaces the one before.
struct Method {
  std::string scheme, name;

  Tensor call(const Tensor& like, const std::function<py::object(const py::object&)>& f) const {
    const py::gil_scoped_acquire gil;
    const py::object method = python_schemes().at(scheme).attr(name.c_str());
    return result_of(f(method), like, concat("rounding scheme '", scheme, "': ", name));
  }
  Tensor operator()(const Tensor& u, const Tensor& v) const {
    return call(u, [&](const py::object& f) { return f(view_of(u), view_of(v)); });
  }
  Tensor operator()(const Tensor& u, Start start) const {
    return call(u, [&](const py::object& f) { return f(view_of(u), name_of(start)); });
  }
  Tensor operator()(const Tensor& v) const {
    return call(v, [&](const py::object& f) { return f(view_of(v)); });
  }
};

template <class T>
T attribute(const py::object& object, const char* name, T otherwise) {
  return py::hasattr(object, name) ? object.attr(name).cast<T>() : otherwise;
}

ArrayScheme scheme_of(const std::string& name, const py::object& object) {
  ArrayScheme s;
  s.name = name;
  s.help = attribute<std::string>(object, "help", "a scheme in Python");
  s.relaxes = py::hasattr(object, "soft");
  s.parameterization =
      parameterization_from_name(attribute<std::string>(object, "parameterization", "dense"));
  s.start = start_from_name(attribute<std::string>(object, "start", "nearest"));
  s.v_min = attribute(object, "v_min", s.v_min);
  s.v_max = attribute(object, "v_max", s.v_max);
  s.rate = attribute(object, "rate", s.rate);
  const auto method = [&](const char* function) -> std::optional<Method> {
    if (!py::hasattr(object, function)) return std::nullopt;
    return Method{name, function};
  };
  const auto set = [&](auto& member, const char* function) {
    if (auto found = method(function)) member = *found;
  };
  set(s.initial, "initial");
  set(s.soft, "soft");
  set(s.hard, "hard");
  set(s.d_dv, "d_dv");
  set(s.d_du, "d_du");
  set(s.relaxed, "relaxed");
  set(s.d_relaxed, "d_relaxed");
  return s;
}

void register_rounding(const std::string& name, const py::object& scheme) {
  const bool is_class = PyType_Check(scheme.ptr()) != 0;
  const py::object object = is_class ? scheme() : scheme;
  const bool is_known = python_schemes().count(name) > 0;
  check(is_known || !rounding_schemes().has(name), "rounding scheme '", name,
        "' is part of the program; give yours another name");
  array_rounding(scheme_of(name, object));  // throws for one that lacks something
  python_schemes()[name] = object;
  if (is_known) return;
  rounding_schemes().add(name, [name] {
    const py::gil_scoped_acquire gil;
    return array_rounding(scheme_of(name, python_schemes().at(name)));
  });
}

/// The object of a scheme that was registered here; None for one of the program's own.
py::object python_scheme(const std::string& name) {
  rounding_schemes().make(name);  // throws with the known names
  const auto found = python_schemes().find(name);
  return found == python_schemes().end() ? py::none() : found->second;
}

Tensor optional_tensor(const py::object& object, const char* what) {
  return object.is_none() ? Tensor() : array_of(object, what).tensor;
}

/// A RoundingPass and its scheme, for those who check one.
struct Pass {
  std::unique_ptr<RoundingScheme> scheme;
  RoundingPass pass;

  Array forward() const {
    const py::gil_scoped_release unlocked;
    return {scheme->forward(pass)};
  }
  Array codes() const {
    const py::gil_scoped_release unlocked;
    return {scheme->codes(pass)};
  }
  py::dict backward(const py::object& dw, double weight, double beta) const {
    const Tensor gradient = array_of(dw, "dw").tensor;
    RoundingGradients g;
    {
      const py::gil_scoped_release unlocked;
      g = scheme->backward(pass, gradient, {weight, beta, {}});
    }
    py::dict all;
    const std::pair<const char*, Tensor> parts[] = {{"scale", g.scale},
                                                    {"p", g.dense},
                                                    {"a1", g.a1},
                                                    {"a2", g.a2},
                                                    {"zero_point", g.zero_point}};
    for (const auto& [name, tensor] : parts) {
      if (tensor.defined()) all[name] = py::cast(Array{tensor});
    }
    return all;
  }
  double regularizer(double weight, double beta) const {
    const py::gil_scoped_release unlocked;
    return scheme->regularizer(pass, {weight, beta, {}});
  }
};

std::unique_ptr<Pass> pass_of(const std::string& name, const py::object& w, const py::object& scale,
                              const py::object& zero_point, int bits, int64_t group,
                              const py::object& p, const py::object& a1, const py::object& a2,
                              const py::object& start, bool hard, bool wants_zero_point) {
  auto made = std::make_unique<Pass>();
  made->scheme = rounding_schemes().make(name);
  RoundingPass& pass = made->pass;
  pass.w = array_of(w, "w").tensor;
  pass.scale = array_of(scale, "scale").tensor;
  pass.zero_point = array_of(zero_point, "zero_point").tensor;
  pass.bits = bits;
  pass.group = group;
  pass.dense = optional_tensor(p, "p");
  pass.a1 = optional_tensor(a1, "a1");
  pass.a2 = optional_tensor(a2, "a2");
  pass.unit = pass.scale;
  pass.start =
      start.is_none() ? made->scheme->default_start() : start_from_name(start.cast<std::string>());
  pass.hard = hard;
  pass.wants_zero_point = wants_zero_point;
  return made;
}

}  // namespace

void bind_rounding(py::module_& module) {
  module.def("register_rounding", &register_rounding, py::arg("name"), py::arg("scheme"));
  module.def("python_scheme", &python_scheme, py::arg("name"));
  module.def("rounding_schemes", [] { return rounding_schemes().names(); });
  py::class_<Pass>(module, "RoundingPass",
                   "A rounding scheme over one weight [out, in], with its scales and variables.")
      .def(py::init(&pass_of), py::arg("scheme"), py::arg("w"), py::arg("scale"),
           py::arg("zero_point"), py::arg("bits"), py::arg("group"), py::kw_only(),
           py::arg("p") = py::none(), py::arg("a1") = py::none(), py::arg("a2") = py::none(),
           py::arg("start") = py::none(), py::arg("hard") = false,
           py::arg("wants_zero_point") = false)
      .def_property_readonly("relaxes", [](const Pass& p) { return p.scheme->relaxes(); })
      .def_property_readonly("default_start",
                             [](const Pass& p) { return name_of(p.scheme->default_start()); })
      .def("supports", [](const Pass& p,
                          const std::string& s) { return p.scheme->supports(start_from_name(s)); })
      .def("forward", &Pass::forward, "The quantized weight, in w's type.")
      .def("codes", &Pass::codes, "Its integers, u8.")
      .def("backward", &Pass::backward, py::arg("dw"), py::arg("weight") = 0.0,
           py::arg("beta") = 2.0, "Gradients by the names of the pass's arguments.")
      .def("regularizer", &Pass::regularizer, py::arg("weight"), py::arg("beta"));
}

}  // namespace cbq::python
