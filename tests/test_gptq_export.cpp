// The formats "gptq" and "gptq_v2", unpacked by loops (tests/exported_words.h).
// tools/check_exports.py loads them with other programs.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cbq/exporters/exporter.h"
#include "cbq/exporters/gptq_tensors.h"
#include "cbq/quantized_folder.h"
#include "nn/formats/safetensors.h"
#include "tests/exported_words.h"
#include "tests/fixtures.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_gptq_export {
namespace {

using nlohmann::json;

struct Case {
  const char* format;
  const char* changes;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.format << " " << c.changes; }

class GptqExport : public ::testing::TestWithParam<Case> {};

TEST_P(GptqExport, HoldsCodesScalesAndZeroPoints) {
  const std::string format = GetParam().format;
  const json changes = json::parse(GetParam().changes);
  const TemporaryFolder folder;
  const auto model = quantized_for_export(changes);
  export_model(*exporters().make(format), *model, {folder / "g", Dtype::f32, false});
  const json section = json_of(folder / "g/config.json").at("quantization_config");
  EXPECT_EQ(json_of(folder / "g/quantize_config.json"), section);
  EXPECT_EQ(section.at("quant_method"), "gptq");
  EXPECT_EQ(section.at("checkpoint_format"), format);
  EXPECT_EQ(section.at("sym"), changes.value("symmetric", false));
  EXPECT_EQ(section.at("group_size"), changes.value("group_size", -1));
  const int bits = section.at("bits");
  EXPECT_EQ(bits, changes.at("wbits"));
  const int stored_less = format == "gptq" ? 1 : 0;
  const SafetensorsFile file = SafetensorsFile::open(folder / "g/model.safetensors");
  int layers = 0;
  for (const WindowLinear& l : linears_of(*model, {0, model->block_count()})) {
    SCOPED_TRACE(l.path);
    if (!l.quantizers() || !l.quantizers()->weight_quantizer) continue;
    EXPECT_FALSE(file.has(l.path + ".weight"));
    const auto qweight = file.load(l.path + ".qweight").to_vector<int32_t>();
    const auto qzeros = file.load(l.path + ".qzeros").to_vector<int32_t>();
    const auto index = file.load(l.path + ".g_idx").to_vector<int32_t>();
    const Tensor scales = file.load(l.path + ".scales");
    EXPECT_EQ(scales.dtype(), Dtype::f16);
    const auto scale = scales.to_vector<float>();
    const int64_t groups = scales.size(0), out = scales.size(1);
    const auto in = static_cast<int64_t>(index.size());
    EXPECT_EQ(groups, changes.contains("group_size") ? in / int64_t{changes["group_size"]} : 1);
    EXPECT_EQ(static_cast<int64_t>(qweight.size()), in * bits / 32 * out);
    EXPECT_EQ(static_cast<int64_t>(qzeros.size()), groups * out * bits / 32);
    const auto weight = l.linear->transform->weight(l.linear->weight).value().to_vector<float>();
    ASSERT_EQ(static_cast<int64_t>(weight.size()), out * in);
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t j = 0; j < in; ++j) {
        const int64_t g = index[static_cast<size_t>(j)];
        EXPECT_EQ(g, j / (in / groups));
        const int z = along(qzeros, out * bits / 32, g, o, bits) + stored_less;
        const int q = down(qweight, out, o, j, bits);
        const float s = scale[static_cast<size_t>(g * out + o)];
        ASSERT_EQ(s * static_cast<float>(q - z), weight[static_cast<size_t>(o * in + j)]);
      }
    }
    ++layers;
  }
  EXPECT_GT(layers, 0);
}

