// What the families' config.json may and may not say, and tensors that do not fit it.
#include <gtest/gtest.h>

#include <map>

#include "nn/formats/json.h"
#include "tensor/runtime/notice.h"
#include "tests/fixtures.h"
#include "tests/test_data.h"

namespace cbq::test::test_family_configs {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// The fixture's config.json with changes; null removes a key.
ModelConfig changed(const std::string& name, const json& changes) {
  json config = read_json_file(fixture(name) / "config.json");
  for (const auto& [key, value] : changes.items()) {
    if (value.is_null()) {
      config.erase(key);
    } else {
      config[key] = value;
    }
  }
  return ModelConfig::from_json(config, "config.json");
}

void expect_refused(const std::string& name, const json& changes,
                    std::initializer_list<const char*> parts) {
  SCOPED_TRACE(name + " " + changes.dump());
  expect_error<std::runtime_error>([&] { changed(name, changes); }, parts);
}

TEST(FamilyConfig, SizesMustBeThere) {
  const std::map<std::string, std::vector<const char*>> required = {
      {"mistral", {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}},
      {"qwen3", {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}},
      {"opt", {"vocab_size", "hidden_size", "ffn_dim", "num_hidden_layers", "num_attention_heads"}},
      {"bloom-6-heads", {"vocab_size", "hidden_size", "n_layer", "n_head"}},
      {"gpt2", {"n_embd", "n_layer", "n_head", "n_positions"}},
      {"qwen3-moe",
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}},
      {"gemma2", {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}},
      {"phi3", {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}},
      {"gpt-neox",
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}}};
  for (const auto& [name, keys] : required) {
    for (const char* key : keys) {
      expect_refused(name, {{key, nullptr}}, {"config.json", key, "missing"});
    }
  }
}

TEST(FamilyConfig, ContradictionsAreNamed) {
  expect_refused("bloom-6-heads", {{"n_head", 5}}, {"\"hidden_size\" (24)", "multiple", "5"});
  expect_refused("opt", {{"num_attention_heads", 5}}, {"\"hidden_size\" (32)", "multiple"});
  expect_refused("opt", {{"activation_function", "gelu"}},
                 {"activation_function", "gelu", "known: relu"});
  expect_refused("bloom", {{"layer_norm_epsilon", -1}}, {"layer_norm_epsilon", "negative"});
  expect_refused("gpt-neox", {{"layer_norm_eps", -1}}, {"layer_norm_eps", "negative"});
  expect_refused("stablelm", {{"layer_norm_eps", -1}}, {"layer_norm_eps", "negative"});
  expect_refused("stablelm", {{"qk_layernorm", true}},
                 {"config.json", "qk_layernorm", "not implemented"});
  expect_refused("gpt-neox", {{"num_attention_heads", 5}}, {"\"hidden_size\" (32)", "multiple"});
  expect_refused("gpt-neox", {{"hidden_act", "relu"}}, {"hidden_act", "relu", "known: gelu"});
  expect_refused("mistral", {{"num_key_value_heads", 3}}, {"num_key_value_heads", "multiple"});
  expect_refused("mistral", {{"num_key_value_heads", nullptr}},  // absent: 8, more than heads
                 {"\"num_attention_heads\" (4)", "(8)"});
}

TEST(FamilyConfig, MultipliersOfGranite) {
  for (const char* key :
       {"embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"}) {
    expect_refused("granite", {{key, 0}}, {"config.json", key, "(0)", "positive"});
    expect_refused("granite", {{key, -2}}, {"config.json", key, "(-2)", "positive"});
    expect_refused("granite", {{key, "much"}}, {"config.json", key, "much"});
  }
  // Absent: 1, that of the scores, too, as in transformers.
  const ModelConfig c = changed("granite", {{"embedding_multiplier", nullptr},
                                            {"attention_multiplier", nullptr},
                                            {"residual_multiplier", nullptr},
                                            {"logits_scaling", nullptr}});
  for (const double multiplier :
       {c.embedding_multiplier, c.attention_multiplier, c.residual_multiplier, c.logits_divisor}) {
    EXPECT_EQ(multiplier, 1.0);
  }
}

