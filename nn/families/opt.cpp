// OPT (Zhang et al. 2022): learned positions, LayerNorm, ReLU, biases.
//
//   x = x + out_proj(attention(q_proj(n), k_proj(n), v_proj(n))),   n = self_attn_layer_norm(x)
//   x = x + fc2(relu(fc1(m))),                                      m = final_layer_norm(x)
//
// In the 350m model the norms stand behind the sums instead ("do_layer_norm_before": false), and
// token embeddings are narrower than the residual stream (project_in, project_out).
#include <nlohmann/json.hpp>

#include "autograd/functions.h"
#include "nn/families/family.h"
#include "nn/norm.h"

namespace cbq {
namespace {

constexpr double norm_eps = 1e-5;       // not a key of config.json
constexpr int32_t position_offset = 2;  // the first rows of embed_positions belong to no token

class OptBlock : public Block {
 public:
  OptBlock(const ModelConfig& c, Dtype dtype, Device device)
      : config_(c),
        attention_norm_(c.hidden_size, norm_eps, c.norm_affine, dtype, device),
        mlp_norm_(c.hidden_size, norm_eps, c.norm_affine, dtype, device),
        q_(c.hidden_size, c.hidden_size, c.enable_bias, dtype, device),
        k_(c.hidden_size, c.hidden_size, c.enable_bias, dtype, device),
        v_(c.hidden_size, c.hidden_size, c.enable_bias, dtype, device),
        out_(c.hidden_size, c.hidden_size, c.enable_bias, dtype, device),
        fc1_(c.hidden_size, c.intermediate_size, c.enable_bias, dtype, device),
        fc2_(c.intermediate_size, c.hidden_size, c.enable_bias, dtype, device) {}

  Var forward(const Var& x, const Sequence& s) override {
    const auto before = [&](const LayerNorm& norm, const Var& h) {
      return config_.norm_first ? norm.deferred(h) : Deferred(h);
    };
    const auto behind = [&](const LayerNorm& norm, const Var& h) {
      return config_.norm_first ? h : norm.forward(h);
    };
    const auto [q, k, v] = forward_each({&q_, &k_, &v_}, before(attention_norm_, x));
    const Var attended = attend(q, k, v, s, config_.num_heads, config_.num_heads);
    const Var middle = behind(attention_norm_, ag::add(x, out_.forward(attended)));
    const Var hidden = fc1_.forward(before(mlp_norm_, middle));
    return behind(mlp_norm_, ag::add(middle, fc2_.forward(Deferred(&ag::relu, hidden))));
  }

  void visit(const std::string& prefix, const ParameterVisitor& visitor) override {
    for (auto& [name, linear] : linears()) {
      if (name == "fc1") attention_norm_.visit(prefix + "self_attn_layer_norm.", visitor);
      linear->visit(prefix + name + ".", visitor);
    }
    mlp_norm_.visit(prefix + "final_layer_norm.", visitor);
  }

  std::vector<NamedLinear> linears() override {
    return {{"self_attn.q_proj", &q_},
            {"self_attn.k_proj", &k_},
            {"self_attn.v_proj", &v_},
            {"self_attn.out_proj", &out_},
            {"fc1", &fc1_},
            {"fc2", &fc2_}};
  }
  bool is_fc2(const std::string& name) const override { return name == "fc2"; }
  std::string attention_output_name() const override { return "self_attn.out_proj"; }

  std::vector<ScalingSite> scaling_sites() override {
    ScalingSite output{"self_attn.v_proj", {&out_}};
    output.producer = &v_;
    ScalingSite down{"fc1", {&fc2_}};
    down.producer = &fc1_;
    down.positive_only = true;
    if (!config_.norm_first) {
      // The block's input is the norm of the block before, and the residual stream as well.
      ScalingSite attention{"input", {&q_, &k_, &v_}};
      ScalingSite mlp{"self_attn_layer_norm", {&fc1_}};
      attention.obstacle = mlp.obstacle = "norms behind the sums are the residual stream, too";
      return {attention, output, mlp, down};
    }
    return {site_of("self_attn_layer_norm", {&q_, &k_, &v_}, attention_norm_), output,
            site_of("final_layer_norm", {&fc1_}, mlp_norm_), down};
  }

