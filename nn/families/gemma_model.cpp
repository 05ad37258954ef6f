// Gemma 2 (Gemma Team 2024) and Gemma 3 (Gemma Team 2025), the language models alone.
//
//   x = x + g1(o_proj(attention(rope(q), rope(k), v_proj(n)))),         n = input_layernorm(x),
//       q = q_proj(n), k = k_proj(n), in Gemma 3 behind norms of each head
//   x = x + g2(down_proj(gelu(gate_proj(m)) * up_proj(m))),     m = pre_feedforward_layernorm(x)
//
// with g1 post_attention_layernorm and g2 post_feedforward_layernorm. Every norm is an RMSNorm
// whose gain is 1 + its weight. Embeddings are multiplied by sqrt(hidden size). Some layers attend
// within a sliding window. In Gemma 2 scores and logits pass a soft cap, c tanh(s / c), in Gemma 3
// logits may; there the layers within the window have a rotary base of their own.
#include "nn/families/gemma_model.h"

#include <cmath>

#include "autograd/functions.h"

namespace cbq {
namespace {

Var geglu(const Var& gate, const Var& up) { return ag::mul(ag::gelu(gate), up); }

RopeConfig rope_of_local_layers(const ModelConfig& c) {
  if (c.local_theta == 0.0) return c.rope;
  RopeConfig rope;
  rope.theta = c.local_theta;
  return rope;
}

}  // namespace

Deferred CenteredNorm::deferred(const Var& x) const {
  const Var& weight = norm_.weight;
  const Tensor one(weight.shape(), weight.dtype(), weight.device());
  kernels::fill(one, 1.0);
  return Deferred(&ag::rms_norm, x, ag::add(weight, Var(one)), norm_.eps);
}

Var CenteredNorm::forward_parts(const Var& x) const {
  return ag::reshape(forward(ag::reshape(x, {-1, norm_.weight.size(0)})), x.shape());
}

GemmaBlock::GemmaBlock(const ModelConfig& c, const Rope* rope, Dtype dtype, Device device)
    : config_(c),
      rope_(rope),
      input_norm_(c.hidden_size, c.norm_eps, dtype, device),
      attention_norm_(c.hidden_size, c.norm_eps, dtype, device),
      middle_norm_(c.hidden_size, c.norm_eps, dtype, device),
      feed_forward_norm_(c.hidden_size, c.norm_eps, dtype, device),
      q_(c.hidden_size, c.num_heads * c.head_dim, c.attention_bias, dtype, device),
      k_(c.hidden_size, c.num_kv_heads * c.head_dim, c.attention_bias, dtype, device),
      v_(c.hidden_size, c.num_kv_heads * c.head_dim, c.attention_bias, dtype, device),
      o_(c.num_heads * c.head_dim, c.hidden_size, c.attention_output_bias, dtype, device),
      gate_(c.hidden_size, c.intermediate_size, false, dtype, device),
      up_(c.hidden_size, c.intermediate_size, false, dtype, device),
      down_(c.intermediate_size, c.hidden_size, false, dtype, device) {
  if (!c.qk_norm) return;
  q_norm_ = CenteredNorm(c.head_dim, c.norm_eps, dtype, device);
  k_norm_ = CenteredNorm(c.head_dim, c.norm_eps, dtype, device);
}

Var GemmaBlock::forward(const Var& x, const Sequence& s) {
  const auto turned = [&](const Var& heads, const CenteredNorm& norm) {
    const Var normed = config_.qk_norm ? norm.forward_parts(heads) : heads;
    return rotate(normed, *rope_, s, config_.head_dim);
  };
  const auto [q, k, v] = forward_each({&q_, &k_, &v_}, input_norm_.deferred(x));
  const Var attended =
      attend(scaled_queries(turned(q, q_norm_), config_), turned(k, k_norm_), v, s,
             config_.num_heads, config_.num_kv_heads, {Tensor(), config_.score_cap});
  const Var middle = ag::add(x, attention_norm_.forward(o_.forward(attended)));
  const auto [gate, up] = forward_each({&gate_, &up_}, middle_norm_.deferred(middle));
  const Var fed = down_.forward(Deferred(&geglu, gate, up));
  return ag::add(middle, feed_forward_norm_.forward(fed));
}

void GemmaBlock::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  input_norm_.visit(prefix + "input_layernorm.", visitor);
  for (auto& [name, linear] : linears()) linear->visit(prefix + name + ".", visitor);
  if (config_.qk_norm) {
    q_norm_.visit(prefix + "self_attn.q_norm.", visitor);
    k_norm_.visit(prefix + "self_attn.k_norm.", visitor);
  }
  attention_norm_.visit(prefix + "post_attention_layernorm.", visitor);
  middle_norm_.visit(prefix + "pre_feedforward_layernorm.", visitor);
  feed_forward_norm_.visit(prefix + "post_feedforward_layernorm.", visitor);
}