TEST(FamilyConfig, LayersOfSmolLm3WithoutTheRotaryEmbedding) {
  using Layers = std::vector<bool>;
  EXPECT_EQ(changed("smollm3", json::object()).rotary_layers, (Layers{true, false}));
  const json more = {{"no_rope_layers", nullptr}, {"num_hidden_layers", 6}};
  EXPECT_EQ(changed("smollm3", more).rotary_layers,
            (Layers{true, false, true, false, true, false}));
  json by_default = more;
  by_default["no_rope_layer_interval"] = nullptr;
  EXPECT_EQ(changed("smollm3", by_default).rotary_layers,
            (Layers{true, true, true, false, true, true}));
  expect_refused("smollm3", {{"no_rope_layers", {1}}},
                 {"config.json", "no_rope_layers", "1 entries", "2 layers"});
  expect_refused("smollm3", {{"no_rope_layers", {1, 2}}}, {"config.json", "no_rope_layers", "2"});
  expect_refused("smollm3", {{"no_rope_layers", 1}}, {"no_rope_layers", "list of 0 and 1"});
  expect_refused("smollm3", {{"no_rope_layer_interval", 0}, {"no_rope_layers", nullptr}},
                 {"no_rope_layer_interval", "0"});
  EXPECT_EQ(changed("smollm3", {{"rope_parameters", nullptr}}).rope.theta, 2e6);
  EXPECT_EQ(changed("smollm3", {{"rope_parameters", nullptr}, {"rope_theta", 5e6}}).rope.theta,
            5e6);
  const json windowed = {
      {"use_sliding_window", true}, {"sliding_window", 8}, {"layer_types", nullptr}};
  EXPECT_EQ(changed("smollm3", windowed).context(), 8);
  EXPECT_EQ(changed("smollm3", {{"sliding_window", 8}}).context(), 32);  // switched off
}

TEST(FamilyConfig, LayersOfGemma3WithinTheWindow) {
  using Layers = std::vector<bool>;
  const ModelConfig c = changed("gemma3", json::object());
  EXPECT_EQ(c.local_layers, (Layers{true, false}));
  EXPECT_EQ(c.local_theta, 200.0);
  EXPECT_EQ(c.rope.theta, 1e5);
  EXPECT_EQ(c.rope.type, "linear");
  EXPECT_EQ(c.context(), 24);
  EXPECT_EQ(changed("gemma3", {{"layer_types", {"full_attention", "full_attention"}}}).context(),
            32);
  // The spelling of transformers before 5, and its defaults.
  const json old_style = {{"rope_parameters", nullptr},
                          {"layer_types", nullptr},
                          {"num_hidden_layers", 6},
                          {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8}}}};
  const ModelConfig old = changed("gemma3", old_style);
  EXPECT_EQ(old.local_layers, (Layers{true, true, true, true, true, false}));
  EXPECT_EQ(old.rope.theta, 1e6);
  EXPECT_EQ(old.rope.factor, 8);
  EXPECT_EQ(old.local_theta, 1e4);
  json more = old_style;
  more.update({{"sliding_window_pattern", 2}, {"rope_local_base_freq", 300}, {"rope_theta", 2e6}});
  const ModelConfig stated = changed("gemma3", more);
  EXPECT_EQ(stated.local_layers, (Layers{true, false, true, false, true, false}));
  EXPECT_EQ(stated.local_theta, 300);
  EXPECT_EQ(stated.rope.theta, 2e6);
  EXPECT_EQ(ModelConfig::from_json(stated.to_json(), "again").to_json(), stated.to_json());

  expect_refused("gemma3", {{"layer_types", {"full_attention"}}},
                 {"config.json", "layer_types", "1 entries", "2 layers"});
  expect_refused("gemma3", {{"layer_types", {"full_attention", "chunked_attention"}}},
                 {"config.json", "layer_types", "sliding_attention"});
  expect_refused("gemma3", {{"use_bidirectional_attention", true}},
                 {"config.json", "use_bidirectional_attention", "not implemented"});
  expect_refused("gemma3", {{"hidden_activation", "silu"}},
                 {"config.json", "hidden_activation", "silu", "gelu_pytorch_tanh"});
  expect_refused("gemma3", {{"query_pre_attn_scalar", 0}}, {"query_pre_attn_scalar", "0"});
  expect_refused("gemma3", {{"rope_parameters", {{"rope_type", "default"}}}},
                 {"config.json", "rope_parameters", "full_attention", "missing"});
}

