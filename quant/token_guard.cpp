#include "quant/token_guard.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/functions.h"
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

enum class Function { identity, rms_norm, layer_norm, affine_layer_norm, swiglu, relu, gelu };

Deferred deferred(Function function, const Operands& in, const Var& x, const Var& up) {
  switch (function) {
    case Function::identity:
      break;
    case Function::rms_norm:
      return Deferred(&ag::rms_norm, x, Var(in.weight), eps);
    case Function::layer_norm:
      return Deferred(&ag::layer_norm, x, Var(), Var(), eps);
    case Function::affine_layer_norm:
      return Deferred(&ag::layer_norm, x, Var(in.weight), Var(in.bias), eps);
    case Function::swiglu:
      return Deferred(&ag::swiglu, x, up);
    case Function::relu:
      return Deferred(&ag::relu, x);
    case Function::gelu:
      return Deferred(&ag::gelu, x);
  }
  return Deferred(x);
}

/// The quantized tokens and the gradients of the function's tensors and of the clip variable.
std::vector<Tensor> run(Function function, const Operands& in, bool fused) {
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
    for (const Function function :
         {Function::identity, Function::rms_norm, Function::layer_norm, Function::affine_layer_norm,
          Function::swiglu, Function::relu, Function::gelu}) {
      const std::vector<Tensor> fused = run(function, in, true);
      const tuned::ReferenceKernels reference_kernels;
      const std::vector<Tensor> plain = run(function, in, false);
      for (size_t i = 0; i < fused.size(); ++i) {
        const double difference = tuned::relative_difference(fused[i], plain[i]);
        if (std::isnan(difference)) return difference;
        largest = std::max(largest, difference);
      }
    }
  }
  return largest;
}

}  // namespace cbq::detail
