#include "quant/token_guard.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/launch/tuned_guard.h"
#include "kernels/launch/tuned_switch.h"
#include "kernels/ops.h"
#include "nn/deferred.h"
#include "quant/activation_quantizer.h"

namespace cbq::detail {
namespace {

constexpr int64_t tokens = 9, width = 264;
constexpr double eps = 1e-5;

struct Operands {
  Tensor x, up, weight, bias, dy;
  Operands(Dtype dtype, Device device) {
    const auto normal = [&](Shape shape, double mean, double deviation, uint64_t stream) {
      const Tensor t(std::move(shape), Dtype::f32);
      kernels::fill_normal(t, mean, deviation, 71, stream);
      return kernels::cast(t, dtype).to(device);
    };
    x = normal({tokens, width}, 0.2, 1.0, 1);
    up = normal({tokens, width}, 0.1, 1.0, 2);
    weight = normal({width}, 1.0, 0.3, 3);
    bias = normal({width}, 0.0, 0.3, 4);
    dy = normal({tokens, width}, 0.3, 1.0, 5);
  }
};

Deferred deferred(const FusedTokenFunction& function, const Operands& in, const Var& x,
                  const Var& up) {
  Deferred y(x);
  y.function = function.function;
  if (function.operands > 1) y.second = function.tensors > 1 ? up : Var(in.weight);
  if (function.operands > 2) y.third = Var(in.bias);
  y.eps = eps;
  return y;
}

/// The quantized tokens and the gradients of the function's tensors and of the clip variable.
std::vector<Tensor> run(const FusedTokenFunction& function, const Operands& in, bool fused) {
  ActivationConfig config;
  config.bits = 8;
  const ActivationQuantizer quantizer(config, in.x.device(), "guard");
  const Var x(in.x, true), up(in.up, true), clip = quantizer.variables().front();
  const Deferred y = deferred(function, in, x, up);
  Tape tape;
  Var output;
  if (fused) {
    output = quantizer.inputs(y, {&quantizer}).at(0);
  } else {
    output = quantizer.fake_quant(y.value());
  }
  tape.backward(output, in.dy);
  std::vector<Tensor> results = {output.value(), x.grad(), up.grad()};
  // A code of bf16 that goes the other way moves the sum over all codes by more than its rounding.
  if (in.x.dtype() == Dtype::f32) results.push_back(clip.grad());
  return results;
}

}  // namespace

double token_difference(Device device) {
  double largest = 0.0;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const Operands in(dtype, device);
    for (const FusedTokenFunction& function : fused_token_functions()) {
      const std::vector<Tensor> fused = run(function, in, true);
      const tuned::ReferenceKernels reference_kernels;
      const std::vector<Tensor> expected = run(function, in, false);
      for (size_t i = 0; i < fused.size(); ++i) {
        const double difference = tuned::relative_difference(fused[i], expected[i]);
        if (std::isnan(difference)) return difference;
        largest = std::max(largest, difference);
      }
    }
  }
  return largest;
}

}  // namespace cbq::detail
