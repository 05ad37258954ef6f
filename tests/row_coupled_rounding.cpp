// A rounding scheme that is not scalar math, for the tests alone: the weights of a row depend on
// each other. It shows what such a scheme implements, and that the contract (rounding_contract.h)
// takes it.
#include <algorithm>
#include <cmath>
#include <vector>

#include "quant/rounding.h"

namespace cbq {
namespace {

/// r_j = round(u_j + v_j - mean of v over the row), straight-through: SignRound without a common
/// offset, and without bounds. Textbook loops on the host, in double.
class CentredRounding : public RoundingScheme {
 public:
  std::string name() const override { return "test_centred"; }
  std::string help() const override { return "round(w/s + v - the row's mean of v)"; }
  Parameterization default_parameterization() const override { return Parameterization::dense; }
  Start default_start() const override { return Start::nearest; }
  bool relaxes() const override { return false; }

  Tensor forward(const RoundingPass& pass) const override {
    const Weight weight(pass);
    std::vector<double> y;
    for (size_t i = 0; i < weight.w.size(); ++i) {
      y.push_back(weight.s(i) * (weight.code(i) - weight.z(i)));
    }
    return Tensor::from(y, pass.w.shape(), pass.w.dtype(), pass.w.device());
  }

  Tensor codes(const RoundingPass& pass) const override {
    const Weight weight(pass);
    std::vector<double> codes;
    for (size_t i = 0; i < weight.w.size(); ++i) codes.push_back(weight.code(i));
    return Tensor::from(codes, pass.w.shape(), Dtype::u8, pass.w.device());
  }

  RoundingGradients backward(const RoundingPass& pass, const Tensor& dw,
                             const RoundingRegularizer&) const override {
    const Weight weight(pass);
    const auto g = dw.to_vector<double>();
    std::vector<double> ds(weight.scale.size(), 0.0), dp(g.size(), 0.0);
    for (size_t i = 0; i < g.size(); ++i) {
      const double q = weight.rounded[i] + weight.z(i);
      const bool inside = q >= 0.0 && q <= weight.largest;
      ds[weight.grid(i)] +=
          g[i] * (weight.code(i) - weight.z(i) - (inside ? weight.w[i] / weight.s(i) : 0.0));
      dp[i] = inside ? g[i] * weight.s(i) : 0.0;
    }
    weight.centre(dp);
    RoundingGradients result;
    result.scale = like(pass.scale, ds);
    if (pass.dense.defined()) result.dense = like(pass.dense, dp);
    if (pass.a1.defined()) {
      const auto a1 = pass.a1.to_vector<double>(), a2 = pass.a2.to_vector<double>();
      const auto rank = static_cast<size_t>(pass.a1.size(1));
      std::vector<double> d1(a1.size(), 0.0), d2(a2.size(), 0.0);
      for (size_t i = 0; i < dp.size(); ++i) {
        for (size_t k = 0; k < rank; ++k) {
          const size_t at1 = i / weight.in * rank + k, at2 = k * weight.in + i % weight.in;
          d1[at1] += dp[i] * a2[at2];
          d2[at2] += dp[i] * a1[at1];
        }
      }
      result.a1 = like(pass.a1, d1);
      result.a2 = like(pass.a2, d2);
    }
    return result;
  }

  double regularizer(const RoundingPass&, const RoundingRegularizer&) const override { return 0.0; }

 private:
  /// The weight of a pass, on the host.
  struct Weight {
    std::vector<double> w, scale, zero, rounded;
    size_t in, group;
    double largest;

    explicit Weight(const RoundingPass& pass)
        : w(pass.w.to_vector<double>()),
          scale(pass.scale.to_vector<double>()),
          zero(pass.zero_point.to_vector<double>()),
          in(static_cast<size_t>(pass.w.size(1))),
          group(static_cast<size_t>(pass.group)),
          largest(max_code(pass.bits)) {
      std::vector<double> v(w.size(), 0.0);
      if (pass.dense.defined()) v = pass.dense.to_vector<double>();
      if (pass.a1.defined()) {
        const auto a1 = pass.a1.to_vector<double>(), a2 = pass.a2.to_vector<double>();
        const auto rank = static_cast<size_t>(pass.a1.size(1));
        for (size_t i = 0; i < w.size(); ++i) {
          for (size_t k = 0; k < rank; ++k) v[i] += a1[i / in * rank + k] * a2[k * in + i % in];
        }
      }
      centre(v);
      for (size_t i = 0; i < w.size(); ++i) rounded.push_back(std::nearbyint(w[i] / s(i) + v[i]));
    }
    size_t grid(size_t i) const {
      return scale.size() == 1 ? 0 : i / in * (in / group) + i % in / group;
    }
    double s(size_t i) const { return scale[grid(i)]; }
    double z(size_t i) const { return zero[grid(i)]; }
    double code(size_t i) const { return std::clamp(rounded[i] + z(i), 0.0, largest); }
    /// Subtracts from every row its mean. Its own transpose, so that gradients go back through it.
    void centre(std::vector<double>& v) const {
      for (size_t begin = 0; begin < v.size(); begin += in) {
        double sum = 0.0;
        for (size_t j = 0; j < in; ++j) sum += v[begin + j];
        for (size_t j = 0; j < in; ++j) v[begin + j] -= sum / static_cast<double>(in);
      }
    }
  };

  static Tensor like(const Tensor& t, const std::vector<double>& values) {
    return Tensor::from(values, t.shape(), t.dtype(), t.device());
  }
};

[[maybe_unused]] const bool registered =
    rounding_schemes().add("test_centred", [] { return std::make_unique<CentredRounding>(); });

}  // namespace
}  // namespace cbq