  QueryKeyRows query_key_rows() override {
    return {&q_, &k_, config_.num_heads, config_.num_heads, config_.head_dim};
  }

 private:
  static ScalingSite site_of(const std::string& name, std::vector<Linear*> consumers,
                             LayerNorm& norm) {
    ScalingSite site{name, std::move(consumers)};
    if (norm.weight.defined()) {
      site.norm_weight = &norm.weight;
      site.norm_bias = &norm.bias;
      site.norm_equivalent = &norm.equivalent;
    } else {
      site.obstacle = "the norm has no weight";
    }
    return site;
  }

  ModelConfig config_;
  LayerNorm attention_norm_, mlp_norm_;
  Linear q_, k_, v_, out_, fc1_, fc2_;
};

class OptModel : public Transformer {
 public:
  OptModel(const ModelConfig& c, Dtype dtype, Device device) : Transformer(c, dtype, device) {
    const auto matrix = [&](int64_t rows, int64_t columns) {
      return Var(Tensor({rows, columns}, dtype, device));
    };
    const int64_t narrow = c.embedding_size > 0 ? c.embedding_size : c.hidden_size;
    embedding_ = matrix(c.vocab_size, narrow);
    positions_ = matrix(c.max_position_embeddings + position_offset, c.hidden_size);
    if (narrow != c.hidden_size) {
      project_in_ = matrix(c.hidden_size, narrow);
      project_out_ = matrix(narrow, c.hidden_size);
    }
    has_final_norm_ = c.norm_first && c.final_norm;
    if (has_final_norm_) {
      final_norm_ = LayerNorm(c.hidden_size, norm_eps, c.norm_affine, dtype, device);
    }
    if (!c.tie_word_embeddings) lm_head_ = matrix(c.vocab_size, narrow);
  }

  Var embed(const Tensor& ids, const Sequence& s) override {
    check_sequence(ids, s);
    std::vector<int32_t> rows = positions_of(s);
    for (int32_t& row : rows) row += position_offset;
    const Tensor at = Tensor::from(rows, {s.batch * s.tokens}, Dtype::i32, device_);
    Var x = ag::embedding(ids, embedding_);
    if (project_in_.defined()) x = ag::linear(x, project_in_, Var());
    return ag::add(x, ag::embedding(at, positions_));
  }

  Var head(const Var& hidden) override {
    Var x = has_final_norm_ ? final_norm_.forward(hidden) : hidden;
    if (project_out_.defined()) x = ag::linear(x, project_out_, Var());
    return ag::linear(x, config.tie_word_embeddings ? embedding_ : lm_head_, Var());
  }

  void untie_head() override {
    if (!config.tie_word_embeddings) return;
    lm_head_ = Var(embedding_.value().clone());
    config.tie_word_embeddings = false;
  }
  ResidualEnds residual_ends() override {
    ResidualEnds ends;
    ends.centered = true;
    ends.embeddings = {&embedding_, &positions_};
    ends.head = &lm_head_;
    if (has_final_norm_) {
      ends.norm_weight = &final_norm_.weight;
      ends.norm_bias = &final_norm_.bias;
    }
    if (!config.norm_first) ends.obstacle = "norms behind the sums are the residual stream, too";
    if (project_in_.defined())
      ends.obstacle = "token embeddings are narrower than the residual stream";
    if (!config.norm_affine) ends.obstacle = "the norms have no weights";
    return ends;
  }

  std::string block_prefix(int64_t i) const override {
    return "model.decoder.layers." + std::to_string(i) + ".";
  }

  std::unique_ptr<Block> make_block() const override {
    return std::make_unique<OptBlock>(config, dtype_, device_);
  }

