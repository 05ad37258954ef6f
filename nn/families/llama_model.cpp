// LLaMA (Touvron et al. 2023): RMSNorm, rotary embedding, grouped-query attention, SwiGLU.
//
//   n = input_layernorm(x)
//   x = x + r o_proj(attention(rope(q_proj(n)), rope(k_proj(n)), v_proj(n)))
//   m = post_attention_layernorm(x)
//   x = x + r down_proj(silu(gate_proj(m)) * up_proj(m))
//
// Options, by which other architectures differ: biases, norms of queries and keys, layers without
// the rotary embedding, the residual multiplier r (1 in LLaMA) and those of embedding, scores and
// logits.
#include "nn/families/llama_model.h"

#include <cmath>

#include "autograd/functions.h"

namespace cbq {
namespace {

Var times(const Var& x, double factor) { return factor == 1.0 ? x : ag::scale(x, factor); }

}  // namespace

Var scaled_queries(const Var& q, const ModelConfig& c) {
  if (c.attention_multiplier == 0.0) return q;
  return times(q, c.attention_multiplier * std::sqrt(static_cast<double>(c.head_dim)));
}

LlamaBlock::LlamaBlock(const ModelConfig& c, const Rope* rope, bool turns, Dtype dtype,
                       Device device, bool dense)
    : config_(c),
      rope_(rope),
      turns_(turns),
      input_norm_(c.hidden_size, c.norm_eps, dtype, device),
      post_norm_(c.hidden_size, c.norm_eps, dtype, device),
      q_(c.hidden_size, c.num_heads * c.head_dim, c.attention_bias, dtype, device),
      k_(c.hidden_size, c.num_kv_heads * c.head_dim, c.attention_bias, dtype, device),
      v_(c.hidden_size, c.num_kv_heads * c.head_dim, c.attention_bias, dtype, device),
      o_(c.num_heads * c.head_dim, c.hidden_size, c.attention_output_bias, dtype, device) {
  if (dense) {
    gate_ = Linear(c.hidden_size, c.intermediate_size, c.mlp_bias, dtype, device);
    up_ = Linear(c.hidden_size, c.intermediate_size, c.mlp_bias, dtype, device);
    down_ = Linear(c.intermediate_size, c.hidden_size, c.mlp_bias, dtype, device);
  }
  if (!c.qk_norm) return;
  q_norm_ = RmsNorm(c.head_dim, c.norm_eps, dtype, device);
  k_norm_ = RmsNorm(c.head_dim, c.norm_eps, dtype, device);
}

Var LlamaBlock::attended(const Var& q, const Var& k, const Var& v, const Sequence& s) const {
  const auto turned = [&](const Var& heads) {
    return turns_ ? rotate(heads, *rope_, s, config_.head_dim) : heads;
  };
  return attend(scaled_queries(turned(q), config_), turned(k), v, s, config_.num_heads,
                config_.num_kv_heads);
}

Var LlamaBlock::middle(const Var& x, const Sequence& s) const {
  auto [q, k, v] = forward_each({&q_, &k_, &v_}, input_norm_.deferred(x));
  if (config_.qk_norm) {
    q = q_norm_.forward_parts(q);
    k = k_norm_.forward_parts(k);
  }
  return ag::add(x, times(o_.forward(attended(q, k, v, s)), config_.residual_multiplier));
}

Var LlamaBlock::forward(const Var& x, const Sequence& s) {
  const Var m = middle(x, s);
  const auto [gate, up] = forward_each({&gate_, &up_}, post_norm_.deferred(m));
  const Var y = down_.forward(Deferred(&ag::swiglu, gate, up));
  return ag::add(m, times(y, config_.residual_multiplier));
}

void LlamaBlock::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  input_norm_.visit(prefix + "input_layernorm.", visitor);
  for (auto& [name, linear] : linears()) {
    if (name == "mlp.gate_proj") post_norm_.visit(prefix + "post_attention_layernorm.", visitor);
    linear->visit(prefix + name + ".", visitor);
  }
  if (!config_.qk_norm) return;
  q_norm_.visit(prefix + "self_attn.q_norm.", visitor);
  k_norm_.visit(prefix + "self_attn.k_norm.", visitor);
}

