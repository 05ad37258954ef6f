// Qwen3-MoE (Yang et al. 2025): Qwen3's attention, and in most blocks experts (nn/experts.h) in
// place of the feed-forward part:
//
//   m = x + o_proj(attention(...)),   y = m + experts(post_attention_layernorm(m))
//
// Block i is sparse if i + 1 is a multiple of "decoder_sparse_step" and "mlp_only_layers" does not
// list it; the others have LLaMA's feed-forward part of "intermediate_size".
#include "autograd/functions.h"
#include "nn/experts.h"
#include "nn/families/llama.h"
#include "nn/families/llama_model.h"
#include "nn/formats/json.h"

namespace cbq {
namespace {

/// More than any model has; a damaged config.json is refused before so many layers are made.
constexpr int64_t most_experts = 4096;

ExpertsConfig experts_of(const ModelConfig& c) {
  return {c.hidden_size, c.expert_size, c.num_experts, c.experts_per_token, c.normalized_experts};
}

class SparseLlamaBlock : public LlamaBlock {
 public:
  SparseLlamaBlock(const ModelConfig& c, const Rope* rope, Dtype dtype, Device device)
      : LlamaBlock(c, rope, true, dtype, device, false), experts_(experts_of(c), dtype, device) {}

  Var forward(const Var& x, const Sequence& s) override {
    const Var m = middle(x, s);
    return ag::add(m, experts_.forward(post_norm_.forward(m), expert_rows));
  }
  int64_t expert_count() const override { return config_.num_experts; }
  bool is_fc2(const std::string& name) const override { return name.ends_with(".down_proj"); }

  void visit(const std::string& prefix, const ParameterVisitor& visitor) override {
    input_norm_.visit(prefix + "input_layernorm.", visitor);
    for (auto& [name, linear] : attention_linears()) linear->visit(prefix + name + ".", visitor);
    post_norm_.visit(prefix + "post_attention_layernorm.", visitor);
    experts_.visit(prefix + "mlp.", visitor);
    q_norm_.visit(prefix + "self_attn.q_norm.", visitor);
    k_norm_.visit(prefix + "self_attn.k_norm.", visitor);
  }

  std::vector<NamedLinear> linears() override {
    std::vector<NamedLinear> all = attention_linears();
    for (NamedLinear& l : experts_.linears("mlp.")) all.push_back(std::move(l));
    return all;
  }

  std::vector<ScalingSite> scaling_sites() override {
    std::vector<ScalingSite> sites = LlamaBlock::scaling_sites();
    sites.pop_back();  // of the feed-forward part that this block does not have
    sites.back().consumers = experts_.readers();
    sites.back().router = &experts_.router();
    for (ScalingSite& site : experts_.scaling_sites("mlp.")) sites.push_back(std::move(site));
    return sites;
  }

 private:
  std::vector<NamedLinear> attention_linears() {
    return {{"self_attn.q_proj", &q_},
            {"self_attn.k_proj", &k_},
            {"self_attn.v_proj", &v_},
            {"self_attn.o_proj", &o_}};
  }

  Experts experts_;
};

class Qwen3MoeModel : public LlamaModel {
 public:
  using LlamaModel::LlamaModel;
  std::unique_ptr<Block> make_block_at(int64_t i) const override {
    const auto place = static_cast<size_t>(i);
    if (place >= config.sparse_layers.size() || !config.sparse_layers[place]) {
      return LlamaModel::make_block_at(i);
    }
    return std::make_unique<SparseLlamaBlock>(config, &rope_, dtype_, device_);
  }
};

/// "mlp_only_layers": numbers of blocks; null: none.
std::vector<int64_t> dense_layers(const ConfigFields& fields) {
  std::vector<int64_t> layers;
  const nlohmann::json& list = fields.at("mlp_only_layers");
  if (list.is_null()) return layers;
  if (!list.is_array())
    fail(fields.what(), ": \"mlp_only_layers\" must be a list of block numbers");
  for (const nlohmann::json& entry : list) {
    layers.push_back(json_int(entry, "mlp_only_layers", fields.what(), 0, max_config_size));
  }
  return layers;
}

std::vector<bool> sparse_layers(const ConfigFields& fields, int64_t layers) {
  const int64_t step = fields.size("decoder_sparse_step", 1);
  std::vector<bool> sparse;
  for (int64_t i = 0; i < layers; ++i) sparse.push_back((i + 1) % step == 0);
  for (const int64_t i : dense_layers(fields)) {
    if (i < layers) sparse[static_cast<size_t>(i)] = false;
  }
  return sparse;
}

class Qwen3MoeFamily : public LlamaFamily {
 public:
  std::vector<std::string> architectures() const override { return {"Qwen3MoeForCausalLM"}; }
  std::string model_type() const override { return "qwen3_moe"; }
  std::unique_ptr<Transformer> make(const ModelConfig& config, Dtype dtype,
                                    Device device) const override {
    return std::make_unique<Qwen3MoeModel>(config, dtype, device);
  }

  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    c.max_position_embeddings = 32768;
    c.bos_token_id = -1;
    c.eos_token_ids.clear();
    read_shared(fields, c);
    c.attention_bias = c.attention_output_bias = fields.flag("attention_bias", false);
    c.qk_norm = true;
    if (fields.flag("use_sliding_window", false)) {
      c.sliding_window = fields.size("sliding_window", 4096);
    }
    const bool counted = fields.has("num_local_experts") || fields.has("num_experts");
    c.num_experts = counted ? fields.required_size({"num_local_experts", "num_experts"}) : 128;
    c.experts_per_token = fields.size("num_experts_per_tok", 8);
    c.expert_size = fields.size("moe_intermediate_size", 768);
    c.normalized_experts = fields.flag("norm_topk_prob", false);
    c.sparse_layers = sparse_layers(fields, c.num_layers);
  }

  void write_config(const ModelConfig& c, nlohmann::json& json) const override {
    write_shared(c, json);
    json["attention_bias"] = c.attention_bias;
    if (!json.contains("use_sliding_window")) {
      json["use_sliding_window"] = c.sliding_window > 0;
      if (c.sliding_window > 0) json["sliding_window"] = c.sliding_window;
    }
    if (c.num_experts == 0) return;  // a shape of another family: the defaults of this one
    write_field(json, {"num_experts", "num_local_experts"}, c.num_experts);
    json["num_experts_per_tok"] = c.experts_per_token;
    json["moe_intermediate_size"] = c.expert_size;
    json["norm_topk_prob"] = c.normalized_experts;
    if (sparse_layers({json, "config.json"}, c.num_layers) == c.sparse_layers) return;
    json["decoder_sparse_step"] = 1;
    json["mlp_only_layers"] = nlohmann::json::array();
    for (size_t i = 0; i < c.sparse_layers.size(); ++i) {
      if (!c.sparse_layers[i]) json["mlp_only_layers"].push_back(i);
    }
  }

  void validate(const ModelConfig& c) const override {
    LlamaFamily::validate(c);
    check(c.num_experts <= most_experts, "\"num_experts\" (", c.num_experts, ") must be at most ",
          most_experts);
    check(c.experts_per_token <= c.num_experts, "\"num_experts_per_tok\" (", c.experts_per_token,
          ") must be at most \"num_experts\" (", c.num_experts, ")");
  }

 protected:
  int64_t default_kv_heads() const override { return 4; }
  bool has_free_head_dim() const override { return true; }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<Qwen3MoeFamily>());

}  // namespace
}  // namespace cbq