constexpr Case cases[] = {
    {"gptq_v2", R"({"wbits": 2})"},
    {"gptq_v2", R"({"wbits": 3})"},
    {"gptq_v2", R"({"wbits": 4, "group_size": 16})"},
    {"gptq_v2", R"({"wbits": 8})"},
    {"gptq_v2", R"({"wbits": 4, "symmetric": true, "granularity": "per_tensor"})"},
    {"gptq", R"({"wbits": 2, "symmetric": true})"},
    {"gptq", R"({"wbits": 3, "symmetric": true, "group_size": 8})"},
    {"gptq", R"({"wbits": 4, "symmetric": true})"},
    {"gptq", R"({"wbits": 8, "symmetric": true, "group_size": 32})"}};
INSTANTIATE_TEST_SUITE_P(Grids, GptqExport, ::testing::ValuesIn(cases));

TEST(GptqConfig, LayersThatDifferAreNamed) {
  const TemporaryFolder folder;
  const auto model = quantized_for_export(
      {{"wbits", 4},
       {"layer_bits", "down_proj=16,up_proj=16,gate_proj=16,k_proj=16,v_proj=16,*.0.*.q_proj=8"}});
  export_model(*exporters().make("gptq_v2"), *model, {folder / "g", Dtype::f32, false});
  const json section = json_of(folder / "g/config.json").at("quantization_config");
  EXPECT_EQ(section.at("bits"), 4);
  const json& dynamic = section.at("dynamic");
  EXPECT_EQ(dynamic.at(R"(+:^model\.layers\.0\.self_attn\.q_proj$)").at("bits"), 8);
  EXPECT_TRUE(dynamic.at(R"(-:^model\.layers\.1\.mlp\.down_proj$)").empty());
  EXPECT_EQ(static_cast<int64_t>(dynamic.size()), model->block_count() * 5 + 1);
}

TEST(GptqObstacle, IsFoundBeforeTheRunAndNamesWhatHelps) {
  const auto refused = [](const char* format, const json& changes,
                          std::initializer_list<const char*> parts) {
    const ExportPlan plan =
        export_plan(ModelConfig::load(fixture("llama")), export_settings(changes));
    expect_error<std::invalid_argument>(
        [&] { check_exportable(*exporters().make(format), plan, "--export"); }, parts);
  };
  refused("gptq_v2", {{"scale_type", "f32"}}, {"scales are f16", "--scale-type f16"});
  refused("gptq_v2", {{"wbits", 5}}, {"5 bits", "2, 3, 4 and 8"});
  refused("gptq_v2", {{"layer_bits", ""}}, {"k_proj", "16 outputs", "multiples of 32"});
  refused("gptq_v2", {{"abits", 8}}, {"activations", "packed"});
  refused("gptq_v2", {{"rotation", "r4"}, {"layer_bits", ""}}, {"online transform"});
  refused("gptq", json::object(), {"less one", "gptq_v2", "--symmetric"});
}

// What a damaged or hand-made result could hold is found when it is written, at the latest.
TEST(GptqTensors, WhatDoesNotFitIsRefused) {
  PackedWeight p;
  p.bits = 4;
  p.out = p.in = p.group = 32;
  p.codes = pack_codes(Tensor::zeros({32, 32}, Dtype::u8), 4);
  p.scale = Tensor::from(std::vector<float>(32, 1.0f + 0x1p-12f), {32, 1});
  p.zero_point = Tensor::zeros({32, 1}, Dtype::u8);
  LayerParts parts;
  parts.packed = &p;
  NamedTensors tensors;
  expect_error<std::invalid_argument>(
      [&] { add_gptq_layer("layer", parts, StoredZero::as_is, true, tensors); },
      {"layer", "no number of f16"});
  p.scale = Tensor::from(std::vector<float>(32, 1.0f), {32, 1});
  add_gptq_layer("layer", parts, StoredZero::as_is, true, tensors);
  expect_error<std::invalid_argument>(
      [&] { add_gptq_layer("layer", parts, StoredZero::minus_one, true, tensors); },
      {"layer", "zero point is 0"});
}

}  // namespace
}  // namespace cbq::test::test_gptq_export
