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
      {"bloom-6-heads", {"vocab_size", "hidden_size", "n_layer", "n_head"}}};
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
  expect_refused("mistral", {{"num_key_value_heads", 3}}, {"num_key_value_heads", "multiple"});
  expect_refused("mistral", {{"num_key_value_heads", nullptr}},  // absent: 8, more than heads
                 {"\"num_attention_heads\" (4)", "(8)"});
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
  expect_refused("opt", {{"architectures", {"GPT2LMHeadModel"}}},
                 {"GPT2LMHeadModel", "BloomForCausalLM", "LlamaForCausalLM", "MistralForCausalLM",
                  "OPTForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"});
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
