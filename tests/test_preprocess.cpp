// What holds for every registered preprocessor, and where it cannot work. Each method against its
// formula: test_preprocess_methods.cpp.
#include <algorithm>
#include <cmath>

#include "autograd/worst_error.h"
#include "nn/block.h"
#include "quant/transforms/local/sites.h"
#include "tests/test_data.h"
#include "tests/test_preprocess_model.h"

namespace cbq::test_preprocess {
namespace {

using test::context_of;
using test::joined;
using test::layer;
using test::model_with_outliers;
using test::small_model;
using test::small_segments;
using test::values_of;

/// A stage as one would write it.
std::string example_of(const std::string& name) {
  return name == "outliers" ? "outliers:3x20" : name;
}

TEST(Preprocess, EveryMethodKeepsItsContract) {
  const std::vector<std::string> names = preprocessors().names();
  for (const char* expected :
       {"none", "cfp_weight", "cfp_activation", "cfp_weight_activation", "omse", "percentile",
        "smoothquant", "outlier_suppression", "outlier_suppression_plus", "outliers", "awq_scale",
        "awq_clip", "let", "reorder", "channel_assembly"}) {
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
      const bool changes_nothing = name == "none" || (name == "channel_assembly" && abits == 16);
      EXPECT_EQ(after == before, changes_nothing);
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
    context.activation.dynamic = false;
    apply_preprocess(example_of(name), *model, small_segments(), context);
    for (const double v : test::logits_of(*model)) ASSERT_TRUE(std::isfinite(v));
  }
}

TEST(Preprocess, ScalingPreservesTheFunction) {
  for (const int64_t kv_heads : {1, 2, 4}) {
    for (const char* names :
         {"cfp_activation", "cfp_activation:printed", "smoothquant", "smoothquant:0.8",
          "outlier_suppression", "outlier_suppression_plus", "outliers:3x20", "awq_scale:all_sites",
          "let", "let:0.75", "reorder", "reorder:4,2",
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
  bool is_fc2(const std::string& name) const override { return name == "c"; }
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
}  // namespace cbq::test_preprocess
