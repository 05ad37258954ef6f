// The formats "auto_round" and "awq", unpacked by loops (tests/exported_words.h).
// tools/check_exports.py loads them with other programs.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cbq/exporters/exporter.h"
#include "cbq/quantized_folder.h"
#include "nn/formats/safetensors.h"
#include "tests/exported_words.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_coded_exports {
namespace {

using nlohmann::json;

/// A folder in one of the formats, beside the model that it came from.
struct Exported {
  Exported(const std::string& format, const json& changes) : model(quantized_for_export(changes)) {
    export_model(*exporters().make(format), *model, {folder / "x", Dtype::f32, false});
    section = json_of(folder / "x/config.json").at("quantization_config");
    file.emplace(SafetensorsFile::open(folder / "x/model.safetensors"));
  }
  std::vector<int32_t> words(const std::string& name) const {
    const Tensor t = file->load(name);
    EXPECT_EQ(t.dtype(), Dtype::i32);
    return t.to_vector<int32_t>();
  }
  /// Calls check(layer, its weight, its scales [groups, out] as read) for each layer with codes.
  template <class F>
  void for_each_layer(F&& check) const {
    int layers = 0;
    for (const WindowLinear& l : linears_of(*model, {0, model->block_count()})) {
      SCOPED_TRACE(l.path);
      const bool coded = l.quantizers() && l.quantizers()->weight_quantizer;
      EXPECT_EQ(file->has(l.path + ".weight"), !coded);
      EXPECT_EQ(file->has(l.path + ".qweight"), coded);
      if (!coded) continue;
      EXPECT_EQ(file->load(l.path + ".scales").dtype(), Dtype::f16);
      check(l, l.linear->transform->weight(l.linear->weight).value().to_vector<float>(),
            file->load(l.path + ".scales"));
      ++layers;
    }
    EXPECT_GT(layers, 0);
  }

