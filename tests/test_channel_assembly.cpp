// Channels that are split and merged (QLLM).
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "quant/transforms/local/reassembly.h"
#include "tests/fixtures.h"
#include "tests/test_cli_support.h"
#include "tests/test_preprocess_model.h"

namespace cbq::test::test_channel_assembly {
namespace {

using Counts = std::vector<int64_t>;
using Sources = std::vector<ChannelMap::Source>;

std::vector<Counts> channels_of(const Sources& sources) {
  std::vector<Counts> channels;
  for (const ChannelMap::Source& source : sources) channels.push_back(source.channels);
  return channels;
}
std::vector<double> factors_of(const Sources& sources) {
  std::vector<double> factors;
  for (const ChannelMap::Source& source : sources) factors.push_back(source.factor);
  return factors;
}

// ---- splitting and merging, by hand -------------------------------------------------------------

TEST(Reassembly, CountsCopiesAsThePaperDoes) {
  // theta 2: a channel of 7 needs 4 copies of at most 2; one of exactly 2 stays.
  const Counts copies = copies_of({7.0, 0.5, 2.0, 4.1, 0.0}, 2.0);
  EXPECT_EQ(copies, (Counts{4, 1, 1, 3, 1}));
  EXPECT_EQ(added_channels(copies), 5);
  EXPECT_EQ(added_channels(copies_of({7.0, 0.5}, 7.0)), 0);
}

/// Two tokens, six channels, one output.
struct Example {
  Tensor x = Tensor::from<double>({8, 1, 2, 1, 3, 5,  //
                                   0, 2, 2, 2, 3, 1},
                                  {2, 6});
  Tensor w = Tensor::from<double>({1, 2, 1, 1, 4, 0}, {1, 6});
  ChannelPairs pairs{x, {w}};
};

TEST(Reassembly, DistancesAreTheErrorsOfAMerge) {
  const Example example;
  // Channels 2 and 3: x differs by (1, 0), w not at all.
  EXPECT_EQ(example.pairs.distance(2, 3), 0.0);
  // Channels 2 and 1: 1/4 (1^2 + 0^2) (2 - 1)^2.
  EXPECT_EQ(example.pairs.distance(2, 1), 0.25);
  // Channels 4 and 1: 1/4 (2^2 + 1^2) (4 - 2)^2; 4 and 3: 1/4 5 3^2; 4 and 5: 1/4 8 4^2.
  EXPECT_EQ(example.pairs.distance(4, 1), 5.0);
  EXPECT_EQ(example.pairs.distance(4, 3), 11.25);
  EXPECT_EQ(example.pairs.distance(4, 5), 32.0);
  // What the definition says, token by token: x_4 w_4 + x_1 w_1 - (x_4 + x_1) / 2 (w_4 + w_1).
  const double first = 3 * 4 + 1 * 2 - 2.0 * 6, second = 3 * 4 + 2 * 2 - 2.5 * 6;
  EXPECT_EQ(example.pairs.distance(4, 1), first * first + second * second);
}

TEST(Reassembly, MergesTheClosestChannelsThatAreNotSplit) {
  const Example example;
  using Merges = ChannelPairs::Merges;
  const Counts none(6, 1);
  // Channel 0 and 1: 1/4 (49 + 4) 1 = 13.25; 0 and 3: 0 (equal weights); 0 and 5: 1/4 (9 + 1).
  EXPECT_EQ(example.pairs.closest(1, none), (Merges{{0, 3}}));
  EXPECT_EQ(example.pairs.closest(3, none), (Merges{{0, 3}, {2, 3}, {4, 1}}));
  EXPECT_EQ(example.pairs.closest(9, none).size(), 3u);
  // Channel 0 is split and channel 3, too: neither is merged.
  EXPECT_EQ(example.pairs.closest(3, {4, 1, 1, 2, 1, 1}), (Merges{{2, 1}, {4, 1}}));
}

TEST(Reassembly, PutsTheChannelsThatRemainInTheirOrder) {
  const Sources sources = reassembled({3, 1, 1, 1, 1, 1}, {{2, 3}, {4, 3}});
  EXPECT_EQ(channels_of(sources), (std::vector<Counts>{{0}, {0}, {0}, {1}, {3, 2, 4}, {5}}));
  const double third = 1.0 / 3.0;
  EXPECT_EQ(factors_of(sources), (std::vector<double>{third, third, third, 1, third, 1}));
}

TEST(Reassembly, SplittingIsExactAndMergingCostsItsDistance) {
  Tensor x({40, 12}, Dtype::f64), w({7, 12}, Dtype::f64);
  kernels::fill_normal(x, 0.0, 1.0, 6, 0);
  kernels::fill_normal(w, 0.0, 1.0, 6, 1);
  const auto error_of = [&](const Sources& sources, int64_t width) {
    // A map keeps the width, so channels that are added are written out: y = sum_j f_j x_S w_S.
    double sum = 0.0;
    const std::vector<double> a = x.to_vector<double>(), b = w.to_vector<double>();
    for (size_t t = 0; t < 40; ++t) {
      for (size_t o = 0; o < 7; ++o) {
        double y = 0.0, plain = 0.0;
        for (size_t c = 0; c < 12; ++c) plain += a[12 * t + c] * b[12 * o + c];
        for (const ChannelMap::Source& source : sources) {
          double of_x = 0.0, of_w = 0.0;
          for (const int64_t c : source.channels) {
            of_x += a[12 * t + static_cast<size_t>(c)];
            of_w += b[12 * o + static_cast<size_t>(c)];
          }
          y += source.factor * of_x * of_w;
        }
        sum += (y - plain) * (y - plain);
      }
    }
    EXPECT_EQ(static_cast<int64_t>(sources.size()), width);
    return sum;
  };
  const Counts copies = {1, 3, 1, 1, 2, 1, 1, 1, 1, 1, 5, 1};
  EXPECT_LT(error_of(reassembled(copies, {}), 19), 1e-25);
  const ChannelPairs pairs(x, {w.slice(0, 3), w.slice(3, 7)});
  const ChannelPairs::Merges one = pairs.closest(1, copies);
  EXPECT_NEAR(error_of(reassembled(copies, one), 18), pairs.distance(one[0].first, one[0].second),
              1e-9);
}

// ---- in a model ---------------------------------------------------------------------------------

TEST(ChannelAssembly, ChangesTheFunctionByItsMergesAlone) {
  const auto model = model_with_outliers(2);
  const std::vector<double> before = test::logits_of(*model);
  PreprocessContext context = context_of(8, 4);
  const auto notes = apply_preprocess("channel_assembly", *model, small_segments(), context);
  EXPECT_NE(joined(notes).find("in 6 of 6 places"), std::string::npos) << joined(notes);
  const double error = relative_distance(test::logits_of(*model), before);
  EXPECT_GT(error, 1e-6);
  EXPECT_LT(error, 1.0) << "no two channels of a random model are alike";
}

/// Channels that do the same are merged before others, and that changes nothing.
TEST(ChannelAssembly, KeepsTheFunctionWhereEnoughChannelsAreEqual) {
  for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
    const auto model = small_model(2, dtype);
    for (int64_t b = 0; b < 2; ++b) {
      for (const char* name : {"mlp.gate_proj", "mlp.up_proj"}) {
        Linear& linear = layer(*model, b, name);
        std::vector<int64_t> rows;  // 2i and 2i + 1 are one channel twice
        for (int64_t r = 0; r < linear.out_features(); ++r) rows.push_back(r / 2 * 2);
        linear.weight.set_value(kernels::gather_rows(linear.weight.value(), rows));
        linear.bias.set_value(kernels::gather_rows(linear.bias.value(), rows));
      }
      scale_rows(layer(*model, b, "mlp.up_proj"), {6, 7}, 40.0);
    }
    const std::vector<double> before = test::logits_of(*model);
    for (int64_t b = 0; b < 2; ++b) {
      const CalibrationStatistics statistics = collect_statistics(*model, small_segments());
      Linear& down = layer(*model, b, "mlp.down_proj");
      const InputStatistics& input = statistics.of(concat("model.layers.", b, ".mlp.down_proj"));
      Counts copies(96, 1);
      copies[6] = copies[7] = 4;
      const ChannelPairs pairs(input.sample, {down.weight.value()});
      const ChannelPairs::Merges merges = pairs.closest(6, copies);
      for (const auto& [a, c] : merges) EXPECT_EQ(c, a + 1);
      const ChannelMap map(reassembled(copies, merges), Device::cpu());
      down.weight.set_value(map.weight_behind(down.weight.value()));
      down.online = std::make_shared<ChannelMap>(map);
    }
    EXPECT_LE(relative_distance(test::logits_of(*model), before),
              dtype == Dtype::f64 ? 1e-10 : 1e-5);
  }
}

TEST(ChannelAssembly, LeavesRangesThatFitTheirToken) {
  const auto model = model_with_outliers(2), untouched = model_with_outliers(2);
  PreprocessContext context = context_of(8, 4);
  apply_preprocess("channel_assembly:0.3", *model, small_segments(), context);
  const CalibrationStatistics before = collect_statistics(*untouched, small_segments());
  const CalibrationStatistics after = collect_statistics(*model, small_segments());
  const auto largest = [](const InputStatistics& s) {
    return *std::max_element(s.abs_max.begin(), s.abs_max.end());
  };
  for (const char* name : {"self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj"}) {
    const std::string path = std::string("model.layers.0.") + name;
    EXPECT_LT(largest(after.of(path)), 0.7 * largest(before.of(path))) << path;
    EXPECT_NE(layer(*model, 0, name).online, nullptr);
  }
  EXPECT_EQ(layer(*model, 0, "self_attn.q_proj").online,
            layer(*model, 0, "self_attn.v_proj").online);
  EXPECT_EQ(layer(*model, 0, "self_attn.o_proj").online, nullptr) << "as published";
}

TEST(ChannelAssembly, IsNothingWhereNothingIsQuantizedOrAllowed) {
  for (const auto& [stage, abits] :
       {std::pair{"channel_assembly", 16}, {"channel_assembly:0", 4}}) {
    const auto model = model_with_outliers(2);
    const auto before = values_of(*model);
    PreprocessContext context = context_of(4, abits);
    apply_preprocess(stage, *model, small_segments(), context);
    EXPECT_EQ(values_of(*model), before);
    EXPECT_EQ(layer(*model, 0, "self_attn.q_proj").online, nullptr);
  }
  expect_error<std::invalid_argument>([] { parse_preprocessors("channel_assembly:0.6"); },
                                      {"channel_assembly", "0 to 0.5"});
}

TEST(ChannelAssembly, RunsOnEveryFamily) {
  for (const std::string& name : fixture_names()) {
    SCOPED_TRACE(name);
    const ExpectedResults expected(name);
    const auto model = load_model(fixture(name), Dtype::f32, Device::cpu());
    // One large channel behind each norm, which is worth splitting.
    bool has_large = false;
    for (int64_t b = 0; b < model->block_count(); ++b) {
      for (const ScalingSite& site : model->block(b).scaling_sites()) {
        if (site.norm_weight == nullptr || !site.norm_weight->defined()) continue;
        std::vector<double> gain = site.norm_weight->value().to_vector<double>();
        gain[5] *= 20.0;
        has_large = true;
        site.norm_weight->set_value(
            Tensor::from(gain, site.norm_weight->shape(), site.norm_weight->dtype()));
      }
    }
    const std::vector<double> before = test::logits_of(*model, expected);
    PreprocessContext context = context_of(8, 4);
    apply_preprocess("channel_assembly:0.4", *model, tiny_segments(4, 10), context);
    int64_t changed = 0;
    for (int64_t b = 0; b < model->block_count(); ++b) {
      for (auto& [path, linear] : model->block(b).linears()) changed += linear->online != nullptr;
    }
    EXPECT_TRUE(changed > 0 || !has_large);
    EXPECT_LT(relative_distance(test::logits_of(*model, expected), before), 0.7);
  }
}

// ---- runs ---------------------------------------------------------------------------------------

std::unique_ptr<Transformer> quantized(const nlohmann::json& changes) {
  Settings settings = method_settings("qllm", 4, 4);
  settings.epochs = 1;
  apply_json(settings, changes);
  auto model = model_with_outliers(2, Dtype::f32);
  std::vector<std::vector<int32_t>> segments = small_segments();
  segments.resize(4);  // of one length
  quantize(*model, segments, settings, nullptr, {});
  return model;
}

TEST(Qllm, ALoadedModelComputesTheSameBits) {
  for (const char* changes : {R"({})", R"({"reconstruct": "none"})", R"({"homologous": true})",
                              R"({"abits": 8, "act_granularity": "per_tensor"})"}) {
    SCOPED_TRACE(changes);
    const TemporaryFolder folder;
    const auto model = quantized(nlohmann::json::parse(changes));
    save_quantized(*model, folder / "q");
    const auto loaded = load_any_model(folder / "q", Dtype::f32, Device::cpu());
    EXPECT_EQ(test::logits_of(*loaded), test::logits_of(*model));
    save_quantized(*loaded, folder / "again");
    for (const char* file : {"model.safetensors", "config.json"}) {
      EXPECT_EQ(bytes_of(folder / "again" / file), bytes_of(folder / "q" / file)) << file;
    }
  }
}

TEST(Qllm, AssemblyHelpsWhereThereAreOutliers) {
  const std::vector<double> original = test::logits_of(*model_with_outliers(2, Dtype::f32));
  const auto error_of = [&](const nlohmann::json& changes) {
    const std::vector<double> after = test::logits_of(*quantized(changes));
    double sum = 0.0;
    for (size_t i = 0; i < original.size(); ++i) sum += std::pow(after[i] - original[i], 2);
    return sum;
  };
  const double nearest = error_of({{"reconstruct", "none"}, {"preprocess", "none"}});
  EXPECT_LT(error_of({{"reconstruct", "none"}}), 0.9 * nearest);
}

}  // namespace
}  // namespace cbq::test::test_channel_assembly