TEST(FamilyConfig, SoftCapsOfGemma) {
  const ModelConfig c = changed("gemma2", json::object());
  EXPECT_EQ(c.local_layers, (std::vector<bool>{true, false}));
  EXPECT_EQ(c.context(), 24);
  EXPECT_EQ(c.score_cap, 0.1);
  EXPECT_EQ(c.logit_cap, 1.5);
  // Absent: those of the published models, and every second layer within the window. Null: none.
  const ModelConfig absent = changed("gemma2", {{"attn_logit_softcapping", nullptr},
                                                {"final_logit_softcapping", nullptr},
                                                {"layer_types", nullptr},
                                                {"num_hidden_layers", 5}});
  EXPECT_EQ(absent.score_cap, 50.0);
  EXPECT_EQ(absent.logit_cap, 30.0);
  EXPECT_EQ(absent.local_layers, (std::vector<bool>{true, false, true, false, true}));
  json config = read_json_file(fixture("gemma2") / "config.json");
  config["attn_logit_softcapping"] = config["final_logit_softcapping"] = nullptr;
  const ModelConfig none = ModelConfig::from_json(config, "config.json");
  EXPECT_EQ(none.score_cap, 0.0);
  EXPECT_EQ(none.logit_cap, 0.0);
  EXPECT_EQ(ModelConfig::from_json(none.to_json(), "again").to_json(), none.to_json());
  EXPECT_EQ(changed("gemma3", json::object()).score_cap, 0.0);
  EXPECT_EQ(changed("gemma3-logit-cap", json::object()).logit_cap, 2.0);
  expect_refused("gemma3", {{"attn_logit_softcapping", 50}},
                 {"config.json", "attn_logit_softcapping", "does not apply it", "null"});
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    for (const char* name : {"gemma2", "gemma3"}) {
      expect_refused(name, {{key, 0}}, {"config.json", key, "(0)", "positive, or null"});
      expect_refused(name, {{key, -50}}, {"config.json", key, "(-50)"});
      expect_refused(name, {{key, "high"}}, {"config.json", key, "high"});
    }
  }
  expect_refused("gemma2", {{"layer_types", {"full_attention"}}},
                 {"config.json", "layer_types", "1 entries", "2 layers"});
  expect_refused("gemma2", {{"hidden_activation", "relu"}}, {"hidden_activation", "relu"});
  expect_refused("gemma2", {{"use_bidirectional_attention", true}},
                 {"config.json", "use_bidirectional_attention", "not implemented"});
}

TEST(FamilyConfig, FieldsOfGpt2) {
  const ModelConfig c = changed("gpt2", json::object());
  EXPECT_EQ(c.intermediate_size, 128);  // "n_inner": null
  EXPECT_EQ(c.max_position_embeddings, 32);
  EXPECT_TRUE(c.tie_word_embeddings);
  EXPECT_EQ(changed("gpt2", {{"n_inner", 100}}).to_json().at("n_inner"), 100);
  for (const char* name : {"gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu"}) {
    EXPECT_EQ(changed("gpt2", {{"activation_function", name}}).hidden_act, name);
  }
  expect_refused("gpt2", {{"activation_function", "tanh"}},
                 {"config.json", "activation_function", "tanh", "gelu_new", "relu"});
  expect_refused("gpt2", {{"add_cross_attention", true}},
                 {"config.json", "add_cross_attention", "not implemented"});
  expect_refused("gpt2", {{"n_head", 5}}, {"\"hidden_size\" (32)", "multiple", "5"});
  expect_refused("gpt2", {{"layer_norm_epsilon", -1}}, {"layer_norm_epsilon", "negative"});
  expect_refused("gpt2", {{"scale_attn_weights", "no"}}, {"config.json", "scale_attn_weights"});
  // transformers 5.24: GPT2Config.from_dict(dict(n_embd=32, hidden_size=64, n_layer=2,
  // num_hidden_layers=3)) has n_embd 64, n_layer 3.
  const NoticeRecorder notices;
  EXPECT_EQ(changed("gpt2", {{"num_hidden_layers", 3}}).num_layers, 3);
  EXPECT_EQ(changed("gpt2", {{"hidden_size", 64}}).hidden_size, 64);
  EXPECT_EQ(notices.lines().size(), 2u);
}

