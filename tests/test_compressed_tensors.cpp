// The format "compressed-tensors", read back by loops that share nothing with the writer.
// tools/check_exports.py compares it with the Python package itself.
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "cbq/exporters/exporter.h"
#include "cbq/global_transforms.h"
#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "tests/fixtures.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_compressed_tensors {
namespace {

using nlohmann::json;

constexpr const char* format = "compressed-tensors";

Settings settings_of(const json& changes) {
  Settings settings = method_settings("cbq_windows", 4, float_bits);
  settings.reconstruct = "none";
  apply_json(settings, changes);
  return settings;
}

std::unique_ptr<Transformer> quantized(const char* family, const json& changes) {
  auto model = load_model(fixture(family), Dtype::f32, Device::cpu());
  const Settings settings = settings_of(changes);
  apply_global_transforms(*model, settings);
  quantize(*model, {{1, 2, 3, 4}}, settings, nullptr, {});
  return model;
}

void write(Transformer& model, const std::filesystem::path& to, Dtype dtype = Dtype::f32) {
  export_model(*exporters().make(format), model, {to, dtype, false});
}

/// Code `index` of a stream of `bits`-bit codes in 32-bit words, lowest bits first, bit by bit.
int code_at(const std::vector<int32_t>& words, int64_t index, int bits) {
  int code = 0;
  for (int b = 0; b < bits; ++b) {
    const int64_t at = index * bits + b;
    const auto word = static_cast<uint32_t>(words[static_cast<size_t>(at / 32)]);
    code |= static_cast<int>(word >> (at % 32) & 1u) << b;
  }
  return code;
}

/// A column [rows] of a matrix [rows, columns].
std::vector<int32_t> column(const std::vector<int32_t>& x, int64_t columns, int64_t c) {
  std::vector<int32_t> result;
  for (size_t i = static_cast<size_t>(c); i < x.size(); i += static_cast<size_t>(columns)) {
    result.push_back(x[i]);
  }
  return result;
}

/// (q - z) s of a layer, by the format's description: codes and zero points are signed.
std::vector<float> decompressed(const SafetensorsFile& file, const std::string& layer, int bits,
                                bool symmetric) {
  int64_t shape[2];
  EXPECT_EQ(file.info(layer + ".weight_shape").dtype, "I64");
  std::memcpy(shape, file.bytes(layer + ".weight_shape").data(), sizeof shape);
  const int64_t out = shape[0], in = shape[1];
  const auto words = file.load(layer + ".weight_packed").to_vector<int32_t>();
  const int64_t row_words = static_cast<int64_t>(words.size()) / out;
  EXPECT_EQ(row_words, (in * bits + 31) / 32);
  const Tensor scales = file.load(layer + ".weight_scale");
  const auto scale = scales.to_vector<float>();
  const int64_t groups = scales.size(1);
  std::vector<int32_t> zeros;
  if (!symmetric) zeros = file.load(layer + ".weight_zero_point").to_vector<int32_t>();
  const int half = 1 << (bits - 1);
  std::vector<float> w;
  for (int64_t r = 0; r < out; ++r) {
    const std::vector<int32_t> row(words.begin() + r * row_words,
                                   words.begin() + (r + 1) * row_words);
    for (int64_t c = 0; c < in; ++c) {
      const int64_t g = c / (in / groups);
      const int z = symmetric ? 0 : code_at(column(zeros, groups, g), r, bits) - half;
      const int q = code_at(row, c, bits) - half;
      w.push_back(static_cast<float>(q - z) * scale[static_cast<size_t>(r * groups + g)]);
    }
  }
  return w;
}

class CompressedTensors : public ::testing::TestWithParam<const char*> {};

TEST_P(CompressedTensors, HoldsTheWeightsOfTheRunToTheBit) {
  const json changes = json::parse(GetParam());
  for (const char* family : {"llama", "opt", "bloom"}) {
    SCOPED_TRACE(family);
    const TemporaryFolder folder;
    const auto model = quantized(family, changes);
    write(*model, folder / "c");
    const json section = json_of(folder / "c/config.json").at("quantization_config");
    const json& weights = section.at("config_groups").at("group_0").at("weights");
    const int bits = weights.at("num_bits");
    const bool symmetric = weights.at("symmetric");
    EXPECT_EQ(bits, changes.at("wbits"));
    EXPECT_EQ(symmetric, changes.value("symmetric", false));
    EXPECT_EQ(weights.at("strategy"), changes.contains("group_size") ? "group" : "channel");
    EXPECT_EQ(weights.contains("group_size"), changes.contains("group_size"));
    EXPECT_EQ(section.at("quant_method"), format);
    const SafetensorsFile file = SafetensorsFile::open(folder / "c/model.safetensors");
    for (const WindowLinear& l : linears_of(*model, {0, model->block_count()})) {
      SCOPED_TRACE(l.path);
      EXPECT_FALSE(file.has(l.path + ".weight"));
      EXPECT_EQ(file.has(l.path + ".weight_zero_point"), !symmetric);
      EXPECT_EQ(decompressed(file, l.path, bits, symmetric),
                l.linear->transform->weight(l.linear->weight).value().to_vector<float>());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Grids, CompressedTensors,
    ::testing::Values(R"({"wbits": 2})", R"({"wbits": 3})", R"({"wbits": 4, "symmetric": true})",
                      R"({"wbits": 5})", R"({"wbits": 8})",
                      R"({"wbits": 3, "symmetric": true, "group_size": 8})",
                      R"({"wbits": 2, "group_size": 8})", R"({"wbits": 4, "group_size": 4})",
                      R"({"wbits": 8, "symmetric": true, "granularity": "per_tensor"})",
                      R"({"wbits": 4, "granularity": "per_tensor"})"));

TEST(CompressedTensorsConfig, LayersOfOtherBitsAreGroupsAndFloatingPointIsIgnored) {
  const TemporaryFolder folder;
  const auto model =
      quantized("llama", {{"wbits", 4}, {"layer_bits", "down_proj=16,*.0.self_attn.q_proj=8"}});
  write(*model, folder / "c");
  const json section = json_of(folder / "c/config.json").at("quantization_config");
  const json& groups = section.at("config_groups");
  ASSERT_EQ(groups.size(), 2u);
  size_t eight = 0, four = 0;
  for (const auto& [name, group] : groups.items()) {
    (group.at("weights").at("num_bits") == 8 ? eight : four) += group.at("targets").size();
  }
  EXPECT_EQ(eight, 1u);
  EXPECT_EQ(four, static_cast<size_t>(model->block_count()) * 6 - 1);
  const auto ignored = section.at("ignore").get<std::vector<std::string>>();
  const auto has = [&](const char* name) {
    return std::find(ignored.begin(), ignored.end(), name) != ignored.end();
  };
  EXPECT_TRUE(has("lm_head"));
  EXPECT_TRUE(has("model.layers.0.mlp.down_proj"));
  const SafetensorsFile file = SafetensorsFile::open(folder / "c/model.safetensors");
  EXPECT_TRUE(file.has("model.layers.0.mlp.down_proj.weight"));
}

TEST(CompressedTensorsConfig, AHalfTypeHoldsScalesAndAllOtherParameters) {
  const TemporaryFolder folder;
  const auto model = quantized("llama", {{"wbits", 4}});
  write(*model, folder / "c", Dtype::bf16);
  const SafetensorsFile file = SafetensorsFile::open(folder / "c/model.safetensors");
  for (const std::string& name : file.names()) {
    const std::string& dtype = file.info(name).dtype;
    const bool integers = name.ends_with("_packed") || name.ends_with("_point");
    EXPECT_EQ(dtype, name.ends_with("_shape") ? "I64" : integers ? "I32" : "BF16") << name;
  }
}

TEST(CompressedTensorsConfig, WhatHasNoPlaceIsAnObstacle) {
  const auto refused = [](const json& changes, std::initializer_list<const char*> parts) {
    const ExportPlan plan = export_plan(ModelConfig::load(fixture("llama")), settings_of(changes));
    expect_error<std::invalid_argument>(
        [&] { check_exportable(*exporters().make(format), plan, "--export"); }, parts);
  };
  refused({{"abits", 8}}, {"learned ranges of activations", "--export packed"});
  refused({{"rotation", "r4"}}, {"down_proj", "hadamard", "dense or packed"});
  refused({{"wbits", 16}}, {"no layer has codes"});
}

}  // namespace
}  // namespace cbq::test::test_compressed_tensors
