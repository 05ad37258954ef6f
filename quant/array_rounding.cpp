#include "quant/array_rounding.h"

#include <cmath>
#include <utility>

#include "kernels/ops.h"
#include "quant/array_rounding_kernels.h"
#include "quant/rounding_view.h"

namespace cbq {
namespace {

class ArrayRounding final : public RoundingScheme {
 public:
  explicit ArrayRounding(ArrayScheme scheme) : s_(std::move(scheme)) {}

  std::string name() const override { return s_.name; }
  std::string help() const override { return s_.help; }
  Parameterization default_parameterization() const override { return s_.parameterization; }
  Start default_start() const override { return s_.start; }
  bool relaxes() const override { return s_.relaxes; }
  double default_rate(int /*abits*/) const override { return s_.rate; }
  bool gives_zero_point_gradient() const override { return true; }
  bool gives_weight_gradient() const override { return true; }

  Tensor forward(const RoundingPass& pass) const override {
    check_pass(pass);
    return rounded_weight(pass, rounded(pass, values_of(pass)), pass.w.dtype());
  }

  Tensor codes(const RoundingPass& pass) const override {
    check_pass(pass);
    RoundingPass hard = pass;
    hard.hard = true;
    const Tensor r = rounded(hard, values_of(hard));
    check(!kernels::has_non_finite(r), "rounding scheme '", s_.name,
          "': hard gave NaN or infinity, of which no code can be made");
    return rounded_weight(hard, r, Dtype::u8);
  }

  RoundingGradients backward(const RoundingPass& pass, const Tensor& dw,
                             const RoundingRegularizer& regularizer) const override {
    check_pass(pass);
    check_same(s_.name.c_str(), pass.w, dw);
    const Values x = values_of(pass);
    detail::ArraySlopes slopes;
    slopes.v = x.v;
    slopes.v_min = s_.v_min;
    slopes.v_max = s_.v_max;
    slopes.u = x.u;
    slopes.r = rounded(pass, x);
    slopes.d_dv = of(s_.d_dv, "d_dv", x);
    slopes.d_du = of(s_.d_du, "d_du", x);
    if (s_.relaxes) {
      const auto [weight, beta] = detail::numbers_now(s_.name, regularizer, pass.w.device());
      slopes.weight = weight;
      slopes.beta = beta;
      if (weight != 0.0) {
        slopes.relaxed = checked(s_.relaxed(x.v), x.v, "relaxed");
        slopes.d_relaxed = checked(s_.d_relaxed(x.v), x.v, "d_relaxed");
      }
    }
    return detail::array_gradients(s_.name, pass, dw, slopes);
  }

  Tensor weight_gradient(const RoundingPass& pass, const Tensor& dw) const override {
    check_pass(pass);
    check_same(s_.name.c_str(), pass.w, dw);
    const Values x = values_of(pass);
    return detail::array_weight_gradient(pass, dw, rounded(pass, x), of(s_.d_du, "d_du", x));
  }

  double regularizer(const RoundingPass& pass, const RoundingRegularizer& r) const override {
    if (!s_.relaxes || r.weight == 0.0) return 0.0;
    check_pass(pass);
    const Values x = values_of(pass);
    double sum = 0.0;
    for (const double h : checked(s_.relaxed(x.v), x.v, "relaxed").to_vector<double>()) {
      sum += 1.0 - std::pow(std::max(std::abs(2.0 * h - 1.0), 1e-12), r.beta);
    }
    return r.weight * sum;
  }

 private:
  struct Values {
    Tensor u, v;
  };

  void check_pass(const RoundingPass& pass) const {
    detail::check_rounding_pass(s_.name, pass, false);
    check(pass.w.device() == Device::cpu(), "rounding scheme '", s_.name, "' computes on the CPU, ",
          "the weight is on ", pass.w.device(), "; quantize with --device cpu");
  }

  Tensor checked(Tensor result, const Tensor& like, const char* function) const {
    check(
        result.defined() && result.shape() == like.shape() && result.dtype() == like.dtype(),
        "rounding scheme '", s_.name, "': ", function, " gave ",
        [&] { return result.defined() ? concat(result.dtype(), result.shape()) : "nothing"; },
        ", expected ", like.dtype(), like.shape());
    return result;
  }

  /// An undefined tensor for a function that is left out: its value is 1.
  Tensor of(const ArrayScheme::OfBoth& function, const char* what, const Values& x) const {
    return function ? checked(function(x.u, x.v), x.u, what) : Tensor();
  }

  Values values_of(const RoundingPass& pass) const {
    const auto [u, p] = detail::scaled_weight_and_variable(pass);
    const Tensor v0 = s_.initial ? checked(s_.initial(u, pass.start), u, "initial") : Tensor();
    return {u, detail::bounded_variable(v0, p, s_.v_min, s_.v_max)};
  }

  Tensor rounded(const RoundingPass& pass, const Values& x) const {
    if (s_.relaxes && !pass.hard) return checked(s_.soft(x.u, x.v), x.u, "soft");
    const Tensor r = checked(s_.hard(x.u, x.v), x.u, "hard");
    if (const auto fraction = detail::first_fraction(r)) {
      throw std::invalid_argument(message_of("rounding scheme '", s_.name, "': hard gave ",
                                             *fraction, ", which is no integer"));
    }
    return r;
  }

  static Tensor rounded_weight(const RoundingPass& pass, const Tensor& r, Dtype dtype) {
    return detail::array_weight(pass, r, dtype);
  }

  ArrayScheme s_;
};

}  // namespace

std::unique_ptr<RoundingScheme> array_rounding(ArrayScheme scheme) {
  const auto need = [&](bool there, const char* function, const char* why) {
    check(there, "rounding scheme '", scheme.name, "' has no ", function, why);
  };
  need(!scheme.name.empty(), "name", "");
  need(bool(scheme.hard), "hard", ", which gives the integers");
  if (scheme.relaxes) {
    need(bool(scheme.soft), "soft", ": it relaxes, so there is a relaxed weight");
    need(scheme.relaxed && scheme.d_relaxed, "relaxed and d_relaxed",
         ": it relaxes, and the regularizer reads them");
  }
  return std::make_unique<ArrayRounding>(std::move(scheme));
}

}  // namespace cbq
