// A quantized folder holds the model that was saved, to the last bit, and nothing else is read.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/safetensors.h"
#include "nn/perplexity.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_quantized_folder {
namespace {

std::vector<float> logits_of(Transformer& model) {
  NoGrad none;
  const std::vector<int32_t> ids = tiny_segments(1, 14, 99)[0];
  return model.forward(Tensor::from(ids, {14}), {1, 14}).value().to_vector<float>();
}

Settings quick(const nlohmann::json& overrides) {
  Settings settings = method_settings("cbq_windows", 4, float_bits);
  settings.epochs = 1;
  apply_json(settings, overrides);
  return settings;
}

std::unique_ptr<Transformer> quantized_model(const nlohmann::json& overrides) {
  auto model = tiny_model();
  quantize(*model, tiny_segments(4, 12), quick(overrides), nullptr, {});
  return model;
}

/// Weights that are on the grid lie in memory once.
void expect_one_copy(Transformer& model) {
  for (int64_t b = 0; b < model.block_count(); ++b) {
    for (const NamedLinear& l : model.block(b).linears()) {
      if (!l.linear->transform) continue;
      EXPECT_EQ(l.linear->weight.value().raw(),
                l.linear->transform->weight(l.linear->weight).value().raw())
          << "block " << b << ", " << l.name << ": two copies";
    }
  }
}

class RoundTrip : public ::testing::TestWithParam<const char*> {};

TEST_P(RoundTrip, ALoadedModelComputesTheSameBits) {
  const TemporaryFolder folder;
  const auto model = quantized_model(nlohmann::json::parse(GetParam()));
  ASSERT_NE(logits_of(*model), logits_of(*tiny_model())) << "nothing was quantized";
  save_quantized(*model, folder / "q");
  ASSERT_TRUE(is_quantized_folder(folder / "q"));
  const auto loaded = load_any_model(folder / "q", Dtype::f32, Device::cpu());
  EXPECT_EQ(logits_of(*loaded), logits_of(*model));
  expect_one_copy(*loaded);
  const auto segments = tiny_segments(5, 14, 8);
  EXPECT_EQ(perplexity(*loaded, segments).nll_sum, perplexity(*model, segments).nll_sum);
  // What was loaded can be saved again.
  save_quantized(*loaded, folder / "again");
  for (const char* file : {"model.safetensors", "config.json"}) {
    EXPECT_EQ(bytes_of(folder / "again" / file), bytes_of(folder / "q" / file)) << file;
  }
}

// Quick rates where inputs are quantized: their clip values must have left the start.
INSTANTIATE_TEST_SUITE_P(
    QuantizedFolder, RoundTrip,
    ::testing::Values(R"({"wbits": 2})",                                                      //
                      R"({"wbits": 3, "granularity": "per_group", "group_size": 8})",         //
                      R"({"wbits": 4, "abits": 4, "rate_activation": 0.1, "keep": "last"})",  //
                      R"({"wbits": 8, "granularity": "per_tensor", "symmetric": true,
                          "abits": 8, "act_granularity": "per_tensor", "act_dynamic": false})",
                      R"({"wbits": 16, "abits": 4, "rate_activation": 0.1, "keep": "last"})",  //
                      R"({"wbits": 4, "abits": 4, "quantize_attention": true})",
                      R"({"wbits": 2, "layer_bits": "down_proj=16,*.0.self_attn.*=5"})",
                      R"({"wbits": 2, "reconstruct": "none"})"));

TEST(QuantizedFolder, CodesTakeTheirBitsAndNoMore) {
  const TemporaryFolder folder;
  save_quantized(*quantized_model({{"wbits", 3}}), folder / "q");
  const SafetensorsFile file = SafetensorsFile::open(folder / "q" / "model.safetensors");
  const TensorInfo& codes = file.info("model.layers.1.mlp.down_proj.codes");
  EXPECT_EQ(codes.dtype, "U8");
  EXPECT_EQ(codes.shape, (Shape{16, 24 * 3 / 8}));
  EXPECT_FALSE(file.has("model.layers.1.mlp.down_proj.weight"));
  EXPECT_EQ(file.info("model.norm.weight").dtype, "F32");
}

