// The lines of `bench ops` for the quantization of tokens with what stands before it: the norm that
// q, k and v read, SwiGLU that down reads.
#include "autograd/functions.h"
#include "kernels/ops.h"
#include "quant/quantize_tokens.h"
#include "tools/bench/bench.h"

namespace cbq::bench {
namespace {

struct Operands {
  Deferred y;
  int tensors;  // that y is made of, and gradients that come back
  std::vector<TokenQuantizer> quantizers;
  std::vector<Tensor> dy;
};

Operands make_operands(bool norm, size_t readers, const Shape& shape, Device device, Dtype dtype) {
  const Dtype numbers = dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  uint64_t stream = 0;
  const auto normal = [&](const Shape& of, double mean) {
    Tensor t(of, numbers, device);
    kernels::fill_normal(t, mean, 1.0, 7, ++stream);
    return kernels::cast(t, dtype);
  };
  const Var x(normal(shape, 0.0));
  Operands in{norm ? Deferred(&ag::rms_norm, x, Var(normal({shape.back()}, 1.0)), 1e-5)
                   : Deferred(&ag::swiglu, x, Var(normal(shape, 0.0))),
              norm ? 1 : 2,
              {},
              {}};
  for (size_t i = 0; i < readers; ++i) {
    in.quantizers.push_back({Tensor::zeros({1}, numbers, device), ActivationConfig{.bits = 4}});
    in.dy.push_back(normal(shape, 0.0));
  }
  return in;
}

}  // namespace

std::vector<TunedLine> token_lines(Device device, Dtype dtype) {
  std::vector<TunedLine> lines;
  const int64_t rows = device.is_cuda() ? 2048 : 512;
  for (const bool norm : {true, false}) {
    const size_t readers = norm ? 3 : 1;
    const Shape shape{rows, !device.is_cuda() ? 512 : norm ? 4096 : 11008};
    const Operands in = make_operands(norm, readers, shape, device, dtype);
    const auto forward = [in] { return quantize_tokens(in.y, in.quantizers); };
    const double operand = static_cast<double>(in.dy[0].bytes());
    const auto count = static_cast<double>(readers);
    const std::string form = norm ? "RMSNorm, for 3" : "SwiGLU, for 1";
    lines.push_back({concat("quantize_tokens forward (", form, ")"), shape,
                     (in.tensors + count) * operand, [forward] { forward(); }});
    lines.push_back({concat("quantize_tokens backward (", form, ")"), shape,
                     (2 * in.tensors + count) * operand, [in, result = forward()] {
                       quantize_tokens_backward(in.y, in.quantizers, result, in.dy, true);
                     }});
  }
  return lines;
}

}  // namespace cbq::bench
