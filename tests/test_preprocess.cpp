// What holds for every registered preprocessor, and each method against its formula.
#include <algorithm>
#include <cmath>

#include "nn/block.h"
#include "quant/outlier_transform.h"
#include "quant/preprocess/arithmetic.h"
#include "quant/preprocess/sites.h"
#include "quant/preprocess/tools.h"
#include "tests/test_data.h"
#include "tests/test_preprocess_model.h"

namespace cbq {
namespace {

using test::context_of;
using test::joined;
using test::layer;
using test::small_model;
using test::small_segments;
using test::values_of;

/// A stage as one would write it.
std::string example_of(const std::string& name) {
  return name == "outliers" ? "outliers:3x20" : name;
}

/// A model with outlier channels behind norms, in the attention's values and in the MLP's middle.
std::unique_ptr<Transformer> model_with_outliers(int64_t kv_heads, Dtype dtype = Dtype::f64) {
  auto model = small_model(kv_heads, dtype);
  for (int64_t b = 0; b < 2; ++b) {
    test::scale_rows(layer(*model, b, "self_attn.v_proj"), {3, 4, 11}, 30.0);
    test::scale_rows(layer(*model, b, "mlp.up_proj"), {5, 60}, 40.0);
  }
  add_outlier_channels(*model, 3, 25.0, 9);
  return model;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(a[i] - b[i]);
    if (!(difference <= largest)) largest = difference;  // NaN, too
  }
  return largest;
}

TEST(Preprocess, EveryMethodKeepsItsContract) {
  const std::vector<std::string> names = preprocessors().names();
  for (const char* expected :
       {"none", "cfp_weight", "cfp_activation", "cfp_weight_activation", "omse", "percentile",
        "smoothquant", "outlier_suppression", "outlier_suppression_plus", "outliers"}) {
    EXPECT_TRUE(preprocessors().has(expected)) << expected;
  }
  for (const std::string& name : names) {
    EXPECT_EQ(preprocessors().make(name)->name(), name);
    EXPECT_GT(preprocessors().make(name)->help().size(), 10u) << name;
    for (const int abits : {4, 16}) {
      SCOPED_TRACE(concat(name, " abits ", abits));
      auto model = model_with_outliers(2), twin = model_with_outliers(2);
      const auto before = values_of(*model);
      PreprocessContext context = context_of(4, abits), twin_context = context_of(4, abits);
      const auto notes = apply_preprocess(example_of(name), *model, small_segments(), context);
      apply_preprocess(example_of(name), *twin, small_segments(), twin_context);
      const auto after = values_of(*model);
      EXPECT_EQ(after, values_of(*twin)) << "two runs differ";
      EXPECT_EQ(after == before, name == "none");
      EXPECT_EQ(notes.empty(), name == "none");
      for (const auto& [path, values] : after) {
        EXPECT_EQ(values.size(), before.at(path).size());
        for (const double v : values) ASSERT_TRUE(std::isfinite(v)) << path;
      }
      for (const std::string& note : notes) EXPECT_EQ(note.rfind(name + ": ", 0), 0u) << note;
      EXPECT_TRUE(abits == 4 || context.activation_clip.empty());
      for (const auto& [path, alpha] : context.activation_clip) {
        EXPECT_GT(alpha, 0.0) << path;
        EXPECT_LE(alpha, 1.0) << path;
      }
      const size_t clipped = context.activation_clip.size();
      EXPECT_TRUE(clipped == 0 || clipped == 14) << clipped;
      for (int64_t b = 0; b < 2; ++b) {
        for (auto& [linear_name, linear] : model->blocks[static_cast<size_t>(b)]->linears()) {
          EXPECT_EQ(linear->transform, nullptr) << linear_name;
        }
      }
    }
  }
}

TEST(Preprocess, EveryMethodRunsOnStaticAndSymmetricGridsAndAnF32Model) {
  for (const std::string& name : preprocessors().names()) {
    SCOPED_TRACE(name);
    auto model = model_with_outliers(4, Dtype::f32);
    PreprocessContext context = context_of(3, 6);
    context.weight.symmetric = true;
    context.weight.granularity = Granularity::per_group;
    context.weight.group_size = 32;
    context.activation.granularity = Granularity::per_tensor;
    context.activation.dynamic = false;
    apply_preprocess(example_of(name), *model, small_segments(), context);
    for (const double v : test::logits_of(*model)) ASSERT_TRUE(std::isfinite(v));
  }
}

TEST(Preprocess, ScalingPreservesTheFunction) {
  for (const int64_t kv_heads : {1, 2, 4}) {
    for (const char* names :
         {"cfp_activation", "cfp_activation:printed", "smoothquant", "smoothquant:0.8",
          "outlier_suppression", "outlier_suppression_plus", "outliers:3x20",
          "outliers:3x20+cfp_activation+smoothquant+outlier_suppression"}) {
      SCOPED_TRACE(concat(names, " kv heads ", kv_heads));
      auto model = model_with_outliers(kv_heads);
      const std::vector<double> before = test::logits_of(*model);
      const auto values = values_of(*model);
      PreprocessContext context = context_of(4, 4);
      apply_preprocess(names, *model, small_segments(), context);
      EXPECT_NE(values_of(*model), values);
      double size = 0.0;
      for (const double v : before) size = std::max(size, std::abs(v));
      EXPECT_LT(largest_difference(test::logits_of(*model), before), 1e-10 * size);
    }
  }
  // In the precision that is used.
  auto model = model_with_outliers(2, Dtype::f32);
  const std::vector<double> before = test::logits_of(*model);
  PreprocessContext context = context_of(4, 4);
  apply_preprocess("cfp_activation+smoothquant", *model, small_segments(), context);
  EXPECT_LT(largest_difference(test::logits_of(*model), before), 2e-3);
}

TEST(Preprocess, CfpActivationReachesAllFourPlacesOfABlock) {
  auto model = model_with_outliers(2);
  PreprocessContext context = context_of(4, 4);
  const auto notes = apply_preprocess("cfp_activation", *model, small_segments(), context);
  EXPECT_NE(joined(notes).find("in 8 of 8 places"), std::string::npos) << joined(notes);
}

TEST(Preprocess, StagesRunInOrderOnWhatTheOthersLeft) {
  auto together = model_with_outliers(2), apart = model_with_outliers(2);
  PreprocessContext a = context_of(4, 4), b = context_of(4, 4);
  apply_preprocess("outliers:2x8+smoothquant+omse", *together, small_segments(), a);
  for (const char* stage : {"outliers:2x8", "smoothquant", "omse"}) {
    apply_preprocess(stage, *apart, small_segments(), b);
  }
  EXPECT_EQ(values_of(*together), values_of(*apart));
  EXPECT_EQ(a.activation_clip, b.activation_clip);
  auto other_order = model_with_outliers(2);
  PreprocessContext c = context_of(4, 4);
  apply_preprocess("omse+smoothquant+outliers:2x8", *other_order, small_segments(), c);
  EXPECT_NE(values_of(*together), values_of(*other_order));
}

TEST(Preprocess, ErrorsNameWhatIsKnown) {
  expect_error<std::invalid_argument>([] { parse_preprocessors("smoothqant"); },
                                      {"smoothqant", "cfp_weight_activation", "smoothquant"});
  expect_error<std::invalid_argument>([] { parse_preprocessors("omse++none"); }, {"empty stage"});
  expect_error<std::invalid_argument>([] { parse_preprocessors(""); }, {"empty stage"});
  expect_error<std::invalid_argument>([] { parse_preprocessors("none:3"); }, {"no arguments", "3"});
  expect_error<std::invalid_argument>([] { parse_preprocessors("smoothquant:2"); },
                                      {"smoothquant", "from 0 to 1"});
  expect_error<std::invalid_argument>([] { parse_preprocessors("percentile:x"); }, {"'x'"});
  expect_error<std::invalid_argument>([] { parse_preprocessors("cfp_weight:all"); },
                                      {"all", "per_channel", "printed"});
  expect_error<std::invalid_argument>([] { parse_preprocessors("cfp_activation:per_channel"); },
                                      {"per_channel", "known: printed"});
  for (const char* wrong : {"outliers", "outliers:3", "outliers:1.5x2", "outliers:2x-1"}) {
    expect_error<std::invalid_argument>([&] { parse_preprocessors(wrong); }, {"outliers"});
  }
  auto model = small_model(2);
  PreprocessContext context = context_of(4, 4);
  expect_error<std::invalid_argument>(
      [&] { apply_preprocess("outliers:65x2", *model, {}, context); }, {"65 channels of 64"});
  expect_error<std::invalid_argument>([&] { apply_preprocess("omse", *model, {}, context); },
                                      {"no tokens"});
}

TEST(Preprocess, DamagedWeightsAreNamed) {
  auto model = small_model(2);
  std::vector<double> w = layer(*model, 1, "mlp.up_proj").weight.value().to_vector<double>();
  w[17] = std::nan("");
  layer(*model, 1, "mlp.up_proj")
      .weight.set_value(Tensor::from(w, layer(*model, 1, "mlp.up_proj").weight.shape()));
  PreprocessContext context = context_of(4, 4);
  expect_error<std::invalid_argument>([&] { apply_preprocess("cfp_weight", *model, {}, context); },
                                      {"layers.1.mlp.up_proj"});
  expect_error<NonFiniteError>(
      [&] { apply_preprocess("smoothquant", *model, small_segments(), context); },
      {"layers.1.mlp.down_proj"});
}

// ---- each method against its formula ------------------------------------------------------------

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

// ---- places with obstacles ----------------------------------------------------------------------

/// One block of three linears: the first behind an obstacle, the second foldable, the third without
/// any producer.
class OddBlock : public Block {
 public:
  OddBlock() : norm_(Tensor({4}, Dtype::f64)) {
    kernels::fill(norm_.value(), 2.0);
    for (Linear& l : linear_) {
      l = Linear(4, 4, false, Dtype::f64, Device::cpu());
      kernels::fill(l.weight.value(), 0.5);
    }
  }
  Var forward(const Var& x, const Sequence&) override {
    Var y = x;
    for (Linear& l : linear_) y = l.forward(y);
    return y;
  }
  void visit(const std::string& prefix, const ParameterVisitor& visitor) override {
    visitor(prefix + "norm", norm_);
    for (auto& [name, linear] : linears()) linear->visit(prefix + name + ".", visitor);
  }
  std::vector<NamedLinear> linears() override {
    return {{"a", &linear_[0]}, {"b", &linear_[1]}, {"c", &linear_[2]}};
  }
  std::string fc2_name() const override { return "c"; }
  std::string attention_output_name() const override { return "b"; }
  std::vector<ScalingSite> scaling_sites() override {
    ScalingSite blocked{"norm", {&linear_[0]}};
    blocked.norm_weight = &norm_;
    blocked.obstacle = "the norm's output is also the residual";
    ScalingSite free{"a", {&linear_[1]}};
    free.producer = &linear_[0];
    return {blocked, free};
  }