  TemporaryFolder folder;
  std::unique_ptr<Transformer> model;
  json section;
  std::optional<SafetensorsFile> file;
};

class AutoRoundExport : public ::testing::TestWithParam<const char*> {};

TEST_P(AutoRoundExport, HoldsCodesScalesAndZeroPoints) {
  const json changes = json::parse(GetParam());
  const Exported x("auto_round", changes);
  EXPECT_EQ(x.section.at("quant_method"), "auto-round");
  EXPECT_EQ(x.section.at("packing_format"), "auto_round");
  EXPECT_EQ(x.section.at("data_type"), "int");
  EXPECT_EQ(x.section.at("block_name_to_quantize"), "model.layers");
  EXPECT_EQ(x.section.at("sym"), changes.value("symmetric", false));
  EXPECT_EQ(x.section.at("group_size"), changes.value("group_size", -1));
  const int bits = x.section.at("bits");
  EXPECT_EQ(bits, changes.at("wbits"));
  x.for_each_layer(
      [&](const WindowLinear& l, const std::vector<float>& weight, const Tensor& scales) {
        EXPECT_FALSE(x.file->has(l.path + ".g_idx"));
        const auto qweight = x.words(l.path + ".qweight"), qzeros = x.words(l.path + ".qzeros");
        const auto scale = scales.to_vector<float>();
        const int64_t groups = scales.size(0), out = scales.size(1);
        const int64_t in = static_cast<int64_t>(weight.size()) / out;
        ASSERT_EQ(static_cast<int64_t>(qweight.size()), in * bits / 32 * out);
        for (int64_t o = 0; o < out; ++o) {
          for (int64_t j = 0; j < in; ++j) {
            const int64_t g = j / (in / groups);
            const int z = along(qzeros, out * bits / 32, g, o, bits);
            const int q = down(qweight, out, o, j, bits);
            const float s = scale[static_cast<size_t>(g * out + o)];
            ASSERT_EQ(s * static_cast<float>(q - z), weight[static_cast<size_t>(o * in + j)]);
          }
        }
      });
}
INSTANTIATE_TEST_SUITE_P(Grids, AutoRoundExport,
                         ::testing::Values(R"({"wbits": 2})", R"({"wbits": 3, "group_size": 16})",
                                           R"({"wbits": 4, "symmetric": true})",
                                           R"({"wbits": 8, "group_size": 8, "symmetric": true})"));

TEST(AutoRoundConfig, LayersThatDifferAreNamed) {
  const Exported x(
      "auto_round",
      {{"wbits", 4},
       {"layer_bits", "down_proj=16,up_proj=16,gate_proj=16,k_proj=16,v_proj=16,*.0.*.q_proj=8"}});
  EXPECT_EQ(x.section.at("bits"), 4);
  const json& others = x.section.at("extra_config");
  EXPECT_EQ(others.at("model.layers.0.self_attn.q_proj").at("bits"), 8);
  EXPECT_EQ(others.at("model.layers.1.mlp.down_proj"), json({{"bits", 16}}));
  EXPECT_EQ(static_cast<int64_t>(others.size()), x.model->block_count() * 5 + 1);
}

class AwqExport : public ::testing::TestWithParam<const char*> {};

TEST_P(AwqExport, HoldsCodesScalesAndZeroPoints) {
  const json changes = json::parse(GetParam());
  const Exported x("awq", changes);
  EXPECT_EQ(x.section.at("quant_method"), "awq");
  EXPECT_EQ(x.section.at("version"), "gemm");
  EXPECT_EQ(x.section.at("bits"), 4);
  EXPECT_EQ(x.section.at("zero_point"), true);
  EXPECT_EQ(x.section.at("group_size"), changes.value("group_size", -1));
  EXPECT_EQ(x.section.at("modules_to_not_convert").size(),
            static_cast<size_t>(x.model->block_count() * 5));
  // Output o of 8 lies in this nibble: AWQ's kernels read pairs (0, 4), (1, 5), ... at once.
  constexpr int nibble_of[] = {0, 4, 1, 5, 2, 6, 3, 7};
  const auto value = [&](const std::vector<int32_t>& words, int64_t out, int64_t row, int64_t o) {
    return static_cast<int>(word(words, out / 8, row, o / 8) >> (4 * nibble_of[o % 8]) & 15u);
  };
  x.for_each_layer(
      [&](const WindowLinear& l, const std::vector<float>& weight, const Tensor& scales) {
        const auto qweight = x.words(l.path + ".qweight"), qzeros = x.words(l.path + ".qzeros");
        const auto scale = scales.to_vector<float>();
        const int64_t groups = scales.size(0), out = scales.size(1);
        const int64_t in = static_cast<int64_t>(weight.size()) / out;
        ASSERT_EQ(static_cast<int64_t>(qweight.size()), in * out / 8);
        for (int64_t o = 0; o < out; ++o) {
          for (int64_t j = 0; j < in; ++j) {
            const int64_t g = j / (in / groups);
            const int q = value(qweight, out, j, o), z = value(qzeros, out, g, o);
            const float s = scale[static_cast<size_t>(g * out + o)];
            ASSERT_EQ(s * static_cast<float>(q - z), weight[static_cast<size_t>(o * in + j)]);
          }
        }
      });
}
INSTANTIATE_TEST_SUITE_P(Grids, AwqExport,
                         ::testing::Values(R"({"wbits": 4})", R"({"wbits": 4, "group_size": 16})",
                                           R"({"wbits": 4, "symmetric": true})"));

TEST(CodedExports, ObstaclesNameWhatHelps) {
  const auto refused = [](const char* format, const json& changes,
                          std::initializer_list<const char*> parts) {
    const ExportPlan plan =
        export_plan(ModelConfig::load(fixture("llama")), export_settings(changes));
    expect_error<std::invalid_argument>(
        [&] { check_exportable(*exporters().make(format), plan, "--export"); }, parts);
  };
  refused("awq", {{"wbits", 3}}, {"3 bits", "4 alone"});
  refused("awq", {{"scale_type", "f32"}}, {"scales are f16", "--scale-type f16"});
  refused("awq", {{"abits", 8}}, {"activations", "packed"});
  refused("auto_round", {{"wbits", 5}}, {"5 bits", "2, 3, 4 and 8"});
  refused("auto_round", {{"layer_bits", ""}}, {"k_proj", "16 outputs", "multiples of 32"});
}

}  // namespace
}  // namespace cbq::test::test_coded_exports