TEST(FamilyConfig, FieldsOfQwen3Moe) {
  const ModelConfig c = changed("qwen3-moe", json::object());
  EXPECT_EQ(c.num_experts, 8);
  EXPECT_EQ(c.experts_per_token, 2);
  EXPECT_EQ(c.expert_size, 16);
  EXPECT_TRUE(c.normalized_experts);
  EXPECT_TRUE(c.qk_norm);
  EXPECT_EQ(c.sparse_layers, (std::vector<bool>{true, true}));
  EXPECT_EQ(changed("qwen3-moe-mixed", json::object()).sparse_layers,
            (std::vector<bool>{true, false}));
  const ModelConfig stepped =
      changed("qwen3-moe", {{"decoder_sparse_step", 2}, {"num_hidden_layers", 5}});
  EXPECT_EQ(stepped.sparse_layers, (std::vector<bool>{false, true, false, true, false}));
  EXPECT_EQ(stepped.to_json().at("decoder_sparse_step"), 2);
  EXPECT_EQ(changed("qwen3-moe", {{"mlp_only_layers", {0, 7}}}).sparse_layers,
            (std::vector<bool>{false, true}));
  EXPECT_EQ(changed("qwen3-moe", {{"mlp_only_layers", nullptr}}).sparse_layers, c.sparse_layers);
  EXPECT_EQ(changed("qwen3-moe", {{"use_sliding_window", true}, {"sliding_window", 9}}).context(),
            9);
  EXPECT_EQ(changed("qwen3-moe", {{"use_sliding_window", false}, {"sliding_window", 9}}).context(),
            32);
  // transformers 5.24: Qwen3MoeConfig.from_dict(dict(num_experts=4, num_local_experts=6)) has 6.
  const NoticeRecorder notices;
  EXPECT_EQ(changed("qwen3-moe", {{"num_experts", 4}}).num_experts, 8);
  EXPECT_EQ(notices.lines().size(), 1u);
}

TEST(FamilyConfig, WrongFieldsOfQwen3Moe) {
  const char* name = "qwen3-moe";
  expect_refused(name, {{"num_experts_per_tok", 9}},
                 {"config.json", "num_experts_per_tok", "9", "at most", "num_experts", "8"});
  expect_refused(name, {{"num_experts_per_tok", 0}}, {"config.json", "num_experts_per_tok"});
  expect_refused(name, {{"num_local_experts", 0}}, {"config.json", "num_local_experts"});
  expect_refused(name, {{"num_local_experts", 5000}}, {"num_experts", "5000", "at most 4096"});
  expect_refused(name, {{"moe_intermediate_size", -1}}, {"config.json", "moe_intermediate_size"});
  expect_refused(name, {{"decoder_sparse_step", 0}}, {"config.json", "decoder_sparse_step"});
  expect_refused(name, {{"mlp_only_layers", 1}}, {"config.json", "mlp_only_layers", "list"});
  expect_refused(name, {{"mlp_only_layers", {-1}}}, {"config.json", "mlp_only_layers"});
  expect_refused(name, {{"norm_topk_prob", "yes"}}, {"config.json", "norm_topk_prob"});
  expect_refused(name, {{"hidden_act", "gelu"}}, {"config.json", "hidden_act", "silu"});
}

TEST(FamilyConfig, ScoresOfGpt2InF32AreNoted) {
  const NoticeRecorder notices;
  changed("gpt2", {{"reorder_and_upcast_attn", true}});
  ASSERT_EQ(notices.lines().size(), 1u);
  EXPECT_NE(notices.lines()[0].find("reorder_and_upcast_attn"), std::string::npos);
}