 private:
  Var norm_;
  Linear linear_[3];
};

class OddModel : public Transformer {
 public:
  OddModel() : Transformer(ModelConfig()) {
    config.vocab_size = 9;
    dtype_ = Dtype::f64;
    for (int i = 0; i < 3; ++i) blocks.push_back(make_block());
  }
  Var embed(const Tensor& ids, const Sequence&) override {
    const Tensor x({ids.count(), 4}, Dtype::f64);
    kernels::fill_normal(x, 0.0, 1.0, 1, 1);
    return Var(x);
  }
  Var head(const Var& hidden) override { return hidden; }
  std::string block_prefix(int64_t i) const override { return concat("b", i, "."); }
  std::unique_ptr<Block> make_block() const override { return std::make_unique<OddBlock>(); }
  void visit_embedding(const std::string&, const ParameterVisitor&) override {}
  void visit_head(const std::string&, const ParameterVisitor&) override {}
};

TEST(FoldSites, ReportsWhatItSkips) {
  OddModel model;
  std::vector<std::string> notes;
  const std::vector<FoldSite> sites = fold_sites(model, "someone", notes);
  ASSERT_EQ(sites.size(), 3u);
  EXPECT_EQ(sites[1].path, "b1.a");
  EXPECT_EQ(sites[1].consumers, std::vector<std::string>{"b1.b"});
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_NE(joined(notes).find(
                "someone: skipped in 3 blocks: norm: the norm's output is also the residual"),
            std::string::npos)
      << joined(notes);
  EXPECT_NE(joined(notes).find("inputs of c: no producer"), std::string::npos) << joined(notes);
  PreprocessContext context = context_of(4, 4);
  const auto said = apply_preprocess("cfp_activation", model, {{1, 2, 3}}, context);
  EXPECT_NE(joined(said).find("also the residual"), std::string::npos) << joined(said);
}

TEST(FoldSites, RejectsFactorsThatCannotBe) {
  OddModel model;
  std::vector<std::string> notes;
  const FoldSite site = fold_sites(model, "someone", notes).front();
  EXPECT_THROW(fold(site, {1, 1, 1}), std::invalid_argument);
  EXPECT_THROW(fold(site, {1, 1, 0, 1}), std::invalid_argument);
  EXPECT_THROW(fold(site, {1, 1, std::nan(""), 1}), std::invalid_argument);
}

}  // namespace
}  // namespace cbq
