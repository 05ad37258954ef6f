#include "tools/python/array.h"

#include <pybind11/stl.h>

#include <memory>

#include "kernels/ops.h"
#include "tools/python/dlpack.h"

namespace cbq::python {
namespace {

// ---- types -------------------------------------------------------------------------------------

struct DtypeRow {
  Dtype dtype;
  const char* numpy;    // null: numpy has none
  const char* typestr;  // of numpy's array interface
  dlpack::TypeTag tag;
};
constexpr DtypeRow dtype_rows[] = {{Dtype::f64, "float64", "<f8", {dlpack::floating, 64, 1}},
                                   {Dtype::f32, "float32", "<f4", {dlpack::floating, 32, 1}},
                                   {Dtype::bf16, nullptr, nullptr, {dlpack::bfloat, 16, 1}},
                                   {Dtype::f16, "float16", "<f2", {dlpack::floating, 16, 1}},
                                   {Dtype::i32, "int32", "<i4", {dlpack::signed_integer, 32, 1}},
                                   {Dtype::u8, "uint8", "|u1", {dlpack::unsigned_integer, 8, 1}}};

const DtypeRow& row_of(Dtype dtype) {
  for (const DtypeRow& row : dtype_rows) {
    if (row.dtype == dtype) return row;
  }
  throw std::invalid_argument(message_of("no row for ", dtype));
}

constexpr const char* known_types =
    "tensors hold float64, float32, bfloat16, float16, int32, uint8";

// ---- memory of others --------------------------------------------------------------------------

/// Storage over `data`, which `owner` keeps alive. Whoever uses it last may be any thread, and the
/// interpreter may have ended by then.
std::shared_ptr<Storage> adopted(void* data, int64_t bytes, py::object owner) {
  auto* kept = new py::object(std::move(owner));
  return Storage::adopt(data, bytes, Device::cpu(), [kept] {
    if (Py_IsInitialized() == 0) return;
    const py::gil_scoped_acquire gil;
    delete kept;
  });
}

/// By numpy's array interface, a protocol of Python objects: the layout of numpy's C structures
/// changed with numpy 2, and pybind11's array class of one age cannot read those of the other.
Array from_numpy(const py::object& array, const char* what) {
  const py::dict interface = array.attr("__array_interface__");
  const std::string type = interface["typestr"].cast<std::string>();
  for (const DtypeRow& row : dtype_rows) {
    if (row.typestr == nullptr || type != row.typestr) continue;
    const bool is_compact = !interface.contains("strides") || interface["strides"].is_none();
    check(is_compact, what, ": the array is not contiguous; give numpy.ascontiguousarray(x)");
    const auto shape = interface["shape"].cast<Shape>();
    const auto [address, read_only] = interface["data"].cast<std::pair<uintptr_t, bool>>();
    const int64_t bytes = element_count(shape) * size_of(row.dtype);
    return {Tensor::over(adopted(reinterpret_cast<void*>(address), bytes, array), shape, row.dtype),
            read_only};
  }
  throw std::invalid_argument(message_of(what, ": an array of type ", type, "; ", known_types,
                                         ", in this machine's byte order: convert it first ",
                                         "(x.astype(...))"));
}

bool is_compact(const dlpack::View& view) {
  if (view.strides == nullptr) return true;
  int64_t expected = 1;
  for (int32_t axis = view.rank; axis-- > 0;) {
    if (view.shape[axis] != 1 && view.strides[axis] != expected) return false;
    expected *= view.shape[axis];
  }
  return true;
}

Array from_dlpack(const py::object& object, const char* what) {
  const py::object capsule = object.attr("__dlpack__")();
  auto* managed =
      static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::offered));
  if (managed == nullptr) throw py::error_already_set();
  const dlpack::View& view = managed->view;
  check(view.device.type == dlpack::cpu || view.device.type == dlpack::cuda_host, what,
        ": the array is not in the CPU's memory; copy it there first (x.cpu())");
  check(is_compact(view), what, ": the array is not contiguous; give x.contiguous()");
  for (const DtypeRow& row : dtype_rows) {
    const dlpack::TypeTag& tag = row.tag;
    if (tag.code != view.dtype.code || tag.bits != view.dtype.bits || view.dtype.lanes != 1) {
      continue;
    }
    const Shape shape(view.shape, view.shape + view.rank);
    void* data = static_cast<char*>(view.data) + view.byte_offset;
    // From here on the memory is ours to give back: the capsule no longer does.
    PyCapsule_SetName(capsule.ptr(), dlpack::taken);
    auto storage =
        Storage::adopt(data, element_count(shape) * size_of(row.dtype), Device::cpu(), [managed] {
          if (Py_IsInitialized() == 0) return;
          const py::gil_scoped_acquire gil;
          if (managed->release != nullptr) managed->release(managed);
        });
    return {Tensor::over(std::move(storage), shape, row.dtype)};
  }
  throw std::invalid_argument(
      message_of(what, ": an array of a type that tensors do not have; ", known_types));
}

