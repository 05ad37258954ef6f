// Block: one decoder layer, the unit that windows are made of.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/attention/attention_scores.h"
#include "nn/linear.h"

namespace cbq {

struct BlockCache;
class VarlenRows;
class Rope;

/// How the rows of a [batch * tokens, hidden] activation divide.
struct Sequence {
  int64_t batch = 1;
  int64_t tokens = 0;
  /// If given, all rows are one batch, and this says what each of them reads
  /// (kernels/attention/varlen_rows.h): sequences of any lengths that share beginnings. For
  /// inference only; outlives the forward pass.
  const VarlenRows* varlen = nullptr;
  /// If given, each sequence has read `past` tokens before, whose keys and values are in the cache,
  /// and `tokens` new ones follow; theirs are added (nn/decoder.h). For inference only.
  BlockCache* cache = nullptr;
  int64_t past = 0;
};

struct NamedLinear {
  std::string name;  // below the block's prefix, e.g. "self_attn.q_proj"
  Linear* linear;
};

/// An activation x that some linears read, and what produces it. An equivalent transformation
/// scales every channel of x (docs/method.md, CFP):
///   y = W x = (W diag(s)) (diag(1/s) x);   the producer takes the factor 1/s.
struct ScalingSite {
  std::string name;                // e.g. "input_layernorm"
  std::vector<Linear*> consumers;  // all linears that read this activation
  Var* norm_weight = nullptr;      // producer is a norm: its weight (and bias) are divided ...
  Var* norm_bias = nullptr;
  /// Where the norm looks for its parameters while factors are learned.
  std::shared_ptr<const ParameterTransform>* norm_equivalent = nullptr;
  Linear* producer = nullptr;  // ... or a linear: its output rows (and bias) are
  /// Channel c of the consumers' input comes from row `c / (group * head_dim) * head_dim + c %
  /// head_dim` of the producer: several query heads share a key-value head. 1: one to one.
  int64_t head_group = 1;
  int64_t head_dim = 0;
  /// The producer is a fused projection of `parts` parts, its rows [head][part][head_dim]: only
  /// the rows of `part` produce this activation.
  int64_t parts = 1, part = 0;
  /// The producer is a fused projection of parts one behind the other: the rows that make this
  /// activation begin here.
  int64_t first_row = 0;
  /// Between producer and consumers stands a function with f(a x) = a f(x) for a > 0 only (ReLU).
  bool positive_only = false;
  /// Linears whose output row c alone makes channel c, one to one through elementwise functions
  /// (gate and up of SwiGLU): what a permutation of the channels permutes, also where no factor
  /// passes. Empty: the producer alone, if there is one.
  std::vector<Linear*> row_writers = {};
  /// A matrix [experts, channels] that reads this activation beside the consumers, in floating
  /// point (nn/experts.h).
  Var* router = nullptr;
  /// Non-empty: why nothing can be folded here; such a site is reported as skipped.
  std::string obstacle = {};
};

/// Which rows of which linears make queries and keys. q k^T stays what it is when a row of the
/// queries is divided by a factor and the rows of the keys that it meets are multiplied by it:
/// row (h, i) of query head h meets row (h / (heads / kv_heads), i) of the keys. Where a rotary
/// embedding comes between, rows i and i + head_dim / 2 of a head need the same factor.
struct QueryKeyRows {
  Linear* queries = nullptr;
  Linear* keys = nullptr;  // the same linear where they are fused
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  /// Rows of a fused projection are [head][part][head_dim].
  int64_t parts = 1, query_part = 0, key_part = 0;
  /// Where the rows of the keys begin in a projection of parts one behind the other.
  int64_t first_key_row = 0;
  bool rotary = false;
  /// Non-empty: why no factor can be moved.
  std::string obstacle = {};
};

/// What enters the products of attention: queries and keys behind the rotary embedding, and values.
enum class AttentionOperand { queries, keys, values };
inline constexpr AttentionOperand attention_operands[] = {
    AttentionOperand::queries, AttentionOperand::keys, AttentionOperand::values};
/// "queries", ...
const char* name_of(AttentionOperand operand);
/// Under which the attention of a block, and one of its operands, are known beside its linears:
/// "model.layers.0.attention", "model.layers.0.attention.queries".
std::string attention_path(const std::string& block_prefix);
std::string attention_path(const std::string& block_prefix, AttentionOperand operand);

class QuantizedAttention;  // quant/quantized_attention.h

/// Quantizes the operands of the attention products (implemented in quant/; nn/ knows only this
/// interface).
class AttentionTransform {
 public:
  virtual ~AttentionTransform() = default;
  /// x [tokens, heads * head_dim], all heads of an operand -> what enters the product.
  /// Differentiable.
  virtual Var operand(const Var& x, int64_t head_dim, AttentionOperand which) = 0;
  /// The quantizers that this transform consists of; null: it is something else.
  virtual QuantizedAttention* quantizers() { return nullptr; }
};

class Block : public Module {
 public:
  /// x [batch * tokens, hidden] -> the same shape: the residual stream after this block.
  virtual Var forward(const Var& x, const Sequence& sequence) = 0;
  /// The linear layers that are quantized, in execution order.
  virtual std::vector<NamedLinear> linears() = 0;
  /// Whether this is the last linear of the feed-forward part ("FC2" in the paper's CBQ* rows), or
  /// of one of its experts.
  virtual bool is_fc2(const std::string& name) const = 0;
  /// The linear that writes the attention's result into the residual stream.
  virtual std::string attention_output_name() const = 0;
  virtual std::vector<ScalingSite> scaling_sites() = 0;
  virtual QueryKeyRows query_key_rows() {
    return {.obstacle = "the family does not say which rows make queries and keys"};
  }
  /// How many experts the feed-forward part consists of; 0: it is not divided (nn/experts.h).
  virtual int64_t expert_count() const { return 0; }
  /// Those of `attention_transform`, or null.
  QuantizedAttention* attention_quantizers() const {
    return attention_transform ? attention_transform->quantizers() : nullptr;
  }

  /// Applied to queries, keys and values; none: floating point.
  std::shared_ptr<AttentionTransform> attention_transform;
  /// What every head's queries and keys (behind the rotary embedding) pass before that, as a part
  /// of the model: T on rows [head_dim] with T(q) T(k)^T = q k^T, so that the function stays what
  /// it was. none: nothing.
  std::shared_ptr<const StoredTransform> attention_online;
  /// If given, forward passes add to element e the rows that expert e gets, e < expert_count().
  std::vector<int64_t>* expert_rows = nullptr;
  /// The equivalent transformation that is, or was, learned in this block; none: there is none.
  std::shared_ptr<BlockTransform> equivalent;

 protected:
  /// Rotary embedding of x [rows, heads * head_dim] at the rows' positions.
  static Var rotate(const Var& x, const Rope& rope, const Sequence& sequence, int64_t head_dim);
  /// Causal attention (ag::attention, kernels::varlen_attention, kernels::cached_attention) of what
  /// attention_online and attention_transform make of q [rows, heads * head_dim], k and v
  /// [rows, kv_heads * head_dim].
  Var attend(const Var& q, const Var& k, const Var& v, const Sequence& sequence, int64_t heads,
             int64_t kv_heads, const kernels::AttentionScores& scores = {}) const;
};

/// The block's linears in execution order, those that read one activation (ScalingSite::consumers)
/// in a group of their own: q k v | o | gate up | down. Each expert reads rows of its own.
std::vector<std::vector<NamedLinear>> linears_by_input(Block& block);

}  // namespace cbq