TEST(QuantizedFolder, WhatTheCheckpointHeldInHalfItsBytesStaysSo) {
  for (const Dtype half : {Dtype::bf16, Dtype::f16}) {
    const TemporaryFolder folder;
    save_model(*tiny_model(), folder / "m", half);
    const auto model = load_model(folder / "m", Dtype::f32, Device::cpu());
    // One value that the half type does not have: pre-processing makes such.
    model->visit("", [&](const std::string& path, Var& p) {
      if (path == "model.norm.weight") p.value().data<float>()[3] = 1.0009765f + 1e-6f;
    });
    quantize(*model, tiny_segments(4, 12), quick({{"wbits", 4}}), nullptr, {});
    save_quantized(*model, folder / "q");
    const SafetensorsFile file = SafetensorsFile::open(folder / "q" / "model.safetensors");
    const char* name = half == Dtype::bf16 ? "BF16" : "F16";
    EXPECT_EQ(file.info("model.embed_tokens.weight").dtype, name);
    EXPECT_EQ(file.info("lm_head.weight").dtype, name);
    EXPECT_EQ(file.info("model.layers.0.input_layernorm.weight").dtype, name);
    EXPECT_EQ(file.info("model.norm.weight").dtype, "F32");
    EXPECT_LT(std::filesystem::file_size(folder / "q" / "model.safetensors"),
              std::filesystem::file_size(folder / "m" / "model.safetensors"));
    const auto loaded = load_quantized(folder / "q", Dtype::f32, Device::cpu());
    EXPECT_EQ(logits_of(*loaded), logits_of(*model));
    save_quantized(*loaded, folder / "again");
    EXPECT_EQ(bytes_of(folder / "again/model.safetensors"),
              bytes_of(folder / "q/model.safetensors"));
  }
}

TEST(QuantizedFolder, AModelThatIsNotNeededInFloatingPointDropsItsWeights) {
  const auto kept = quantized_model({{"wbits", 3}});
  const auto dropped = tiny_model();
  RunHooks hooks;
  hooks.keep_originals = false;
  const int64_t before = memory_statistics(Device::cpu()).current_bytes;
  quantize(*dropped, tiny_segments(4, 12), quick({{"wbits", 3}}), nullptr, hooks);
  EXPECT_EQ(logits_of(*dropped), logits_of(*kept));
  expect_one_copy(*dropped);
  EXPECT_GT(memory_statistics(Device::cpu()).current_bytes, before) << "codes and scales";
  const TemporaryFolder folder;
  save_quantized(*kept, folder / "kept");
  save_quantized(*dropped, folder / "dropped");
  EXPECT_EQ(bytes_of(folder / "dropped/model.safetensors"),
            bytes_of(folder / "kept/model.safetensors"));
}

TEST(QuantizedFolder, ADenseExportIsAnOrdinaryModel) {
  const TemporaryFolder folder;
  const auto model = quantized_model({{"wbits", 2}});
  save_dense(*model, folder / "dense", Dtype::f32);
  EXPECT_FALSE(is_quantized_folder(folder / "dense"));
  EXPECT_EQ(logits_of(*load_model(folder / "dense", Dtype::f32, Device::cpu())), logits_of(*model));
  // The same from a loaded folder, whose config.json has a quantization section.
  save_quantized(*model, folder / "q");
  save_dense(*load_quantized(folder / "q", Dtype::f32, Device::cpu()), folder / "dense2",
             Dtype::f32);
  EXPECT_EQ(bytes_of(folder / "dense2/model.safetensors"),
            bytes_of(folder / "dense/model.safetensors"));
  EXPECT_FALSE(json_of(folder / "dense2/config.json").contains("quantization_config"));
}

TEST(QuantizedFolder, AnUnfinishedModelIsNotSaved) {
  const TemporaryFolder folder;
  const auto model = tiny_model();
  Linear& linear = *model->blocks[0]->linears()[0].linear;
  linear.transform = std::make_shared<QuantizedTransform>(
      std::make_unique<WeightQuantizer>(linear.weight.value(), WeightConfig{}, RoundingConfig{},
                                        "a layer", 0, 0),
      nullptr);
  expect_error<std::invalid_argument>([&] { save_quantized(*model, folder / "q"); },
                                      {"model.layers.0.", "not hardened"});
  EXPECT_FALSE(std::filesystem::exists(folder / "q"));
}