// ---- our memory for others ---------------------------------------------------------------------

/// What a DLPack consumer holds until it calls release().
struct Lent {
  dlpack::Managed managed;
  Tensor tensor;
  std::vector<int64_t> shape, strides;
};

void end_of_capsule(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, dlpack::offered) == 0) return;  // somebody took it
  auto* managed = static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule, dlpack::offered));
  managed->release(managed);
}

py::object lend(const Tensor& tensor) {
  auto lent = std::make_unique<Lent>();
  lent->tensor = tensor;
  lent->shape = tensor.shape();
  lent->strides.resize(lent->shape.size());
  int64_t stride = 1;
  for (size_t axis = lent->shape.size(); axis-- > 0;) {
    lent->strides[axis] = stride;
    stride *= lent->shape[axis];
  }
  lent->managed.view = {tensor.raw(),
                        {dlpack::cpu, 0},
                        static_cast<int32_t>(tensor.rank()),
                        row_of(tensor.dtype()).tag,
                        lent->shape.data(),
                        lent->strides.data(),
                        0};
  lent->managed.owner = lent.get();
  lent->managed.release = [](dlpack::Managed* self) { delete static_cast<Lent*>(self->owner); };
  PyObject* capsule = PyCapsule_New(&lent->managed, dlpack::offered, end_of_capsule);
  if (capsule == nullptr) throw py::error_already_set();
  lent.release();
  return py::reinterpret_steal<py::object>(capsule);
}

[[noreturn]] void refuse_buffer(const char* message) {
  PyErr_SetString(PyExc_BufferError, message);
  throw py::error_already_set();
}

py::object offer(const Array& array, const py::object& copy) {
  const bool copies = !copy.is_none() && copy.cast<bool>();
  if (array.read_only && !copies) {
    refuse_buffer("this tensor lies in a read-only array, which DLPack cannot say; copy it first");
  }
  return lend(copies ? array.tensor.clone() : array.tensor);
}

/// What numpy makes an array over, and keeps as its base.
struct Memory {
  Array array;

  py::dict interface() const {
    const Tensor& tensor = array.tensor;
    py::dict entries;
    entries["version"] = 3;
    entries["typestr"] = row_of(tensor.dtype()).typestr;
    entries["shape"] = py::tuple(py::cast(tensor.shape()));
    entries["data"] =
        py::make_tuple(reinterpret_cast<uintptr_t>(tensor.raw()), py::bool_(array.read_only));
    return entries;
  }
};

py::object in_numpy(const Array& array, const py::object& dtype, const py::object& copy) {
  py::object result = numpy_of(array);
  if (!dtype.is_none()) result = result.attr("astype")(dtype, py::arg("copy") = false);
  if (!copy.is_none() && copy.cast<bool>()) result = result.attr("copy")();
  return result;
}

Array converted(const Array& array, const std::string& dtype) {
  const Dtype wanted = dtype_from_name(dtype);
  if (wanted == array.tensor.dtype()) return array;
  check(is_float(wanted) && is_float(array.tensor.dtype()),
        "to: only floating-point types are converted, not ", array.tensor.dtype(), " to ", wanted);
  const py::gil_scoped_release unlocked;
  return {kernels::cast(array.tensor, wanted)};
}

std::vector<int32_t> row_of_ids(const py::handle& row, const char* what) {
  std::vector<int32_t> ids;
  for (const py::handle& id : py::reinterpret_borrow<py::object>(row)) {
    PyObject* number = PyNumber_Index(id.ptr());
    if (number == nullptr) {
      PyErr_Clear();
      throw std::invalid_argument(
          message_of(what, ": expected integers, found ", std::string(py::repr(id))));
    }
    const int64_t value = PyLong_AsLongLong(number);
    Py_DECREF(number);
    if (PyErr_Occurred() != nullptr) PyErr_Clear();
    check(value >= 0 && value <= INT32_MAX, what, ": token id ", std::string(py::repr(id)),
          " is out of range");
    ids.push_back(static_cast<int32_t>(value));
  }
  return ids;
}

}  // namespace

