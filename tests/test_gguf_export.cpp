// Results as GGUF files: the block formats, the file, the tokenizer, and the way back. Block
// formats are read by nn/gguf/gguf_blocks.h, which tests/test_gguf.cpp compares with the Python
// package gguf; tools/check_exports.py compares whole files with it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cbq/exporters/exporter.h"
#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "nn/gguf/gguf_model.h"
#include "tests/fixtures.h"
#include "tests/test_cli_support.h"
#include "tests/test_data.h"

namespace cbq::test::test_gguf_export {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

Settings settings_of(const json& changes) {
  Settings settings = method_settings("cbq_windows", 4, float_bits);
  settings.reconstruct = "none";
  settings.scale_type = "f16";
  // The fixtures' rows of 48 inputs are no multiple of 32.
  settings.layer_bits = "down_proj=16";
  apply_json(settings, changes);
  return settings;
}

std::unique_ptr<Transformer> quantized(const char* family, const json& changes) {
  auto model = load_model(fixture(family), Dtype::f32, Device::cpu());
  quantize(*model, {{1, 2, 3, 4}}, settings_of(changes), nullptr, {});
  return model;
}

std::map<std::string, std::vector<float>> weights_in(const GgufModel& model) {
  std::map<std::string, std::vector<float>> weights;
  for (const GgufWeight& weight : model.weights()) {
    model.read(weight, [&](std::span<const float> piece) {
      auto& all = weights[weight.name];
      all.insert(all.end(), piece.begin(), piece.end());
    });
  }
  return weights;
}

/// Parameters of the model, weights as its quantizers give them.
std::map<std::string, std::vector<float>> weights_of(Transformer& model) {
  std::map<std::string, std::vector<float>> weights;
  const auto keep = [&](const std::string& path, Var& p) {
    weights[path] = p.value().to_vector<float>();
  };
  model.visit_embedding("", keep);
  model.visit_head("", keep);
  for (int64_t b = 0; b < model.block_count(); ++b) {
    model.block(b).visit(model.block_prefix(b), keep);
  }
  for (const WindowLinear& l : linears_of(model, {0, model.block_count()})) {
    if (!l.linear->transform) continue;
    weights[l.path + ".weight"] =
        l.linear->transform->weight(l.linear->weight).value().to_vector<float>();
  }
  return weights;
}

class GgufExport : public ::testing::TestWithParam<const char*> {};

TEST_P(GgufExport, HoldsTheWeightsOfTheRunToTheBit) {
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3"}) {
    SCOPED_TRACE(family);
    const TemporaryFolder folder;
    const auto model = quantized(family, json::parse(GetParam()));
    for (const char* format : {"gguf", "gguf-dense"}) {
      SCOPED_TRACE(format);
      const fs::path to = folder / format;
      fs::create_directories(to);
      export_model(*exporters().make(format), *model, {to, Dtype::f32, false});
      const GgufModel read(GgufFile::open(to / "model.gguf"));
      EXPECT_EQ(weights_in(read), weights_of(*model));
      const ModelConfig &a = read.config(), &b = model->config;
      EXPECT_EQ(a.head_dim, b.head_dim);
      EXPECT_EQ(a.num_kv_heads, b.num_kv_heads);
      EXPECT_EQ(a.max_position_embeddings, b.max_position_embeddings);
      EXPECT_EQ(a.sliding_window, b.sliding_window);
      EXPECT_EQ(a.norm_eps, b.norm_eps);
      EXPECT_EQ(a.rope.theta, b.rope.theta);
      EXPECT_EQ(a.rope.type, b.rope.type);
      EXPECT_EQ(a.rope.factor, b.rope.type == "default" ? 1.0 : b.rope.factor);
      EXPECT_EQ(a.tie_word_embeddings, b.tie_word_embeddings);
      EXPECT_EQ(a.attention_bias, b.attention_bias);
      EXPECT_EQ(json_of(to / "config.json")["quantization_config"]["quant_method"], "gguf");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Grids, GgufExport,
    ::testing::Values(R"({"wbits": 4, "symmetric": true})", R"({"wbits": 2})",
                      R"({"wbits": 3, "group_size": 32})",
                      R"({"wbits": 4, "group_size": 32, "scale_type": "e5m6"})", R"({"wbits": 4})",
                      R"({"wbits": 8, "symmetric": true})",
                      R"({"wbits": 4, "symmetric": true, "granularity": "per_tensor"})",
                      R"({"wbits": 4, "layer_bits": "down_proj=16,v_proj=8", "symmetric": true})"));

TEST(GgufExportTypes, TensorsHaveTheTypesOfTheirGrids) {
  const TemporaryFolder folder;
  const auto model = quantized("llama", {{"wbits", 4}, {"scale_type", "e5m6"}});
  export_model(*exporters().make("gguf"), *model, {folder.path(), Dtype::bf16, false});
  const GgufFile file = GgufFile::open(folder / "model.gguf");
  EXPECT_STREQ(file.tensor("blk.0.attn_q.weight").format->name, "Q4_1");
  EXPECT_STREQ(file.tensor("blk.0.ffn_down.weight").format->name, "BF16");
  EXPECT_STREQ(file.tensor("token_embd.weight").format->name, "BF16");
  EXPECT_STREQ(file.tensor("blk.1.attn_norm.weight").format->name, "F32");
}

TEST(GgufObstacle, IsFoundBeforeTheRunAndNamesWhatHelps) {
  const auto refused = [](const char* family, const json& changes,
                          std::initializer_list<const char*> parts) {
    const ExportPlan plan = export_plan(ModelConfig::load(fixture(family)), settings_of(changes));
    expect_error<std::invalid_argument>(
        [&] { check_exportable(*exporters().make("gguf"), plan, "--export"); }, parts);
  };
  refused("llama", {{"scale_type", "f32"}}, {"scales are f16", "--scale-type f16", "gguf-dense"});
  refused("llama", {{"wbits", 8}}, {"8 bits with zero points", "--symmetric"});
  refused("llama", {{"layer_bits", ""}}, {"down_proj", "48", "--layer-bits NAME=16"});
  refused("llama", {{"group_size", 8}}, {"groups of 8", "groups of 32"});
  refused("llama", {{"abits", 8}}, {"activations", "--abits 16", "packed"});
  refused("llama", {{"rotation", "r4"}}, {"online transform", "gguf-dense"});
  refused("llama", {{"wbits", 16}, {"layer_bits", ""}}, {"no layer has codes"});
  for (const auto& [family, architecture] : {std::pair{"opt", "OPTForCausalLM"},
                                             {"granite", "GraniteForCausalLM"},
                                             {"smollm3", "SmolLM3ForCausalLM"},
                                             {"phi3", "Phi3ForCausalLM"},
                                             {"olmo2", "Olmo2ForCausalLM"},
                                             {"gemma2", "Gemma2ForCausalLM"},
                                             {"gemma3", "Gemma3ForCausalLM"},
                                             {"gpt2", "GPT2LMHeadModel"},
                                             {"qwen3-moe", "Qwen3MoeForCausalLM"},
                                             {"stablelm", "StableLmForCausalLM"},
                                             {"gpt-neox", "GPTNeoXForCausalLM"}}) {
    refused(family, {{"layer_bits", ""}}, {architecture, "only of LLaMA"});
  }
  refused("qwen2-yarn", json::object(), {"\"yarn\"", "rotary"});
}

}  // namespace
}  // namespace cbq::test::test_gguf_export
