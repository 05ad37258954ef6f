// Quantization and pre-processing of every family: they run, keep the function, save and reload.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "cbq/quantizers.h"
#include "quant/transforms/local/preprocessor.h"
#include "quant/transforms/local/sites.h"
#include "tests/fixtures.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_family_quantization {
namespace {

std::vector<std::vector<int32_t>> segments_below(int64_t vocabulary, size_t count, int length) {
  std::vector<std::vector<int32_t>> segments(count);
  for (size_t s = 0; s < count; ++s) {
    for (int t = 0; t < length; ++t) {
      const uint32_t bits = philox_bits(3, s, static_cast<uint64_t>(t));
      segments[s].push_back(static_cast<int32_t>(bits % static_cast<uint32_t>(vocabulary)));
    }
  }
  return segments;
}

class FamilyQuantization : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Transformer> model(Dtype dtype = Dtype::f32) const {
    return load_model(fixture(GetParam()), dtype, Device::cpu());
  }
  ExpectedResults expected_{GetParam()};
};

struct Bits {
  int weights, activations;
};

TEST_P(FamilyQuantization, RunsAndReloadsToTheSameLogits) {
  const auto segments = segments_below(64, 4, 10);
  for (const Bits bits : {Bits{4, 16}, Bits{2, 16}, Bits{4, 4}}) {
    SCOPED_TRACE(concat("W", bits.weights, "A", bits.activations));
    const auto m = model();
    const std::vector<double> before = logits_of(*m, expected_);
    Settings settings = method_settings("cbq_windows", bits.weights, bits.activations);
    settings.epochs = 2;
    settings.batch = 2;
    settings.quantize_attention = bits.activations == 4;
    const RunResult result = quantize(*m, segments, settings, nullptr, {});
    ASSERT_EQ(result.windows.size(), 1u);
    EXPECT_LE(result.windows[0].loss_hard, result.windows[0].loss_before);
    for (const WindowLinear& l : linears_of(*m, {0, m->block_count()})) {
      ASSERT_NE(l.quantizers(), nullptr) << l.path;
      EXPECT_EQ(l.quantizers()->weight_quantizer->packed().bits, bits.weights) << l.path;
    }
    const std::vector<double> after = logits_of(*m, expected_);
    const double distance = relative_distance(after, before);
    EXPECT_GT(distance, 1e-3);
    EXPECT_LT(distance, 1.5);
    const TemporaryFolder folder;
    save_quantized(*m, folder / "q");
    const auto loaded = load_any_model(folder / "q", Dtype::f32, Device::cpu());
    EXPECT_EQ(logits_of(*loaded, expected_), after);
  }
}

/// Whether no norm stands in front of the linears, or its output is the residual stream as well, so
/// that nothing folds into it.
bool has_blocked_norms(const ModelConfig& config) {
  return !config.norm_first || config.residual_after_norm || config.model_type == "olmo2" ||
         config.model_type == "gemma3_text" || config.model_type == "gemma2";
}

TEST_P(FamilyQuantization, PreprocessingKeepsTheFunction) {
  size_t changed_by_any = 0;
  for (const char* names : {"outliers:3x20+cfp_activation", "outliers:3x20+smoothquant",
                            "outlier_suppression", "outliers:2x30+outlier_suppression_plus"}) {
    SCOPED_TRACE(names);
    auto m = model(Dtype::f64);
    const std::vector<double> before = logits_of(*m, expected_);
    std::vector<Tensor> values;
    for (auto& [path, p] : parameters_of(*m)) values.push_back(p.value());
    PreprocessContext context;
    context.weight.bits = context.activation.bits = 4;
    apply_preprocess(names, *m, segments_below(64, 4, 10), context);
    EXPECT_LE(relative_distance(logits_of(*m, expected_), before), 1e-11);
    size_t changed = 0, i = 0;
    for (auto& [path, p] : parameters_of(*m)) {
      changed += p.value().to_vector<double>() != values[i++].to_vector<double>();
    }
    const bool may_change_nothing = has_blocked_norms(m->config) || !m->config.norm_affine;
    EXPECT_TRUE(changed > 0 || may_change_nothing);
    changed_by_any += changed;
  }
  EXPECT_GT(changed_by_any, 0u) << "every family has a site where factors can move";
}