Array array_of(const py::object& object, const char* what) {
  if (py::isinstance<Array>(object)) return object.cast<Array>();
  if (py::hasattr(object, "__array_interface__")) return from_numpy(object, what);
  if (py::hasattr(object, "__dlpack__")) return from_dlpack(object, what);
  throw std::invalid_argument(message_of(what, ": expected a numpy array, a tensor with DLPack or ",
                                         "a cbq.Tensor, got ",
                                         std::string(py::str(py::type::of(object)))));
}

std::vector<std::vector<int32_t>> ids_of(const py::object& object, const char* what) {
  if (py::isinstance<py::str>(object) || !py::hasattr(object, "__iter__")) {
    throw std::invalid_argument(message_of(what, ": expected lists or an array of token ids, got ",
                                           std::string(py::repr(object))));
  }
  // Arrays of every integer type become lists; ids are small beside what is computed with them.
  const py::object rows = py::hasattr(object, "tolist") ? object.attr("tolist")() : object;
  const py::list list(rows);
  std::vector<std::vector<int32_t>> ids;
  if (!list.empty() && !py::hasattr(list[0], "__iter__")) return {row_of_ids(list, what)};
  for (const py::handle& row : list) {
    check(py::hasattr(row, "__iter__"), what, ": some rows are lists of ids and some are not");
    ids.push_back(row_of_ids(py::hasattr(row, "tolist")
                                 ? row.attr("tolist")()
                                 : py::object(py::reinterpret_borrow<py::object>(row)),
                             what));
  }
  check(!ids.empty(), what, ": there are no token ids");
  return ids;
}

py::object numpy_of(const Array& array) {
  const DtypeRow& row = row_of(array.tensor.dtype());
  check(row.numpy != nullptr, "numpy has no type for ", array.tensor.dtype(),
        ": take .to(\"f32\"), or DLPack (torch.from_dlpack)");
  check(array.tensor.device() == Device::cpu(), "the tensor is on ", array.tensor.device(),
        "; numpy reads the CPU's memory");
  return py::module_::import("numpy").attr("asarray")(Memory{array});
}

void bind_arrays(py::module_& module) {
  py::class_<Memory>(module, "_Memory")
      .def_property_readonly("__array_interface__", &Memory::interface);
  py::class_<Array>(module, "Tensor",
                    "A contiguous array that numpy (numpy.asarray) and DLPack (torch.from_dlpack) "
                    "read and write in place.")
      .def_property_readonly("shape",
                             [](const Array& a) { return py::tuple(py::cast(a.tensor.shape())); })
      .def_property_readonly(
          "dtype", [](const Array& a) { return name_of(a.tensor.dtype()); },
          "\"f64\", \"f32\", \"bf16\", \"f16\", \"i32\" or \"u8\"")
      .def_property_readonly("nbytes", [](const Array& a) { return a.tensor.bytes(); })
      .def("numpy", &numpy_of,
           "The numpy array over the same memory. ValueError for bf16, which numpy lacks.")
      .def("to", &converted, py::arg("dtype"),
           "The same values in another floating-point type (itself where it has that type).")
      .def("__array__", &in_numpy, py::arg("dtype") = py::none(), py::arg("copy") = py::none())
      .def(
          "__dlpack__",
          [](const Array& a, const py::object& /*stream*/, const py::object& /*max_version*/,
             const py::object& /*dl_device*/, const py::object& copy) { return offer(a, copy); },
          py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
          py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
      .def("__dlpack_device__",
           [](const Array&) { return py::make_tuple(static_cast<int>(dlpack::cpu), 0); })
      .def("__repr__", [](const Array& a) {
        return concat("cbq.Tensor(shape=", a.tensor.shape(), ", dtype=", a.tensor.dtype(), ")");
      });
  module.def(
      "tensor", [](const py::object& object) { return array_of(object, "tensor"); },
      py::arg("array"),
      "The tensor over the memory of a numpy array, or of anything with __dlpack__. Nothing is\n"
      "copied: what one side writes, the other reads. ValueError for memory that is not "
      "contiguous,\n"
      "not on the CPU, or of a type that tensors do not have.");
}

}  // namespace cbq::python
