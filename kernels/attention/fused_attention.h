// Causal attention as kernels of its own: scores never reach memory. kernels/attention/attention.cu
// asks whether they cover a call, and is their reference kernel.
#pragma once

#include <initializer_list>

#include "kernels/ops.h"

namespace cbq::tuned {

/// Which form attention takes where both can run.
enum class AttentionForm { fused, tiles };

/// The form of this process: CBQ_ATTENTION (tensor/runtime/environment.h), read once.
AttentionForm attention_form();

/// The operands of a call, already checked; `slopes` may be undefined.
struct AttentionOperands {
  const Tensor &q, &k, &v;
  const Tensor& slopes;
  kernels::AttentionHeads heads;

  int64_t tokens() const { return q.size(0) / heads.batch; }
  int64_t dim() const { return q.size(1) / heads.heads; }
};

/// True where the two functions below can run: bf16 on a GPU whose blocks may have the shared
/// memory, heads of 64, 80, 96 or 128, 16-byte addresses, CBQ_FAST and CBQ_ATTENTION not against
/// it. `more`: further operands whose addresses count.
bool covers_attention(const AttentionOperands& in, std::initializer_list<const Tensor*> more = {});

/// As kernels::attention; `result` has its tensors. (Scores are not rounded to bf16 before ALiBi's
/// bias is added and the softmax taken, as those of the reference kernel are; the bias is rounded
/// alike.)
void attention_forward(const AttentionOperands& in, const kernels::AttentionResult& result);

/// As kernels::attention_backward; every element of the result is written. A group's query heads
/// are summed in `parts` blocks per tile of keys (a divisor of heads / kv_heads; 0: as many as fill
/// a GPU, by the shapes alone), and several parts take 8 bytes of scratch each for every element of
/// k.
void attention_backward(const AttentionOperands& in, const kernels::AttentionResult& forward,
                        const Tensor& d_o, const kernels::AttentionGradient& result, int parts = 0);

}  // namespace cbq::tuned