TEST_P(FamilyQuantization, EverySiteKeepsTheFunctionByItself) {
  std::vector<std::string> notes;
  auto counted = model(Dtype::f64);
  const size_t sites = fold_sites(*counted, "test", notes).size();
  EXPECT_GE(sites, 2u);  // one of each block at least
  for (size_t i = 0; i < sites; ++i) {
    auto m = model(Dtype::f64);
    const std::vector<double> before = logits_of(*m, expected_);
    const FoldSite site = fold_sites(*m, "test", notes)[i];
    SCOPED_TRACE(site.path);
    std::vector<double> s;
    for (int64_t c = 0; c < site.slots(); ++c) {
      const double factor = 0.25 + 0.5 * static_cast<double>((7 * c) % 11);
      s.push_back(c % 3 == 0 && !site.site.positive_only ? -factor : factor);
    }
    fold(site, s);
    EXPECT_LE(relative_distance(logits_of(*m, expected_), before), 1e-11);
    const Linear* reader = site.site.consumers.front();
    const auto weight = reader->weight.value().to_vector<double>();
    const FoldSite twin = fold_sites(*counted, "test", notes)[i];
    EXPECT_NE(weight, twin.site.consumers.front()->weight.value().to_vector<double>());
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyQuantization, ::testing::ValuesIn(fixture_names()),
                         [](const auto& one) { return test_name(one.param); });

std::vector<std::string> sites_of(const std::string& name, std::vector<std::string>& notes) {
  const auto m = load_model(fixture(name), Dtype::f32, Device::cpu());
  std::vector<std::string> paths;
  for (const FoldSite& site : fold_sites(*m, "test", notes)) {
    const std::string first = m->block_prefix(0);
    if (site.path.starts_with(first)) paths.push_back(site.path.substr(first.size()));
  }
  return paths;
}

TEST(FamilySites, WhichLayersFollowWhichNorm) {
  using Names = std::vector<std::string>;
  std::vector<std::string> notes;
  EXPECT_EQ(sites_of("opt", notes),
            (Names{"self_attn_layer_norm", "self_attn.v_proj", "final_layer_norm", "fc1"}));
  EXPECT_TRUE(notes.empty());
  EXPECT_EQ(sites_of("opt-post-norm", notes), (Names{"self_attn.v_proj", "fc1"}));
  EXPECT_EQ(notes.size(), 2u);
  notes.clear();
  EXPECT_EQ(sites_of("opt-bare", notes), (Names{"self_attn.v_proj", "fc1"}));
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_NE(notes[0].find("no weight"), std::string::npos) << notes[0];
  notes.clear();
  EXPECT_EQ(sites_of("bloom", notes), (Names{"input_layernorm", "self_attention.query_key_value",
                                             "post_attention_layernorm"}));
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("GELU"), std::string::npos) << notes[0];
  notes.clear();
  EXPECT_EQ(sites_of("bloom-post-norm-residual", notes), (Names{"self_attention.query_key_value"}));
  EXPECT_EQ(notes.size(), 3u);
  notes.clear();
  EXPECT_EQ(sites_of("phi3", notes), (Names{"input_layernorm", "self_attn.qkv_proj",
                                            "post_attention_layernorm", "mlp.gate_up_proj"}));
  EXPECT_TRUE(notes.empty());
  EXPECT_EQ(sites_of("stablelm", notes), (Names{"input_layernorm", "self_attn.v_proj",
                                                "post_attention_layernorm", "mlp.up_proj"}));
  EXPECT_EQ(sites_of("stablelm-parallel", notes),
            (Names{"input_layernorm", "self_attn.v_proj", "mlp.up_proj"}));
  EXPECT_TRUE(notes.empty());
  EXPECT_EQ(sites_of("olmo2", notes), (Names{"self_attn.v_proj", "mlp.up_proj"}));
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_NE(notes[0].find("residual stream itself is read"), std::string::npos) << notes[0];
  notes.clear();
  EXPECT_EQ(sites_of("gemma3", notes), (Names{"self_attn.v_proj", "mlp.up_proj"}));
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_NE(notes[0].find("1 + its weight"), std::string::npos) << notes[0];
  notes.clear();
  EXPECT_EQ(sites_of("gemma2", notes), (Names{"self_attn.v_proj", "mlp.up_proj"}));
  notes.clear();
  EXPECT_EQ(sites_of("gpt2-by-layer", notes), (Names{"ln_1", "attn.c_attn", "ln_2", "mlp.c_fc"}));
  EXPECT_TRUE(notes.empty());
  EXPECT_EQ(sites_of("gpt2", notes), (Names{"ln_1", "attn.c_attn", "ln_2"}));
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("GELU"), std::string::npos) << notes[0];
  notes.clear();
  EXPECT_EQ(sites_of("qwen3-moe-mixed", notes),
            (Names{"input_layernorm", "self_attn.v_proj", "mlp.experts.0.up_proj",
                   "mlp.experts.1.up_proj", "mlp.experts.2.up_proj", "mlp.experts.3.up_proj",
                   "mlp.experts.4.up_proj"}));
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_EQ(notes[0],
            "test: skipped in 1 blocks: post_attention_layernorm: a router reads it beside its "
            "experts");
  notes.clear();
  EXPECT_EQ(sites_of("gpt-neox", notes),
            (Names{"input_layernorm", "attention.query_key_value", "post_attention_layernorm"}));
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("GELU"), std::string::npos) << notes[0];
}

