#include "kernels/attention/attention_guard.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/launch/tuned_guard.h"
#include "kernels/launch/tuned_switch.h"
#include "kernels/ops.h"

namespace cbq::tuned {
namespace {

constexpr kernels::AttentionHeads heads{2, 4, 2};
constexpr int64_t tokens = 150;  // two tiles and a part of one

Tensor normal(int64_t columns, uint64_t stream, Device device) {
  const Tensor t({heads.batch * tokens, columns}, Dtype::f32);
  kernels::fill_normal(t, 0.0, 1.0, 61, stream);
  return kernels::cast(t, Dtype::bf16).to(device);
}

struct Operands {
  Tensor q, k, v, d_o, slopes;

  Operands in_f32() const {
    const auto wide = [](const Tensor& t) { return kernels::cast(t, Dtype::f32); };
    return {wide(q), wide(k), wide(v), wide(d_o), slopes};
  }
  std::vector<Tensor> run() const {
    const auto forward = kernels::attention(q, k, v, heads, slopes);
    const auto gradient = kernels::attention_backward(q, k, v, forward, d_o, heads, slopes);
    return {forward.o, forward.log_sum, gradient.dq, gradient.dk, gradient.dv};
  }
};

}  // namespace

double attention_difference(int64_t dim, Device device) {
  // Slopes are powers of two: with them the bias, which the kernel rounds to bf16, is exact.
  const std::vector<float> slopes = {0.5f, 0.25f, 0.125f, 0.0625f};
  const Operands in{normal(heads.heads * dim, 1, device), normal(heads.kv_heads * dim, 2, device),
                    normal(heads.kv_heads * dim, 3, device), normal(heads.heads * dim, 4, device),
                    Tensor::from(slopes, {heads.heads}).to(device)};
  const std::vector<Tensor> tuned = in.run();
  const ReferenceKernels reference_kernels;
  const std::vector<Tensor> reference = in.in_f32().run();
  double largest = 0.0;
  for (size_t i = 0; i < tuned.size(); ++i) {
    const double difference = relative_difference(tuned[i], reference[i]);
    if (std::isnan(difference)) return difference;
    largest = std::max(largest, difference);
  }
  return largest;
}

}  // namespace cbq::tuned
