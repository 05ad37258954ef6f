// Every family against transformers: logits in f32 and bf16, loss, gradients.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/functions.h"
#include "nn/alibi.h"
#include "nn/families/family.h"
#include "tests/fixtures.h"
#include "tests/test_data.h"

namespace cbq::test::test_families {
namespace {

class Parity : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Transformer> model(Dtype dtype) const {
    return load_model(fixture(GetParam()), dtype, Device::cpu());
  }
  double expected_nll(const char* dtype) const {
    return expected_.file.load(std::string("nll_") + dtype).item();
  }
  ExpectedResults expected_{GetParam()};
};

TEST_P(Parity, LogitsInF32) {
  const auto m = model(Dtype::f32);
  const auto want = expected_.file.load("logits_f32").to_vector<double>();
  EXPECT_LE(relative_distance(logits_of(*m, expected_), want), 1e-5);
  const Var logits = m->forward(expected_.inputs, expected_.sequence);
  EXPECT_NEAR(ag::cross_entropy(logits, expected_.targets).value().item(), expected_nll("f32"),
              1e-5 * expected_nll("f32"));
}

TEST_P(Parity, LogitsInBf16) {
  const auto m = model(Dtype::bf16);
  const Var logits = m->forward(expected_.inputs, expected_.sequence);
  ASSERT_EQ(logits.dtype(), Dtype::bf16);
  const auto want = expected_.file.load("logits_bf16").to_vector<double>();
  const double distance = relative_distance(logits.value().to_vector<double>(), want);
  const double nll = ag::cross_entropy(logits, expected_.targets).value().item();
  EXPECT_LE(distance, std::ldexp(1.0, -7));
  EXPECT_NEAR(nll, expected_nll("bf16"), 2e-3);
  RecordProperty("distance", concat(distance));
}

TEST_P(Parity, GradientsInF32) {
  const auto m = model(Dtype::f32);
  auto parameters = parameters_of(*m);
  for (auto& [path, p] : parameters) p.set_requires_grad(true);
  {
    Tape tape;
    tape.backward(
        ag::cross_entropy(m->forward(expected_.inputs, expected_.sequence), expected_.targets));
  }
  size_t compared = 0;
  for (auto& [path, p] : parameters) {
    if (!expected_.file.has("grad." + path)) continue;
    const auto want = expected_.file.load("grad." + path).to_vector<double>();
    ASSERT_TRUE(p.grad().defined()) << path;
    const auto got = p.grad().to_vector<double>();
    // Without rotary embedding a key's bias moves all scores of a query alike: both gradients are
    // noise around 0.
    if (m->config.architecture == "OPTForCausalLM" && path.ends_with("k_proj.bias")) {
      for (const double g : got) EXPECT_LT(std::abs(g), 1e-6) << path;
    } else {
      EXPECT_LE(relative_distance(got, want), 1e-4) << path;
    }
    ++compared;
  }
  size_t stored = 0;
  for (const std::string& name : expected_.file.names()) stored += name.starts_with("grad.");
  EXPECT_EQ(compared, stored) << "a gradient's name is not one of the model's parameters";
  EXPECT_GE(compared, 4u);
}

TEST_P(Parity, SavedModelIsTheSameModel) {
  const TemporaryFolder folder;
  const auto m = model(Dtype::f32);
  save_model(*m, folder / "m", Dtype::f32);
  EXPECT_EQ(logits_of(*load_model(folder / "m", Dtype::f32, Device::cpu()), expected_),
            logits_of(*m, expected_));
}

TEST_P(Parity, ConfigIsWrittenAsRead) {
  const ModelConfig config = ModelConfig::load(fixture(GetParam()));
  const nlohmann::json before = nlohmann::json::parse(config.source), after = config.to_json();
  for (const auto& [key, value] : before.items()) EXPECT_EQ(after.at(key), value) << key;
  ModelConfig made_here = config;
  made_here.source.clear();
  const ModelConfig again = ModelConfig::from_json(made_here.to_json(), "made here");
  EXPECT_EQ(again.to_json(), made_here.to_json());
  EXPECT_EQ(parameters_of(*make_model(again, Dtype::f32, Device::cpu())).size(),
            parameters_of(*model(Dtype::f32)).size());
}

INSTANTIATE_TEST_SUITE_P(Families, Parity, ::testing::ValuesIn(fixture_names()),
                         [](const auto& one) { return test_name(one.param); });

TEST(Families, EveryArchitectureHasAFixture) {
  std::set<std::string> seen;
  for (const std::string& name : fixture_names()) {
    seen.insert(ModelConfig::load(fixture(name)).architecture);
  }
  const std::vector<std::string> known = known_architectures();
  EXPECT_EQ(seen, std::set<std::string>(known.begin(), known.end()));
  EXPECT_EQ(
      known,
      (std::vector<std::string>{
          "BloomForCausalLM", "GPT2LMHeadModel", "GPTNeoXForCausalLM", "Gemma2ForCausalLM",
          "Gemma3ForCausalLM", "GraniteForCausalLM", "LlamaForCausalLM", "MistralForCausalLM",
          "OPTForCausalLM", "Olmo2ForCausalLM", "Phi3ForCausalLM", "Qwen2ForCausalLM",
          "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "SmolLM3ForCausalLM", "StableLmForCausalLM"}));
}

TEST(Families, AreKnownByTheirModelType) {
  for (const std::string& name : fixture_names()) {
    const ModelConfig config = ModelConfig::load(fixture(name));
    nlohmann::json json = nlohmann::json::parse(config.source);
    json.erase("architectures");
    EXPECT_EQ(ModelConfig::from_json(json, "x").architecture, config.architecture);
  }
}

/// Every tensor as transformers wrote it, in its shape: GPT-2's matrices are [in, out] there.
TEST(Families, SavedTensorsHaveTheLayoutOfTransformers) {
  for (const std::string& name : fixture_names()) {
    SCOPED_TRACE(name);
    const TemporaryFolder folder;
    const auto model = load_model(fixture(name), Dtype::f32, Device::cpu());
    save_model(*model, folder / "m", Dtype::f16);
    const Checkpoint saved(folder / "m"), original(fixture(name));
    const Family& family = family_of(model->config.architecture);
    size_t compared = 0;
    for (const std::string& path : saved.names()) {
      const std::string theirs = family.checkpoint_name(model->config, original, path);
      const Tensor a = saved.load(path), b = original.load(theirs);
      EXPECT_EQ(a.shape(), b.shape()) << path;
      EXPECT_EQ(a.to_vector<double>(), b.to_vector<double>()) << path;
      ++compared;
    }
    EXPECT_EQ(compared, original.names().size());
  }
}

TEST(Families, Gpt2IsTransposedInFoldersAlone) {
  const auto model = load_model(fixture("gpt2"), Dtype::f32, Device::cpu());
  const Checkpoint folder(fixture("gpt2"));
  EXPECT_EQ(folder.info("h.0.attn.c_attn.weight").shape, (Shape{32, 96}));
  EXPECT_EQ(folder.info("h.0.mlp.c_proj.weight").shape, (Shape{128, 32}));
  const auto linears = model->block(0).linears();
  ASSERT_EQ(linears.size(), 4u);
  EXPECT_EQ(linears[0].linear->weight.shape(), (Shape{96, 32}));
  EXPECT_EQ(linears[3].linear->weight.shape(), (Shape{32, 128}));
}

TEST(Families, Qwen3MoeHasExpertsInSomeBlocks) {
  const auto model = load_model(fixture("qwen3-moe-mixed"), Dtype::f32, Device::cpu());
  EXPECT_EQ(model->block(0).expert_count(), 5);
  EXPECT_EQ(model->block(1).expert_count(), 0);
  EXPECT_EQ(model->block(0).linears().size(), 4u + 3 * 5);
  EXPECT_EQ(model->block(1).linears().size(), 7u);
  for (const NamedLinear& l : model->block(0).linears()) {  // the router is no linear
    EXPECT_NE(l.name, "mlp.gate");
    EXPECT_EQ(l.linear->expert >= 0, l.name.starts_with("mlp.experts.")) << l.name;
  }
  const auto groups = linears_by_input(model->block(0));
  ASSERT_EQ(groups.size(), 2u + 2 * 5);  // q k v | o | gate up, down of each expert
  EXPECT_EQ(groups[2].size(), 2u);
  EXPECT_EQ(groups[3].front().name, "mlp.experts.0.down_proj");
}

TEST(Families, FirstGradientStepLowersTheLoss) {  // every parameter takes part in the function
  for (const std::string& name : fixture_names()) {
    const auto m = load_model(fixture(name), Dtype::f64, Device::cpu());
    const ExpectedResults expected(name);
    auto parameters = parameters_of(*m);
    for (auto& [path, p] : parameters) p.set_requires_grad(true);
    double before = 0.0, squares = 0.0;
    {
      Tape tape;
      const Var loss =
          ag::cross_entropy(m->forward(expected.inputs, expected.sequence), expected.targets);
      before = loss.value().item();
      tape.backward(loss);
    }
    constexpr double step = 1e-5;
    for (auto& [path, p] : parameters) {
      ASSERT_TRUE(p.grad().defined()) << name << " " << path;
      squares += kernels::sum_of_squares(p.grad());
      p.set_value(kernels::sub(p.value(), kernels::scale(p.grad(), step)));
    }
    const double after =
        ag::cross_entropy(m->forward(expected.inputs, expected.sequence), expected.targets)
            .value()
            .item();
    EXPECT_NEAR((before - after) / (step * squares), 1.0, 1e-2) << name;
  }
}

TEST(Alibi, Slopes) {
  EXPECT_EQ(alibi_slopes(4, Device::cpu()).to_vector<double>(),
            (std::vector<double>{1.0 / 4, 1.0 / 16, 1.0 / 64, 1.0 / 256}));
  EXPECT_EQ(alibi_slopes(6, Device::cpu()).to_vector<double>(),
            (std::vector<double>{1.0 / 4, 1.0 / 16, 1.0 / 64, 1.0 / 256, 1.0 / 2, 1.0 / 8}));
  EXPECT_EQ(alibi_slopes(1, Device::cpu()).to_vector<double>(), (std::vector<double>{1.0 / 256}));
  EXPECT_EQ(alibi_slopes(112, Device::cpu()).count(), 112);  // BLOOM-176B
  EXPECT_THROW(alibi_slopes(0, Device::cpu()), std::invalid_argument);
}

TEST(Families, SlidingWindowsEndTheContext) {
  const auto m = load_model(fixture("mistral"), Dtype::f32, Device::cpu());
  EXPECT_EQ(m->config.context(), 16);
  EXPECT_NO_THROW(m->embed(Tensor::zeros({16}, Dtype::i32), {1, 16}));
  expect_error<std::invalid_argument>(
      [&] {
        m->embed(Tensor::zeros({17}, Dtype::i32), {1, 17});
      },
      {"17", "attention window of 16", "sliding", "--segment-length"});
  const auto opt = load_model(fixture("opt"), Dtype::f32, Device::cpu());
  expect_error<std::invalid_argument>(
      [&] {
        opt->embed(Tensor::zeros({33}, Dtype::i32), {1, 33});
      },
      {"33", "context of 32"});
}

}  // namespace
}  // namespace cbq::test::test_families
