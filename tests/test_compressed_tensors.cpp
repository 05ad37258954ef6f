// The format "compressed-tensors", read back by loops that share nothing with the writer.
// tools/check_exports.py compares it with the Python package itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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

// ---- int-quantized ------------------------------------------------------------------------------

std::vector<int8_t> signed_bytes_of(const SafetensorsFile& file, const std::string& name) {
  EXPECT_EQ(file.info(name).dtype, "I8") << name;
  const auto bytes = file.bytes(name);
  std::vector<int8_t> result(bytes.size());
  std::memcpy(result.data(), bytes.data(), bytes.size());
  return result;
}

/// (q - z) s of a layer.
std::vector<float> weight_of_bytes(const SafetensorsFile& file, const std::string& layer,
                                   bool symmetric) {
  const std::vector<int8_t> q = signed_bytes_of(file, layer + ".weight");
  const Tensor scales = file.load(layer + ".weight_scale");
  const auto scale = scales.to_vector<float>();
  std::vector<int8_t> z(scale.size(), 0);
  if (!symmetric) z = signed_bytes_of(file, layer + ".weight_zero_point");
  EXPECT_EQ(z.size(), scale.size());
  std::vector<float> w;
  for (size_t i = 0; i < q.size(); ++i) {
    const size_t at = i / (q.size() / scale.size());
    w.push_back(static_cast<float>(q[i] - z[at]) * scale[at]);
  }
  return w;
}

struct InputGrid {
  double scale, zero;
};

/// calculate_qparams of the package, in double.
InputGrid grid_of_token(const std::vector<double>& x, int bits, bool symmetric) {
  const double least = std::min(0.0, *std::min_element(x.begin(), x.end()));
  const double most = std::max(0.0, *std::max_element(x.begin(), x.end()));
  const double low = -std::pow(2, bits - 1), range = std::pow(2, bits) - 1;
  if (symmetric) return {std::max(-least, most) / (range / 2), 0.0};
  const double scale = (most - least) / range;
  return {scale, std::nearbyint(std::clamp(low - least / scale, low, low + range))};
}

/// fake_quantize of the package.
double through(double x, const InputGrid& grid, int bits) {
  const double low = -std::pow(2, bits - 1), high = std::pow(2, bits - 1) - 1;
  const double q = std::nearbyint(std::clamp(x / grid.scale + grid.zero, low, high));
  return (q - grid.zero) * grid.scale;
}

InputGrid stored_grid(const SafetensorsFile& file, const std::string& layer, bool symmetric) {
  InputGrid grid{file.load(layer + ".input_scale").to_vector<double>().at(0), 0.0};
  if (!symmetric) grid.zero = signed_bytes_of(file, layer + ".input_zero_point").at(0);
  return grid;
}

/// [3, width], of both signs and different sizes.
Tensor some_inputs(int64_t width) {
  std::vector<double> values;
  for (int64_t i = 0; i < 3 * width; ++i) {
    const auto at = static_cast<double>(i);
    values.push_back(std::sin(1.7 * at) + 0.4 * std::cos(0.13 * at * at));
  }
  return Tensor::from(values, {3, width}, Dtype::f32);
}

class IntQuantized : public ::testing::TestWithParam<const char*> {};

TEST_P(IntQuantized, HoldsWeightsAndInputsAsThePackageMeansThem) {
  const json changes = json::parse(GetParam());
  const TemporaryFolder folder;
  const auto model = quantized("llama", changes);
  write(*model, folder / "c");
  const json section = json_of(folder / "c/config.json").at("quantization_config");
  EXPECT_EQ(section.at("format"), "int-quantized");
  const json& group = section.at("config_groups").at("group_0");
  const json& inputs = group.at("input_activations");
  const int bits = inputs.at("num_bits");
  const bool symmetric = inputs.at("symmetric"), is_static = !inputs.at("dynamic").get<bool>();
  EXPECT_EQ(bits, changes.at("abits"));
  EXPECT_EQ(symmetric, changes.value("act_symmetric", false));
  EXPECT_EQ(is_static, changes.contains("act_granularity"));
  EXPECT_EQ(inputs.at("strategy"), is_static ? "tensor" : "token");
  const SafetensorsFile file = SafetensorsFile::open(folder / "c/model.safetensors");
  for (const WindowLinear& l : linears_of(*model, {0, model->block_count()})) {
    SCOPED_TRACE(l.path);
    EXPECT_FALSE(file.has(l.path + ".weight_shape"));
    EXPECT_EQ(weight_of_bytes(file, l.path, changes.value("symmetric", false)),
              l.linear->transform->weight(l.linear->weight).value().to_vector<float>());
    const int64_t width = l.linear->in_features();
    const Var x(some_inputs(width));
    const auto found = l.linear->transform->input(x).value().to_vector<double>();
    const auto values = x.value().to_vector<double>();
    for (int64_t t = 0; t < 3; ++t) {
      const std::vector<double> token(values.begin() + t * width, values.begin() + (t + 1) * width);
      const InputGrid grid =
          is_static ? stored_grid(file, l.path, symmetric) : grid_of_token(token, bits, symmetric);
      for (int64_t j = 0; j < width; ++j) {
        EXPECT_NEAR(found[static_cast<size_t>(t * width + j)],
                    through(token[static_cast<size_t>(j)], grid, bits), 1e-3 * grid.scale);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Grids, IntQuantized,
    ::testing::Values(
        R"({"wbits": 8, "symmetric": true, "abits": 8, "act_symmetric": true,
            "act_symmetric_form": "full_range"})",
        R"({"wbits": 4, "group_size": 8, "abits": 4})",
        R"({"wbits": 3, "symmetric": true, "abits": 8})",
        R"({"wbits": 5, "granularity": "per_tensor", "abits": 6, "act_granularity": "per_tensor",
            "act_dynamic": false})",
        R"({"wbits": 8, "symmetric": true, "abits": 8, "act_symmetric": true,
            "act_granularity": "per_tensor", "act_dynamic": false})"));

TEST(CompressedTensorsConfig, WhatHasNoPlaceIsAnObstacle) {
  const auto refused = [](const json& changes, std::initializer_list<const char*> parts) {
    const ExportPlan plan = export_plan(ModelConfig::load(fixture("llama")), settings_of(changes));
    expect_error<std::invalid_argument>(
        [&] { check_exportable(*exporters().make(format), plan, "--export"); }, parts);
  };
  refused({{"abits", 8}, {"reconstruct", "cbq"}},
          {"model.layers.0.self_attn.q_proj", "clip ratios", "--no-learn-activation", "packed"});
  refused({{"abits", 8}, {"preprocess", "percentile"}}, {"clip ratios", "preprocessing"});
  refused({{"abits", 8}, {"act_symmetric", true}},
          {"full_range", "are restricted", "--act-symmetric-form full_range"});
  refused({{"abits", 8}, {"layer_bits", "o_proj=16"}}, {"layers.0.self_attn.o_proj", "weight is"});
  refused({{"abits", 10}}, {"10 bits", "up to 8"});
  refused({{"abits", 8}, {"quantize_attention", true}}, {"queries", "--no-quantize-attention"});
  refused({{"rotation", "r4"}}, {"down_proj", "hadamard", "dense or packed"});
  refused({{"wbits", 16}}, {"no layer has codes"});
}

}  // namespace
}  // namespace cbq::test::test_compressed_tensors