TEST(FamilyConfig, PartsOfHeadsThatTurn) {
  EXPECT_EQ(changed("gpt-neox", json::object()).rotary_dim(), 4);
  const auto old_style = [](const json& changes) {
    json all = {{"rope_parameters", nullptr}};
    all.update(changes);
    return changed("gpt-neox", all);
  };
  EXPECT_EQ(old_style({{"rotary_pct", 0.75}, {"rotary_emb_base", 500}}).rotary_dim(), 6);
  EXPECT_EQ(old_style({{"rotary_pct", 0.75}, {"rotary_emb_base", 500}}).rope.theta, 500);
  EXPECT_EQ(old_style(json::object()).rotary_dim(), 2);  // a quarter of 8
  const json written = old_style({{"rotary_pct", 0.75}, {"rotary_emb_base", 500}}).to_json();
  EXPECT_EQ(written.at("rotary_pct"), 0.75);
  EXPECT_EQ(written.at("rotary_emb_base"), 500);
  EXPECT_FALSE(written.contains("rope_theta"));
  for (const double share : {0.0, -0.5, 1.5, 0.1, 0.4}) {  // 0.4 of 8: 3 elements
    expect_refused("gpt-neox", {{"rope_parameters", nullptr}, {"rotary_pct", share}},
                   {"config.json", "rotary embedding turns", "even number"});
  }
  expect_refused("gpt-neox", {{"rope_parameters", nullptr}, {"rotary_pct", "all"}},
                 {"config.json", "rotary_pct", "all"});
  expect_refused("phi3", {{"rope_parameters", {{"rope_type", "linear"}, {"factor", 2}}}},
                 {"config.json", "linear", "longrope"});
  expect_refused("phi3-partial-longrope", {{"original_max_position_embeddings", nullptr}},
                 {"config.json", "original_max_position_embeddings", "missing"});
}

/// transformers 4 (configuration_phi3.py) takes three fields of rope_scaling, and no other.
TEST(FamilyConfig, LongropeOfPhi3StaysInItsOldSpelling) {
  const json scaling = {{"type", "longrope"},
                        {"short_factor", {1.0, 1.1, 1.2, 1.3, 1.4, 1.5}},
                        {"long_factor", {1.5, 2.0, 2.5, 3.0, 3.5, 4.0}}};
  const ModelConfig c =
      changed("phi3-partial-longrope",
              {{"rope_parameters", nullptr}, {"rope_theta", 10000.0}, {"rope_scaling", scaling}});
  EXPECT_EQ(c.rope.type, "longrope");
  const json written = c.to_json();
  EXPECT_EQ(written.at("rope_scaling"), scaling);
  EXPECT_EQ(written.at("original_max_position_embeddings"), 8);
  EXPECT_EQ(ModelConfig::from_json(written, "config.json").rope.long_factor, c.rope.long_factor);
}

TEST(FamilyConfig, OfTwoSpellingsTheOneOfTransformersCounts) {
  // transformers 5.24: BloomConfig.from_dict(dict(n_layer=3, num_hidden_layers=2, n_head=4,
  // num_attention_heads=2, hidden_size=48, n_embed=32)) has n_layer 2, n_head 2, hidden_size 32.
  const NoticeRecorder notices;
  const ModelConfig c = changed("bloom", {{"n_layer", 3},
                                          {"num_hidden_layers", 2},
                                          {"n_head", 4},
                                          {"num_attention_heads", 2},
                                          {"hidden_size", 48}});
  EXPECT_EQ(c.num_layers, 2);
  EXPECT_EQ(c.num_heads, 2);
  EXPECT_EQ(c.hidden_size, 32);
  const std::vector<std::string> lines = notices.lines();
  ASSERT_EQ(lines.size(), 3u);
  for (const auto& line : lines) {
    EXPECT_NE(line.find("two names for one size"), std::string::npos) << line;
  }
  const json written = c.to_json();
  EXPECT_EQ(written.at("n_layer"), 2);
  EXPECT_EQ(written.at("num_hidden_layers"), 2);
  EXPECT_EQ(written.at("hidden_size"), 32);
}

