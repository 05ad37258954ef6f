#include "quant/rounding.h"

#include "quant/name_table.h"
#include "quant/rounding_kernels.h"

namespace cbq {

namespace {

constexpr NameTable<Parameterization, 3> parameterizations{
    {{Parameterization::none, "none"},
     {Parameterization::dense, "dense"},
     {Parameterization::low_rank, "low_rank"}}};
constexpr NameTable<Start, 3> starts{
    {{Start::fraction, "fraction"}, {Start::nearest, "nearest"}, {Start::zero, "zero"}}};

}  // namespace

std::string name_of(Parameterization parameterization) {
  return name_in(parameterizations, parameterization);
}
std::string name_of(Start start) { return name_in(starts, start); }

Parameterization parameterization_from_name(const std::string& name) {
  return value_in(parameterizations, "parameterization", name);
}
Start start_from_name(const std::string& name) { return value_in(starts, "rounding start", name); }

std::vector<std::string> parameterization_names() { return names_in(parameterizations); }
std::vector<std::string> start_names() { return names_in(starts); }

Tensor RoundingScheme::weight_gradient(const RoundingPass& /*pass*/, const Tensor& /*dw*/) const {
  throw std::logic_error(message_of("rounding scheme '", name(), "' gives no weight gradient"));
}

Registry<RoundingScheme>& rounding_schemes() {
  static Registry<RoundingScheme> registry("rounding scheme");
  return registry;
}

void detail::check_rounding_pass(const std::string& scheme, const RoundingPass& pass,
                                 bool needs_unit) {
  const char* op = scheme.c_str();
  check(pass.w.defined() && pass.w.rank() == 2, op, ": expected a weight [out, in]");
  const int64_t out = pass.w.size(0), in = pass.w.size(1);
  const bool one_scale = pass.scale.defined() && pass.scale.count() == 1;
  check(one_scale || (pass.group > 0 && in % pass.group == 0), op, ": group ", pass.group,
        " does not divide the ", in, " inputs");
  check_shape(op, "scale", pass.scale, one_scale ? Shape{1, 1} : Shape{out, in / pass.group});
  check_shape(op, "zero point", pass.zero_point, pass.scale.shape());
  check(pass.bits >= 1 && pass.bits <= 8, op, ": expected 1 to 8 bits, got ", pass.bits);
  check(!(pass.dense.defined() && pass.a1.defined()), op,
        ": rounding variables are dense or low rank, not both");
  if (pass.dense.defined()) check_shape(op, "p", pass.dense, {out, in});
  check(pass.a1.defined() == pass.a2.defined(), op, ": A1 and A2 come together");
  if (pass.a1.defined()) {
    check(pass.a1.rank() == 2 && pass.a2.rank() == 2, op, ": A1 and A2 are matrices");
    check_shape(op, "A1", pass.a1, {out, pass.a1.size(1)});
    check_shape(op, "A2", pass.a2, {pass.a1.size(1), in});
  }
  if (needs_unit && (pass.dense.defined() || pass.a1.defined())) {
    check_shape(op, "unit", pass.unit, pass.scale.shape());
  }
  const Dtype expected = pass.w.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  for (const Tensor* t :
       {&pass.scale, &pass.zero_point, &pass.dense, &pass.a1, &pass.a2, &pass.unit}) {
    if (!t->defined()) continue;
    check(t->dtype() == expected, op, ": scales and variables of a ", pass.w.dtype(),
          " weight are ", expected, ", got ", t->dtype());
    check(t->device() == pass.w.device(), op, ": weight and variables are on different devices");
  }
}

}  // namespace cbq