std::vector<NamedLinear> LlamaBlock::linears() {
  return {{"self_attn.q_proj", &q_}, {"self_attn.k_proj", &k_}, {"self_attn.v_proj", &v_},
          {"self_attn.o_proj", &o_}, {"mlp.gate_proj", &gate_}, {"mlp.up_proj", &up_},
          {"mlp.down_proj", &down_}};
}

std::vector<ScalingSite> LlamaBlock::scaling_sites() {
  ScalingSite attention{"input_layernorm", {&q_, &k_, &v_}};
  attention.norm_weight = &input_norm_.weight;
  attention.norm_equivalent = &input_norm_.equivalent;
  ScalingSite output{"self_attn.v_proj", {&o_}};
  output.producer = &v_;
  output.head_group = config_.num_heads / config_.num_kv_heads;
  output.head_dim = config_.head_dim;
  ScalingSite mlp{"post_attention_layernorm", {&gate_, &up_}};
  mlp.norm_weight = &post_norm_.weight;
  mlp.norm_equivalent = &post_norm_.equivalent;
  ScalingSite down{"mlp.up_proj", {&down_}};
  down.producer = &up_;
  down.row_writers = {&gate_, &up_};
  return {attention, output, mlp, down};
}

QueryKeyRows LlamaBlock::query_key_rows() {
  QueryKeyRows rows{&q_, &k_, config_.num_heads, config_.num_kv_heads, config_.head_dim};
  rows.rotary = turns_;
  if (config_.qk_norm) rows.obstacle = "norms of queries and keys undo every factor";
  return rows;
}

LlamaModel::LlamaModel(const ModelConfig& c, Dtype dtype, Device device)
    : Transformer(c, dtype, device),
      rope_(c.rope, c.rotary_dim(), device),
      embedding_(Tensor({c.vocab_size, c.hidden_size}, dtype, device)),
      norm_(c.hidden_size, c.norm_eps, dtype, device) {
  if (!c.tie_word_embeddings) lm_head_ = Var(Tensor({c.vocab_size, c.hidden_size}, dtype, device));
}

Var LlamaModel::embed(const Tensor& ids, const Sequence& s) {
  check_sequence(ids, s);
  return times(ag::embedding(ids, embedding_), config.embedding_multiplier);
}

Var LlamaModel::head(const Var& hidden) {
  const Var& matrix = config.tie_word_embeddings ? embedding_ : lm_head_;
  return times(ag::linear(norm_.forward(hidden), matrix, Var()), 1.0 / config.logits_divisor);
}

void LlamaModel::untie_head() {
  if (!config.tie_word_embeddings) return;
  lm_head_ = Var(embedding_.value().clone());
  config.tie_word_embeddings = false;
}

ResidualEnds LlamaModel::residual_ends() {
  ResidualEnds ends;
  ends.embeddings = {&embedding_};
  ends.norm_weight = &norm_.weight;
  ends.head = &lm_head_;
  return ends;
}

std::string LlamaModel::block_prefix(int64_t i) const {
  return "model.layers." + std::to_string(i) + ".";
}

std::unique_ptr<Block> LlamaModel::make_block_at(int64_t i) const {
  const std::vector<bool>& turns = config.rotary_layers;
  const bool all = turns.empty() || i >= static_cast<int64_t>(turns.size());
  return std::make_unique<LlamaBlock>(config, &rope_, all || turns[static_cast<size_t>(i)], dtype_,
                                      device_);
}

void LlamaModel::visit_embedding(const std::string& prefix, const ParameterVisitor& visitor) {
  visitor(prefix + "model.embed_tokens.weight", embedding_);
}

void LlamaModel::visit_head(const std::string& prefix, const ParameterVisitor& visitor) {
  norm_.visit(prefix + "model.norm.", visitor);
  if (lm_head_.defined()) visitor(prefix + "lm_head.weight", lm_head_);
}

}  // namespace cbq
