// OmniQuant, block after block, against an independent PyTorch implementation: what every epoch
// loses, and the likelihood of the result (tools/fixtures/make_omniquant_fixture.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cbq/methods.h"
#include "cbq/quantizers.h"
#include "cbq/reconstructor.h"
#include "nn/formats/json.h"
#include "nn/perplexity.h"
#include "quant/transforms/local/preprocessor.h"
#include "tests/fixtures.h"
#include "tests/test_data.h"

namespace cbq::test::test_omniquant {
namespace {

using Losses = std::vector<std::vector<double>>;  // by block and epoch

struct Result {
  Losses losses;
  double nll = 0.0;
};

double mean_nll(Transformer& model, const Segments& segments) {
  double sum = 0.0;
  int64_t tokens = 0;
  for (const std::vector<int32_t>& ids : segments) {
    const auto n = static_cast<int64_t>(ids.size()) - 1;
    const std::vector<int32_t> in(ids.begin(), ids.end() - 1), next(ids.begin() + 1, ids.end());
    const Var logits = model.forward(Tensor::from(in, {n}, Dtype::i32), {1, n});
    sum += kernels::sum(kernels::cross_entropy(logits.value(), Tensor::from(next, {n}))).item();
    tokens += n;
  }
  return sum / static_cast<double>(tokens);
}

/// The method's windows, with the segments of every epoch in the order of the reference.
Result run(Transformer& model, const nlohmann::json& reference) {
  const auto segments = reference.at("ids").get<Segments>();
  Settings settings = method_settings("omniquant", reference.at("wbits").get<int>(),
                                      reference.at("abits").get<int>());
  settings.epochs = reference.at("epochs").get<int64_t>();
  settings.homologous = reference.at("homologous").get<bool>();
  validate(settings, model.block_count());
  const auto count = static_cast<int64_t>(segments.size());
  const std::shared_ptr<ActivationCache> original = cache_in_memory(model, segments);
  PreprocessContext context;
  context.weight = settings.weight_config("", false);
  context.activation = settings.activation_config();
  apply_preprocess(settings.preprocess, model, segments, context);

  Result result;
  Tensor stream = embed_segments(model, segments);
  for (int64_t b = 0; b < model.block_count(); ++b) {
    const Window window{b, 1};
    WindowData data{stream, {original->get(b + 1, 0, count)}};
    if (settings.homologous) data.targets.push_back(run_blocks(model, window, stream));
    attach_learned_scaling(model, window, context.learned_scaling);
    attach_quantizers(model, window, settings, stream);
    Reconstructor reconstructor(model, settings, {window, 1}, b, std::move(data));
    std::vector<double>& losses = result.losses.emplace_back();
    int64_t step = 0;
    for (int64_t epoch = 0; epoch < settings.epochs; ++epoch) {
      for (int64_t i = 0; i < count; ++i) reconstructor.train_step(step++, {i});
      losses.push_back(reconstructor.take_mean_loss());
    }
    harden_blocks(model, window);
    stream = run_blocks(model, window, stream);
  }
  result.nll = mean_nll(model, reference.at("held_out").get<Segments>());
  return result;
}

std::filesystem::path folder_of_fixtures() {
  return std::filesystem::path(CBQ_SOURCE_DIR) / "tests/fixtures/omniquant";
}

std::vector<std::string> cases() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder_of_fixtures())) {
    names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class OmniQuant : public ::testing::TestWithParam<std::string> {};

TEST_P(OmniQuant, LosesInEveryEpochWhatAnIndependentProgramLoses) {
  const nlohmann::json reference = read_json_file(folder_of_fixtures() / (GetParam() + ".json"));
  const std::string name = reference.at("model");
  std::filesystem::path folder = test::fixture(name);
  if (name == "stories260K_hf") {
    SKIP_WITHOUT_TEST_DATA();
    folder = test_data() / "models" / name;
  }
  const auto model = load_model(folder, Dtype::f32, Device::cpu());
  EXPECT_NEAR(mean_nll(*model, reference.at("held_out").get<Segments>()),
              reference.at("nll_original").get<double>(), 1e-4);
  const Result result = run(*model, reference);
  const auto expected = reference.at("losses").get<Losses>();
  ASSERT_EQ(result.losses.size(), expected.size());
  double worst = 0.0;
  for (size_t b = 0; b < expected.size(); ++b) {
    ASSERT_EQ(result.losses[b].size(), expected[b].size());
    for (size_t e = 0; e < expected[b].size(); ++e) {
      EXPECT_NEAR(result.losses[b][e], expected[b][e], 1e-3 * expected[b][e])
          << "block " << b << ", epoch " << e;
      worst = std::max(worst, std::abs(result.losses[b][e] / expected[b][e] - 1.0));
    }
  }
  EXPECT_NEAR(result.nll, reference.at("nll").get<double>(), 2e-4);
  RecordProperty("worst_loss", std::to_string(worst));
  RecordProperty("nll", std::to_string(result.nll));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, OmniQuant, ::testing::ValuesIn(cases()),
                         [](const auto& one) { return test_name(one.param); });

}  // namespace
}  // namespace cbq::test::test_omniquant
