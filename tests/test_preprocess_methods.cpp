// Each pre-processing method against its formula. What holds for all: test_preprocess.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "autograd/worst_error.h"
#include "quant/transforms/global/outlier_transform.h"
#include "quant/transforms/local/arithmetic.h"
#include "quant/transforms/local/tools.h"
#include "tests/test_preprocess_model.h"

namespace cbq::test_preprocess_methods {
namespace {

using test::context_of;
using test::joined;
using test::layer;
using test::model_with_outliers;
using test::small_model;
using test::small_segments;
using test::values_of;

TEST(SmoothQuant, FollowsItsFormula) {
  auto model = model_with_outliers(2);
  const auto statistics = collect_statistics(*model, small_segments());
  const std::vector<double> x = statistics.of("model.layers.1.self_attn.k_proj").abs_max;
  auto before = values_of(*model);
  PreprocessContext context = context_of(4, 4);
  apply_preprocess("smoothquant:0.7", *model, small_segments(), context);
  auto after = values_of(*model);
  const std::string p = "model.layers.1.";
  for (size_t c = 0; c < 64; ++c) {
    double w = 0.0;
    for (const char* reader : {"q_proj", "k_proj", "v_proj"}) {
      const auto& weight = before[p + "self_attn." + reader + ".weight"];
      for (size_t i = c; i < weight.size(); i += 64) w = std::max(w, std::abs(weight[i]));
    }
    const double s = std::pow(x[c], 0.7) / std::pow(w, 0.3);
    const double gamma = before[p + "input_layernorm.weight"][c];
    EXPECT_NEAR(after[p + "input_layernorm.weight"][c], gamma / s, 1e-6 * std::abs(gamma / s));
    const double k = before[p + "self_attn.k_proj.weight"][64 + c] * s;
    EXPECT_NEAR(after[p + "self_attn.k_proj.weight"][64 + c], k, 1e-6 * std::abs(k));
  }
  EXPECT_EQ(after[p + "self_attn.o_proj.weight"], before[p + "self_attn.o_proj.weight"]);
}

TEST(OutlierSuppression, NormsBecomeOnes) {
  auto model = model_with_outliers(2);
  Var gamma;
  model->visit("", [&](const std::string& path, Var& p) {
    if (path == "model.layers.0.input_layernorm.weight") gamma = p;
  });
  std::vector<double> values = gamma.value().to_vector<double>();
  values[7] = 0.0;
  gamma.set_value(Tensor::from(values, {64}));
  const std::vector<double> before = test::logits_of(*model);
  PreprocessContext context = context_of(4, 4);
  const auto notes = apply_preprocess("outlier_suppression", *model, small_segments(), context);
  values = gamma.value().to_vector<double>();
  for (size_t c = 0; c < 64; ++c) EXPECT_EQ(values[c], c == 7 ? 0.0 : 1.0);
  EXPECT_LT(largest_difference(test::logits_of(*model), before), 1e-9);
  EXPECT_NE(joined(notes).find("1 channels with weight 0"), std::string::npos) << joined(notes);
}

TEST(OutlierSuppressionPlus, LowersTheErrorItSearches) {
  // Both quantized outputs against the original: with scaling the error must not be larger.
  const auto output_error = [](Transformer& model) {
    const auto statistics = collect_statistics(model, small_segments());
    const PreprocessContext context = context_of(4, 4);
    const Linear& q = layer(model, 0, "self_attn.q_proj");
    const std::string path = "model.layers.0.self_attn.q_proj";
    const InputStatistics& input = statistics.of(path);
    const Tensor x = kernels::cast(input.sample, Dtype::f64), w = q.weight.value();
    const auto product = [](const Tensor& a, const Tensor& b) {
      return kernels::matmul(a, kernels::Trans::no, b, kernels::Trans::yes);
    };
    const Tensor quantized =
        quantize_with_ratio(activation_quantizer_of(context, path, input, Device::cpu()), x, 1.0);
    return squared_distance(product(quantized, quantize_nearest(w, context, path)), product(x, w));
  };
  auto model = model_with_outliers(2);
  const double before = output_error(*model);
  PreprocessContext context = context_of(4, 4);
  const auto notes =
      apply_preprocess("outlier_suppression_plus", *model, small_segments(), context);
  EXPECT_LT(output_error(*model), 0.7 * before);
  EXPECT_NE(joined(notes).find("not shifted"), std::string::npos);
}

/// min/max grid of `row`, nearest, in double.
double row_error(const std::vector<double>& row, const std::vector<double>& original, int bits,
                 bool symmetric) {
  double low = 0.0, high = 0.0;
  for (const double v : row) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
  const double codes = std::pow(2.0, bits) - 1.0;
  const double reach = std::max(-low, high);
  const double s = symmetric ? 2.0 * reach / codes : (high - low) / codes;
  const double z =
      symmetric ? std::pow(2.0, bits - 1) : std::clamp(std::nearbyint(-low / s), 0.0, codes);
  double error = 0.0;
  for (size_t i = 0; i < row.size(); ++i) {
    const double q = std::clamp(std::nearbyint(row[i] / s) + z, 0.0, codes);
    error += std::pow(s * (q - z) - original[i], 2.0);
  }
  return error;
}

TEST(Omse, ClipsEveryRowToALowerErrorOfTheMinMaxGrid) {
  for (const bool symmetric : {false, true}) {
    for (const int bits : {2, 3, 4, 8}) {
      SCOPED_TRACE(concat(bits, " bits, symmetric ", symmetric));
      const Tensor w({40, 96}, Dtype::f64);
      kernels::fill_normal(w, 0.01, 0.3, 8, 8);
      WeightConfig config;
      config.bits = bits;
      config.symmetric = symmetric;
      const Tensor clipped = clamp_groups(w, least_error_range(w, config));
      double before = 0.0, after = 0.0;
      for (int64_t r = 0; r < 40; ++r) {
        const auto row = w.slice(r, r + 1).to_vector<double>();
        const auto cut = clipped.slice(r, r + 1).to_vector<double>();
        const double old_error = row_error(row, row, bits, symmetric);
        const double new_error = row_error(cut, row, bits, symmetric);
        EXPECT_LE(new_error, old_error * (1.0 + 1e-9)) << "row " << r;
        before += old_error;
        after += new_error;
      }
      EXPECT_LE(after, (bits == 2 ? 0.75 : 1.0 + 1e-9) * before);
    }
  }
}

TEST(Omse, ClipRatioOfActivationsIsTheBestOfTheLadder) {
  auto model = model_with_outliers(2);
  PreprocessContext context = context_of(16, 4);
  const auto statistics = collect_statistics(*model, small_segments());
  apply_preprocess("omse", *model, small_segments(), context);
  const std::string path = "model.layers.1.mlp.down_proj";
  const Tensor x = statistics.of(path).sample;
  double least = INFINITY, chosen = INFINITY;
  for (int step = 0; step <= 80; ++step) {
    const double alpha = 1.0 - 0.01 * step;
    double error = 0.0;
    for (int64_t t = 0; t < x.size(0); ++t) {
      const auto row = x.slice(t, t + 1).to_vector<double>();
      double low = 0.0, high = 0.0;
      for (const double v : row) {
        low = std::min(low, alpha * v);
        high = std::max(high, alpha * v);
      }
      const double s = (high - low) / 15.0, z = std::clamp(std::nearbyint(-low / s), 0.0, 15.0);
      for (const double v : row) {
        const double q = std::clamp(std::nearbyint(v / s) + z, 0.0, 15.0);
        error += std::pow(s * (q - z) - v, 2.0);
      }
    }
    least = std::min(least, error);
    if (std::abs(alpha - context.activation_clip.at(path)) < 1e-9) chosen = error;
  }
  EXPECT_LT(context.activation_clip.at(path), 1.0);
  EXPECT_LT(chosen, 1.001 * least);
}

TEST(Percentile, ClampsAtTheSortedValue) {
  auto model = small_model(2);
  const auto before = values_of(*model);
  PreprocessContext context = context_of(4, 4);
  apply_preprocess("percentile:98", *model, small_segments(), context);
  const std::string path = "model.layers.0.self_attn.q_proj.weight";
  std::vector<double> sorted;
  for (const double v : before.at(path)) sorted.push_back(std::abs(v));
  std::sort(sorted.begin(), sorted.end());
  const double position = 0.98 * static_cast<double>(sorted.size() - 1);
  const auto i = static_cast<size_t>(position);
  const double c = sorted[i] + (position - std::floor(position)) * (sorted[i + 1] - sorted[i]);
  const std::vector<double> after = values_of(*model).at(path);
  int64_t clamped = 0;
  for (size_t j = 0; j < after.size(); ++j) {
    EXPECT_DOUBLE_EQ(after[j], std::clamp(before.at(path)[j], -c, c));
    if (after[j] != before.at(path)[j]) ++clamped;
  }
  EXPECT_EQ(clamped, static_cast<int64_t>(sorted.size() - i) - 1);
}

TEST(Percentile, RatioOfAToken) {
  auto model = small_model(2);
  PreprocessContext context = context_of(16, 4);
  const auto statistics = collect_statistics(*model, small_segments());
  apply_preprocess("percentile:90", *model, small_segments(), context);
  const std::string path = "model.layers.0.self_attn.q_proj";
  const Tensor x = statistics.of(path).sample;
  double sum = 0.0;
  for (int64_t t = 0; t < x.size(0); ++t) {
    auto row = x.slice(t, t + 1).to_vector<double>();
    for (double& v : row) v = std::abs(v);
    std::sort(row.begin(), row.end());
    const double position = 0.9 * 63.0;  // between the 57th and 58th of 64
    const double value = row[56] + (position - 56.0) * (row[57] - row[56]);
    sum += value / row[63];
  }
  EXPECT_NEAR(context.activation_clip.at(path), sum / static_cast<double>(x.size(0)), 1e-12);
}

TEST(OutlierTransform, MakesExactlyTheOutliersItPromises) {
  auto model = small_model(2);
  const auto before = collect_statistics(*model, small_segments());
  const std::vector<double> logits = test::logits_of(*model);
  const auto notes = add_outlier_channels(*model, 4, 30.0, 1);
  EXPECT_LT(largest_difference(test::logits_of(*model), logits), 1e-10);
  EXPECT_NE(joined(notes).find("ARTIFICIAL"), std::string::npos);
  EXPECT_NE(joined(notes).find("4 channels behind each of 4 norms scaled up by 30"),
            std::string::npos)
      << joined(notes);
  const auto after = collect_statistics(*model, small_segments());
  for (const char* name : {"self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"}) {
    const std::string path = std::string("model.layers.0.") + name;
    int64_t raised = 0;
    for (size_t c = 0; c < before.of(path).abs_max.size(); ++c) {
      const double ratio = after.of(path).abs_max[c] / before.of(path).abs_max[c];
      const bool is_raised = ratio > 2.0;
      EXPECT_NEAR(ratio, is_raised ? 30.0 : 1.0, 1e-6);
      raised += is_raised;
    }
    EXPECT_EQ(raised, std::string(name) == "mlp.down_proj" ? 0 : 4) << path;
  }
  auto other = small_model(2);
  add_outlier_channels(*other, 4, 30.0, 2);
  EXPECT_NE(values_of(*other), values_of(*model)) << "the seed decides the channels";
}

}  // namespace
}  // namespace cbq::test_preprocess_methods