TEST(FamilyConfig, UnknownArchitectureIsAnsweredWithTheKnownOnes) {
  expect_refused("opt", {{"architectures", {"FalconForCausalLM"}}},
                 {"FalconForCausalLM", "BloomForCausalLM", "GraniteForCausalLM", "LlamaForCausalLM",
                  "MistralForCausalLM", "OPTForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"});
}

TEST(FamilyConfig, WindowsOfMistralAndQwen) {
  EXPECT_EQ(changed("mistral", {{"max_position_embeddings", 8}}).context(), 8);
  EXPECT_EQ(changed("mistral", {{"sliding_window", nullptr}}).sliding_window, 4096);  // absent
  json config = read_json_file(fixture("mistral") / "config.json");
  config["sliding_window"] = nullptr;
  EXPECT_EQ(ModelConfig::from_json(config, "x").sliding_window, 0);
  EXPECT_EQ(ModelConfig::from_json(config, "x").context(), 32);

  const json on = {{"use_sliding_window", true}, {"sliding_window", 8}, {"layer_types", nullptr}};
  const auto with = [&](const json& more) {
    json all = on;
    for (const auto& [key, value] : more.items()) all[key] = value;
    return changed("qwen2", all).sliding_window;
  };
  EXPECT_EQ(changed("qwen2", {{"sliding_window", 8}}).sliding_window, 0);  // switched off
  EXPECT_EQ(with({{"max_window_layers", 28}}), 0);                         // no layer is beyond
  EXPECT_EQ(with({{"max_window_layers", 2}}), 0);
  EXPECT_EQ(with({{"max_window_layers", 1}}), 8);
  EXPECT_EQ(with({{"layer_types", {"full_attention", "sliding_attention"}}}), 8);
  EXPECT_EQ(with({{"layer_types", {"full_attention", "full_attention"}}}), 0);
}

TEST(FamilyConfig, DefaultsAreThoseOfTransformers) {
  EXPECT_EQ(changed("qwen3", {{"head_dim", nullptr}}).head_dim, 128);
  const ModelConfig qwen = changed("qwen2", {{"bos_token_id", nullptr}, {"eos_token_id", nullptr}});
  EXPECT_EQ(qwen.bos_token_id, -1);
  EXPECT_TRUE(qwen.eos_token_ids.empty());
  EXPECT_FALSE(changed("qwen3", json::object()).attention_bias);
  const ModelConfig qwen2 = changed("qwen2", json::object());
  EXPECT_TRUE(qwen2.attention_bias);
  EXPECT_FALSE(qwen2.attention_output_bias);
  const ModelConfig opt = changed("opt", {{"word_embed_proj_dim", nullptr},
                                          {"enable_bias", nullptr},
                                          {"do_layer_norm_before", nullptr},
                                          {"max_position_embeddings", nullptr}});
  EXPECT_EQ(opt.embedding_size, 32);
  EXPECT_TRUE(opt.enable_bias && opt.norm_first && opt.final_norm && opt.norm_affine);
  EXPECT_TRUE(opt.tie_word_embeddings);
  EXPECT_EQ(opt.context(), 2048);
  const ModelConfig bloom = changed("bloom", {{"layer_norm_epsilon", nullptr}});
  EXPECT_EQ(bloom.norm_eps, 1e-5);
  EXPECT_EQ(bloom.intermediate_size, 128);
  EXPECT_TRUE(bloom.tie_word_embeddings);
}

TEST(FamilyConfig, WrittenInTheSpellingOfTheSource) {
  const json written = changed("bloom", json::object()).to_json();
  EXPECT_EQ(written.at("n_embed"), 32);
  EXPECT_FALSE(written.contains("hidden_size") || written.contains("n_head"));
}

// ---- tensors ------------------------------------------------------------------------------------