std::vector<NamedLinear> GemmaBlock::linears() {
  return {{"self_attn.q_proj", &q_}, {"self_attn.k_proj", &k_}, {"self_attn.v_proj", &v_},
          {"self_attn.o_proj", &o_}, {"mlp.gate_proj", &gate_}, {"mlp.up_proj", &up_},
          {"mlp.down_proj", &down_}};
}

std::vector<ScalingSite> GemmaBlock::scaling_sites() {
  ScalingSite attention{"input_layernorm", {&q_, &k_, &v_}};
  ScalingSite mlp{"pre_feedforward_layernorm", {&gate_, &up_}};
  attention.obstacle = mlp.obstacle = "the norm's gain is 1 + its weight";
  ScalingSite output{"self_attn.v_proj", {&o_}};
  output.producer = &v_;
  output.head_group = config_.num_heads / config_.num_kv_heads;
  output.head_dim = config_.head_dim;
  ScalingSite down{"mlp.up_proj", {&down_}};
  down.producer = &up_;
  down.row_writers = {&gate_, &up_};
  return {attention, output, mlp, down};
}

QueryKeyRows GemmaBlock::query_key_rows() {
  QueryKeyRows rows{&q_, &k_, config_.num_heads, config_.num_kv_heads, config_.head_dim};
  rows.rotary = true;
  if (config_.qk_norm) rows.obstacle = "norms of queries and keys undo every factor";
  return rows;
}

GemmaModel::GemmaModel(const ModelConfig& c, Dtype dtype, Device device)
    : LlamaModel(c, dtype, device),
      local_rope_(rope_of_local_layers(c), c.head_dim, device),
      final_norm_(c.hidden_size, c.norm_eps, dtype, device) {}

Var GemmaModel::embed(const Tensor& ids, const Sequence& s) {
  const std::vector<double> root = {std::sqrt(static_cast<double>(config.hidden_size))};
  const double rounded = Tensor::from(root, {1}, dtype_).item();  // as transformers has it
  return ag::scale(LlamaModel::embed(ids, s), rounded);
}

Var GemmaModel::head(const Var& hidden) {
  const Var& matrix = config.tie_word_embeddings ? embedding_ : lm_head_;
  const Var logits = ag::linear(final_norm_.forward(hidden), matrix, Var());
  return config.logit_cap > 0.0 ? ag::soft_cap(logits, config.logit_cap) : logits;
}

ResidualEnds GemmaModel::residual_ends() {
  ResidualEnds ends;
  ends.obstacle = "norms behind attention and feed-forward part write the residual stream";
  return ends;
}

std::unique_ptr<Block> GemmaModel::make_block_at(int64_t i) const {
  const std::vector<bool>& local = config.local_layers;
  const bool is_local = i < std::ssize(local) && local[static_cast<size_t>(i)];
  return std::make_unique<GemmaBlock>(config, is_local ? &local_rope_ : &rope_, dtype_, device_);
}

void GemmaModel::visit_head(const std::string& prefix, const ParameterVisitor& visitor) {
  final_norm_.visit(prefix + "model.norm.", visitor);
  if (lm_head_.defined()) visitor(prefix + "lm_head.weight", lm_head_);
}

}  // namespace cbq