TEST(FamilySites, ReluTakesPositiveFactorsOnly) {
  const auto m = load_model(fixture("opt"), Dtype::f32, Device::cpu());
  std::vector<std::string> notes;
  const FoldSite site = fold_sites(*m, "test", notes)[3];
  std::vector<double> s(static_cast<size_t>(site.slots()), 1.0);
  s[5] = -2.0;
  expect_error<std::invalid_argument>([&] { fold(site, s); }, {"fc1", "-2", "positive"});
}

TEST(FamilyQuantization, BloomsFusedProjectionIsOneLayer) {
  const auto m = load_model(fixture("bloom-6-heads"), Dtype::f32, Device::cpu());
  const auto linears = m->blocks[0]->linears();
  ASSERT_EQ(linears.size(), 4u);
  EXPECT_EQ(linears[0].name, "self_attention.query_key_value");
  EXPECT_EQ(linears[0].linear->weight.shape(), (Shape{72, 24}));
}

class FamilyCli : public ::testing::TestWithParam<std::string> {};

TEST_P(FamilyCli, QuantizesInspectsAndEvaluates) {
  const TemporaryFolder folder;
  folder.write("ids.json", nlohmann::json(segments_below(64, 5, 10)).dump());
  const std::string model = fixture(GetParam()).string(), q = (folder / "q").string();
  const std::string ids = (folder / "ids.json").string();
  const RunOfCbq run =
      cbq({"quantize", model, "--output", q, "--calibration", ids, "--epochs", "1", "--wbits", "3",
           "--preprocess", "cfp_weight_activation", "--device", "cpu"});
  ASSERT_EQ(run.code, 0) << run.err;
  const RunOfCbq inspected = cbq({"inspect", q, "--original", model});
  ASSERT_EQ(inspected.code, 0) << inspected.err;
  const auto m = load_model(model, Dtype::f32, Device::cpu());
  for (const WindowLinear& l : linears_of(*m, {0, m->block_count()})) {
    EXPECT_NE(inspected.out.find(l.path), std::string::npos) << l.path << "\n" << inspected.out;
  }
  EXPECT_NE(inspected.out.find(m->config.architecture), std::string::npos);
  EXPECT_EQ(cbq({"evaluate", q, "--tokens", ids, "--device", "cpu"}).code, 0);
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyCli,
                         ::testing::Values("opt-post-norm", "bloom-6-heads", "mistral", "qwen3",
                                           "granite", "smollm3", "phi3", "olmo2", "gpt-neox",
                                           "gemma3", "stablelm-parallel", "gemma2", "gpt2",
                                           "qwen3-moe-mixed"),
                         [](const auto& one) { return test_name(one.param); });

}  // namespace
}  // namespace cbq::test::test_family_quantization