/// A copy of a fixture that a test spoils.
class SpoiledFolder : public ::testing::Test {
 protected:
  void use(const std::string& name) {
    fs::create_directory(folder_ / "m");
    fs::copy_file(fixture(name) / "config.json", folder_ / "m/config.json");
    const Checkpoint good(fixture(name));
    for (const std::string& tensor : good.names()) tensors_[tensor] = good.load(tensor);
  }
  void set(const std::string& key, const json& value) {
    json config = read_json_file(folder_ / "m/config.json");
    config[key] = value;
    folder_.write("m/config.json", config.dump());
  }
  void rename(const std::string& from, const std::string& to) {
    auto node = tensors_.extract(from);
    ASSERT_FALSE(node.empty()) << from;
    node.key() = to;
    tensors_.insert(std::move(node));
  }
  void expect_refused(std::initializer_list<const char*> parts) {
    write_safetensors(folder_ / "m/model.safetensors", tensors_);
    expect_error<std::runtime_error>([&] { load_model(folder_ / "m", Dtype::f32, Device::cpu()); },
                                     parts);
  }
  void expect_loads() {
    write_safetensors(folder_ / "m/model.safetensors", tensors_);
    EXPECT_NO_THROW(load_model(folder_ / "m", Dtype::f32, Device::cpu()));
  }
  TemporaryFolder folder_;
  std::map<std::string, Tensor> tensors_;
};

TEST_F(SpoiledFolder, VocabularyLargerThanTheEmbedding) {
  use("opt");
  set("vocab_size", 70);
  expect_refused({"wrong shape", "model.decoder.embed_tokens.weight [64, 32]", "[70, 32]"});
}

TEST_F(SpoiledFolder, ContextLongerThanThePositions) {
  use("opt");
  set("max_position_embeddings", 64);
  expect_refused({"embed_positions.weight [34, 32]", "expected [66, 32]"});
}

TEST_F(SpoiledFolder, UnexpectedNamesAreListedBesideTheExpected) {
  use("bloom");
  rename("h.1.mlp.dense_h_to_4h.weight", "h.1.mlp.up.weight");
  expect_refused(
      {"missing: transformer.h.1.mlp.dense_h_to_4h.weight", "not expected: h.1.mlp.up.weight"});
}

TEST_F(SpoiledFolder, AModelOfAnotherFamily) {
  use("opt");
  set("architectures", {"LlamaForCausalLM"});
  set("intermediate_size", 48);
  expect_refused({"missing: model.embed_tokens.weight", "in all", "present but not expected",
                  "model.decoder.embed_positions.weight"});
}

TEST_F(SpoiledFolder, BiasesThatTheConfigDenies) {  // transformers ignores and names them, too
  use("opt");
  set("enable_bias", false);
  const NoticeRecorder notices;
  expect_loads();
  ASSERT_EQ(notices.lines().size(), 1u);
  for (const char* part : {"OPTForCausalLM", "does not have", "fc1.bias", "(12 in all)"}) {
    EXPECT_NE(notices.lines()[0].find(part), std::string::npos) << notices.lines()[0];
  }
}

TEST_F(SpoiledFolder, BiasesThatTheFileLacks) {
  use("qwen2");
  tensors_.erase("model.layers.0.self_attn.k_proj.bias");
  expect_refused({"missing: model.layers.0.self_attn.k_proj.bias"});
}

TEST_F(SpoiledFolder, FusedWeightOfTheWrongHeight) {
  use("bloom-6-heads");
  tensors_["transformer.h.0.self_attention.query_key_value.weight"] =
      Tensor::zeros({24, 24}, Dtype::f16);
  expect_refused({"transformer.h.0.self_attention.query_key_value.weight [24, 24]", "[72, 24]"});
}

TEST_F(SpoiledFolder, WhatPublishersLeaveBehindIsIgnored) {
  use("opt-post-norm");
  tensors_["lm_head.weight"] = tensors_.at("decoder.embed_tokens.weight");
  tensors_["decoder.version"] = Tensor::zeros({1}, Dtype::f32);
  const NoticeRecorder notices;
  expect_loads();
  EXPECT_TRUE(notices.lines().empty());
}

TEST_F(SpoiledFolder, PickledWeightsAreNamedAndNotRead) {
  use("opt");
  folder_.write("m/pytorch_model.bin", "not even a pickle");
  expect_error<std::runtime_error>(
      [&] { load_model(folder_ / "m", Dtype::f32, Device::cpu()); },
      {"pytorch_model.bin", "never unpickled", "python3 tools/convert_checkpoint.py"});
}

}  // namespace
}  // namespace cbq::test::test_family_configs
