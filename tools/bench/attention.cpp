// The lines of `bench ops` for causal attention; on a GPU in bf16 the tuned kernels, and
// their reference kernels, the tiles of batched products, beside them.
#include "kernels/ops.h"
#include "tools/bench/bench.h"

namespace cbq::bench {
namespace {

struct Operands {
  Tensor q, k, v, d_o;
  kernels::AttentionHeads heads;
};

Operands make_operands(kernels::AttentionHeads heads, int64_t tokens, int64_t dim, Device device,
                       Dtype dtype) {
  const auto normal = [&](int64_t columns, uint64_t stream) {
    Tensor t({tokens, columns}, dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32, device);
    kernels::fill_normal(t, 0.0, 1.0, 7, stream);
    return kernels::cast(t, dtype);
  };
  return {normal(heads.heads * dim, 1), normal(heads.kv_heads * dim, 2),
          normal(heads.kv_heads * dim, 3), normal(heads.heads * dim, 4), heads};
}

}  // namespace

std::vector<TunedLine> attention_lines(Device device, Dtype dtype) {
  std::vector<TunedLine> lines;
  const bool large = device.is_cuda();
  const int64_t tokens = large ? 2048 : 512, dim = 128;
  using Heads = kernels::AttentionHeads;
  for (const Heads heads :
       {large ? Heads{1, 32, 32} : Heads{1, 4, 4}, large ? Heads{1, 64, 8} : Heads{1, 8, 1}}) {
    const Operands in = make_operands(heads, tokens, dim, device, dtype);
    const auto forward = [in] { return kernels::attention(in.q, in.k, in.v, in.heads); };
    const double product = static_cast<double>(heads.heads * tokens * (tokens + 1) * dim);
    const std::string form = concat(heads.heads, "/", heads.kv_heads, " heads of ", dim);
    lines.push_back({concat("attention forward (", form, ")"), in.q.shape(), 2 * product,
                     [forward] { forward(); }, true});
    lines.push_back({concat("attention backward (", form, ")"), in.q.shape(), 5 * product,
                     [in, result = forward()] {
                       kernels::attention_backward(in.q, in.k, in.v, result, in.d_o, in.heads);
                     },
                     true});
  }
  return lines;
}

}  // namespace cbq::bench