  void visit_embedding(const std::string& prefix, const ParameterVisitor& visitor) override {
    const std::string decoder = prefix + "model.decoder.";
    visitor(decoder + "embed_tokens.weight", embedding_);
    visitor(decoder + "embed_positions.weight", positions_);
    if (project_in_.defined()) visitor(decoder + "project_in.weight", project_in_);
  }
  void visit_head(const std::string& prefix, const ParameterVisitor& visitor) override {
    const std::string decoder = prefix + "model.decoder.";
    if (has_final_norm_) final_norm_.visit(decoder + "final_layer_norm.", visitor);
    if (project_out_.defined()) visitor(decoder + "project_out.weight", project_out_);
    if (lm_head_.defined()) visitor(prefix + "lm_head.weight", lm_head_);
  }

 private:
  Var embedding_, positions_, project_in_, project_out_;
  LayerNorm final_norm_;
  bool has_final_norm_ = false;
  Var lm_head_;
};

class OptFamily : public Family {
 public:
  std::vector<std::string> architectures() const override { return {"OPTForCausalLM"}; }
  std::string model_type() const override { return "opt"; }
  std::unique_ptr<Transformer> make(const ModelConfig& config, Dtype dtype,
                                    Device device) const override {
    return std::make_unique<OptModel>(config, dtype, device);
  }

  std::string base_prefix() const override { return "model."; }
  std::string embedding_name() const override { return "model.decoder.embed_tokens.weight"; }
  bool ignores(const std::string& name) const override { return name.ends_with("decoder.version"); }

  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    c.hidden_size = fields.required_size("hidden_size");
    c.intermediate_size = fields.required_size("ffn_dim");
    c.num_layers = fields.required_size("num_hidden_layers");
    c.num_heads = c.num_kv_heads = fields.required_size("num_attention_heads");
    c.head_dim = c.hidden_size / c.num_heads;
    c.max_position_embeddings = fields.size("max_position_embeddings", 2048);
    c.embedding_size = fields.size("word_embed_proj_dim", c.hidden_size);
    c.norm_eps = norm_eps;
    c.hidden_act = fields.text("activation_function", "relu");
    c.enable_bias = fields.flag("enable_bias", true);
    c.norm_first = fields.flag("do_layer_norm_before", true);
    c.final_norm = !fields.flag("_remove_final_layer_norm", false);
    c.norm_affine = fields.flag("layer_norm_elementwise_affine", true);
    c.tie_word_embeddings = true;
    c.bos_token_id = 2;
    c.eos_token_ids = {2};
  }

  void write_config(const ModelConfig& c, nlohmann::json& json) const override {
    json["hidden_size"] = c.hidden_size;
    json["ffn_dim"] = c.intermediate_size;
    json["num_hidden_layers"] = c.num_layers;
    json["num_attention_heads"] = c.num_heads;
    json["max_position_embeddings"] = c.max_position_embeddings;
    json["word_embed_proj_dim"] = c.embedding_size > 0 ? c.embedding_size : c.hidden_size;
    json["activation_function"] = c.hidden_act;
    json["enable_bias"] = c.enable_bias;
    json["do_layer_norm_before"] = c.norm_first;
    json["_remove_final_layer_norm"] = !c.final_norm;
    json["layer_norm_elementwise_affine"] = c.norm_affine;
  }

  void validate(const ModelConfig& c) const override {
    check_heads_divide(c);
    check(c.hidden_act == "relu", "unknown \"activation_function\" \"", c.hidden_act,
          "\"; known: relu");
    check(c.num_kv_heads == c.num_heads && c.head_dim * c.num_heads == c.hidden_size,
          "OPT's heads share nothing and divide \"hidden_size\" (", c.hidden_size, "), got ",
          c.num_heads, " heads of ", c.head_dim, ", ", c.num_kv_heads, " for keys");
  }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<OptFamily>());

}  // namespace
}  // namespace cbq