/// A good folder that a test breaks in one place.
class BrokenFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    save_quantized(*quantized_model({{"wbits", 4}, {"abits", 4}, {"reconstruct", "none"}}), q());
    const SafetensorsFile file = SafetensorsFile::open(q() / "model.safetensors");
    for (const std::string& name : file.names()) tensors_[name] = file.load(name);
    config_ = json_of(q() / "config.json");
  }
  std::filesystem::path q() const { return folder_ / "q"; }
  void write() {
    write_safetensors(q() / "model.safetensors", tensors_);
    write_text_atomically(q() / "config.json", config_.dump());
  }
  void expect_refused(std::initializer_list<const char*> parts) {
    write();
    expect_error<std::runtime_error>([&] { load_quantized(q(), Dtype::f32, Device::cpu()); },
                                     parts);
  }
  nlohmann::json& layer() {
    return config_["quantization_config"]["layers"]["model.layers.0.mlp.up_proj"];
  }

  TemporaryFolder folder_;
  std::map<std::string, Tensor> tensors_;
  nlohmann::json config_;
};

TEST_F(BrokenFolder, MissingCodes) {
  tensors_.erase("model.layers.0.mlp.up_proj.codes");
  expect_refused({"model.layers.0.mlp.up_proj.codes is missing", "quantize again"});
}

TEST_F(BrokenFolder, MissingParameter) {
  tensors_.erase("model.norm.weight");
  expect_refused({"model.norm.weight is missing"});
}

TEST_F(BrokenFolder, CodesOfAnotherShape) {
  layer()["weight"]["bits"] = 3;
  expect_refused({"model.layers.0.mlp.up_proj.codes", "[24, 8]", "[24, 6]"});
}

TEST_F(BrokenFolder, ScaleOfAnotherDtype) {
  Tensor& scale = tensors_["model.layers.0.mlp.up_proj.scale"];
  scale = kernels::cast(scale, Dtype::bf16);
  expect_refused({"model.layers.0.mlp.up_proj.scale is bf16", "f32"});
}

TEST_F(BrokenFolder, ScaleThatIsNoNumber) {
  kernels::fill(tensors_["model.layers.0.mlp.up_proj.scale"],
                std::numeric_limits<double>::quiet_NaN());
  expect_refused({"model.layers.0.mlp.up_proj", "NaN", "quantize again"});
}

TEST_F(BrokenFolder, GroupSizeThatDoesNotDivide) {
  layer()["weight"]["group_size"] = 5;
  expect_refused({"model.layers.0.mlp.up_proj", "5", "16"});
}

TEST_F(BrokenFolder, BitsThatCannotBe) {
  layer()["weight"]["bits"] = 9;
  expect_refused({"model.layers.0.mlp.up_proj", "bits", "[1, 8]"});
}

TEST_F(BrokenFolder, GridsThatDoNotExist) {
  const nlohmann::json good = config_;
  const auto refused = [&](const char* part, const char* key, const char* value) {
    config_ = good;
    layer()[part][key] = value;
    expect_refused({"config.json", "model.layers.0.mlp.up_proj", value});
  };
  refused("weight", "granularity", "nonsense");
  refused("weight", "granularity", "per_token");  // exists, but not for weights
  refused("input", "granularity", "nonsense");
  refused("input", "granularity", "per_channel");
  refused("input", "symmetric_form", "nonsense");
}

TEST_F(BrokenFolder, LayerThatTheModelDoesNotHave) {
  config_["quantization_config"]["layers"]["model.layers.7.mlp.up_proj"] = layer();
  expect_refused({"model.layers.7.mlp.up_proj", "not one of the model's"});
}

TEST_F(BrokenFolder, NewerFormat) {
  config_["quantization_config"]["format_version"] = 5;
  expect_refused({"format version 5", "newer version"});
}

TEST_F(BrokenFolder, AnotherProgramsFormat) {
  config_["quantization_config"]["quant_method"] = "hqq";
  write();
  expect_error<std::runtime_error>([&] { is_quantized_folder(q()); },
                                   {"config.json", "hqq", "floating-point model"});
}

TEST_F(BrokenFolder, TruncatedWeights) {
  std::filesystem::resize_file(q() / "model.safetensors", 3000);
  expect_error<std::runtime_error>([&] { load_quantized(q(), Dtype::f32, Device::cpu()); },
                                   {"model.safetensors"});
}

}  // namespace
}  // namespace cbq::test::test_quantized_folder
