// A GPU against the CPU, from the integers of a weight to a whole window, an evaluation and a
// training step. In cbq_simt_tests the CPU's emulated grids take the GPU's place.
//
// What must be the same to the byte is compared so: grids, codes and everything else of quant/. The
// rest differs by roundings, and a rounding can move an integer: how many of them moved is printed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "autograd/worst_error.h"
#include "cbq/methods.h"
#include "cbq/quantizers.h"
#include "cbq/reconstructor.h"
#include "experiments/tasks/scoring.h"
#include "nn/perplexity.h"
#include "nn/trainer.h"
#include "quant/activation_kernels.h"
#include "quant/transforms/local/preprocessor.h"
#include "tests/compared_device.h"
#include "tests/fixtures.h"
#include "tests/tiny_model.h"

namespace cbq::test_device_agreement {
namespace {

using test::compared_device;
using test::model_on;
using test::on_the_host;

/// What `f(device)` gives on the host and where there are grids.
template <class F>
auto on_both(F&& f) {
  std::pair<decltype(f(Device::cpu())), decltype(f(Device::cpu()))> results;
  on_the_host([&] { results.first = f(Device::cpu()); });
  results.second = f(*compared_device());
  return results;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(Device::cpu()), y = b.to(Device::cpu());
  return x.shape() == y.shape() && x.dtype() == y.dtype() &&
         std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.bytes())) == 0;
}

double relative(double a, double b) { return std::abs(a - b) / std::max(std::abs(a), 1e-12); }

/// Largest relative difference; infinite for NaN and for lists of unequal length.
double largest_relative_difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  WorstError worst;
  for (size_t i = 0; i < a.size(); ++i) worst.add(relative(a[i], b[i]));
  return worst.value();
}

/// For the report of tools/gpu_check.
void say(const std::string& line) { std::printf("[ AGREEMENT ] %s\n", line.c_str()); }

// ---- to the byte -----------------------------------------------------------------------------

Tensor normal(const Shape& shape, double deviation, uint64_t stream, Dtype dtype = Dtype::f32) {
  Tensor t(shape, Dtype::f32);
  on_the_host([&] {
    kernels::fill_normal(t, 0.0, deviation, 31, stream);
    t = kernels::cast(t, dtype);
  });
  return t;
}

/// Grid, quantized weight and codes of one scheme; rank -1: dense variables.
std::vector<Tensor> weight_results(const std::string& scheme, int64_t rank, Dtype dtype,
                                   bool symmetric, Device device) {
  const auto rounding = rounding_schemes().make(scheme);
  const Shape shape = {19, 264};
  WeightConfig config{.bits = 3,
                      .symmetric = symmetric,
                      .granularity = Granularity::per_group,
                      .group_size = 88,
                      .search = ScaleSearch::min_max};
  RoundingPass pass;
  pass.w = normal(shape, 0.02, 1, dtype).to(device);
  const WeightGrid grid = weight_grid(pass.w, config, "layer");
  pass.scale = grid.scale;
  pass.zero_point = grid.zero_point;
  pass.bits = config.bits;
  pass.group = grid.group;
  pass.unit = kernels::scale(grid.scale, 1.25);
  pass.start = rounding->default_start();
  if (rank < 0) pass.dense = normal(shape, 0.2, 2).to(device);
  if (rank > 0) {
    pass.a1 = normal({shape[0], rank}, 0.4, 3).to(device);
    pass.a2 = normal({rank, shape[1]}, 0.15, 4).to(device);
  }
  std::vector<Tensor> results = {grid.scale, grid.zero_point};
  for (const bool hard : {false, true}) {
    pass.hard = hard;
    results.push_back(rounding->forward(pass));
  }
  const Tensor codes = rounding->codes(pass), packed = pack_codes(codes, config.bits);
  results.insert(results.end(), {codes, packed, unpack_codes(packed, config.bits, shape[1])});
  return results;
}

TEST(DeviceAgreement, CudaGivesTheSameWeightsAndCodesToTheByte) {
  SKIP_WITHOUT_GRIDS();
  for (const std::string& scheme : rounding_schemes().names()) {
    for (const int64_t rank : {0, -1, 5}) {
      for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
        for (const bool symmetric : {false, true}) {
          SCOPED_TRACE(concat(scheme, " rank ", rank, " ", name_of(dtype), " ", symmetric));
          const auto [host, device] =
              on_both([&](Device d) { return weight_results(scheme, rank, dtype, symmetric, d); });
          ASSERT_EQ(host.size(), device.size());
          for (size_t i = 0; i < host.size(); ++i) {
            EXPECT_TRUE(same_bytes(host[i], device[i])) << "result " << i;
          }
        }
      }
    }
  }
}

TEST(DeviceAgreement, CudaGivesTheSameActivationsToTheByte) {
  SKIP_WITHOUT_GRIDS();
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    for (const auto granularity : {Granularity::per_token, Granularity::per_tensor}) {
      for (const bool symmetric : {false, true}) {
        const ActivationConfig config{
            .bits = 4, .symmetric = symmetric, .granularity = granularity};
        const auto [host, device] = on_both([&](Device d) {
          const Tensor x = normal({13, 328}, 1.5, 7, dtype).to(d);
          const Tensor clip = Tensor::from<float>({-0.2f}, {1}).to(d);
          const ActivationRange range =
              granularity == Granularity::per_tensor ? range_of(x) : ActivationRange{};
          return quantize_activation(x, clip, range, config);
        });
        EXPECT_TRUE(same_bytes(host, device))
            << name_of(dtype) << name_of(granularity) << symmetric;
      }
    }
  }
}

TEST(DeviceAgreement, CudaDrawsTheSameRandomNumbers) {
  SKIP_WITHOUT_GRIDS();
  const auto draw = [](Device d, bool uniform) {
    const Tensor t({1001}, Dtype::f32, d);
    if (uniform) {
      kernels::fill_uniform(t, 0.0, 1.0, 5, 6);
    } else {
      kernels::fill_normal(t, 0.0, 1.0, 5, 6);
    }
    return t;
  };
  const auto [host, device] = on_both([&](Device d) { return draw(d, true); });
  EXPECT_TRUE(same_bytes(host, device));
  // Logarithm and cosine are the library's of each device.
  const auto [a, b] = on_both([&](Device d) { return draw(d, false).to_vector<double>(); });
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 2e-6 * (1.0 + std::abs(a[i])));
}

// ---- a whole window --------------------------------------------------------------------------

struct WindowRun {
  std::vector<double> first_losses, losses;  // of the first steps; before, relaxed, hard
  std::vector<int32_t> codes;                // of all weights, at the end
  int64_t moved = 0;                         // codes that are not the nearest on the first grid
};

/// Codes that round-to-nearest gives the weights of `grid`.
std::vector<int32_t> nearest_codes(const Tensor& w, const WeightGrid& grid) {
  const auto x = w.to_vector<float>(), s = grid.scale.to_vector<float>(),
             z = grid.zero_point.to_vector<float>();
  std::vector<int32_t> codes;
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t g = i / static_cast<size_t>(grid.group);
    const float code = std::nearbyint(x[i] / s[g]) + z[g];
    codes.push_back(
        static_cast<int32_t>(std::clamp(code, 0.0f, static_cast<float>(max_code(grid.bits)))));
  }
  return codes;
}

/// A window of a tiny model, learned twice: its first steps one by one, then the whole run.
class WindowOn {
 public:
  WindowOn(const Settings& settings, Dtype dtype, Device device) : settings_(settings) {
    const auto host = tiny_model(2);
    model_ = model_on(*host, dtype, device);
    original_ = cache_in_memory(*model_, segments_);
  }
  WindowRun run() {
    WindowRun result;
    const auto first = reconstructor();
    for (int64_t step = 0; step < 4; ++step) {
      first->train_step(step, {step, step + 1});
      result.first_losses.push_back(first->take_mean_loss());
    }
    const WindowReport report = reconstructor()->run(nullptr);
    result.losses = {report.loss_before, report.loss_relaxed, report.loss_hard};
    EXPECT_EQ(report.trouble, "");
    harden_blocks(*model_, scheduled_.window);
    for (const WindowLinear& l : linears_of(*model_, scheduled_.window)) {
      const WeightQuantizer& quantizer = *l.quantizers()->weight_quantizer;
      const PackedWeight& packed = quantizer.packed();
      const auto codes = unpack_codes(packed.codes, packed.bits, packed.in).to_vector<int32_t>();
      const auto nearest = nearest_codes(l.linear->weight.value(), quantizer.start_grid());
      for (size_t i = 0; i < codes.size(); ++i) result.moved += codes[i] != nearest[i];
      result.codes.insert(result.codes.end(), codes.begin(), codes.end());
    }
    return result;
  }

 private:
  std::unique_ptr<Reconstructor> reconstructor() {
    for (const WindowLinear& l : linears_of(*model_, scheduled_.window)) {
      l.linear->transform = nullptr;
    }
    const Tensor inputs = original_->get(0, 0, 7);
    attach_quantizers(*model_, scheduled_.window, settings_, inputs);
    return std::make_unique<Reconstructor>(*model_, settings_, scheduled_, 0,
                                           WindowData{inputs, {original_->get(2, 0, 7)}});
  }

  Settings settings_;
  std::unique_ptr<Transformer> model_;
  Segments segments_ = tiny_segments(7, 12);
  ScheduledWindow scheduled_{{0, 2}, 2};
  std::shared_ptr<ActivationCache> original_;
};

struct WindowCase {
  const char* name;
  const char* rounding;
  const char* parameterization;
  int wbits, abits;
  Dtype dtype;
};

void PrintTo(const WindowCase& c, std::ostream* out) { *out << c.name; }

class WindowAgreement : public testing::TestWithParam<WindowCase> {};

INSTANTIATE_TEST_SUITE_P(
    Cuda, WindowAgreement,
    testing::Values(WindowCase{"nearest", "nearest", "default", 4, 16, Dtype::f32},
                    WindowCase{"adaround", "adaround", "dense", 2, 16, Dtype::f32},
                    WindowCase{"lora", "lora_rounding", "low_rank", 2, 16, Dtype::f32},
                    WindowCase{"signround", "signround", "dense", 2, 16, Dtype::f32},
                    WindowCase{"direct", "direct", "dense", 2, 16, Dtype::f32},
                    WindowCase{"signround_w4a4", "signround", "low_rank", 4, 4, Dtype::f32},
                    WindowCase{"signround_bf16", "signround", "dense", 2, 16, Dtype::bf16},
                    WindowCase{"lora_bf16", "lora_rounding", "low_rank", 4, 16, Dtype::bf16},
                    WindowCase{"w4a4_bf16", "signround", "low_rank", 4, 4, Dtype::bf16}),
    [](const auto& p) { return std::string(p.param.name); });

TEST_P(WindowAgreement, LossesAreEqualToRoundingAndFewCodesDiffer) {
  SKIP_WITHOUT_GRIDS();
  const WindowCase& c = GetParam();
  Settings settings = method_settings("cbq_windows", c.wbits, c.abits);
  settings.rounding = c.rounding;
  settings.parameterization = c.parameterization;
  settings.batch = 2;
  settings.epochs = 4;
  settings.rate_rounding = c.rounding == std::string("direct") ? 0.005 : 0.05;
  const auto [host, device] =
      on_both([&](Device d) { return WindowOn(settings, c.dtype, d).run(); });
  int64_t differ = 0;
  ASSERT_EQ(host.codes.size(), device.codes.size());
  for (size_t i = 0; i < host.codes.size(); ++i) differ += host.codes[i] != device.codes[i];
  const auto moved = static_cast<double>(host.moved);
  const auto codes = static_cast<double>(host.codes.size());
  const double share = static_cast<double>(differ) / codes;
  const double first = relative(host.first_losses[0], device.first_losses[0]);
  const double steps = largest_relative_difference(host.first_losses, device.first_losses);
  const double end = largest_relative_difference(host.losses, device.losses);
  say(concat("window, ", c.name, ", ", name_of(c.dtype), ", W", c.wbits, "A", c.abits,
             ": losses differ by ", first, " (first step), ", steps, " (four steps), ", end,
             " (before, relaxed, hard); ", 100.0 * share, " % of ", host.codes.size(),
             " codes differ, ", 100.0 * moved / codes, " % were learned"));
  const bool nearest = c.rounding == std::string("nearest");
  EXPECT_TRUE(host.moved > 0 || nearest) << "nothing was learned";
  EXPECT_TRUE(device.moved > 0 || nearest) << "nothing was learned on the device";
  const bool half = c.dtype == Dtype::bf16, coarse = half || c.abits < 16;
  EXPECT_LE(first, half ? 1e-2 : coarse ? 1e-3 : 1e-5);
  EXPECT_LE(steps, coarse ? 5e-2 : 1e-4);
  EXPECT_LE(end, coarse ? 0.1 : 1e-2);
  // Of what was learned: two runs that learned apart would differ by up to twice that.
  EXPECT_LE(static_cast<double>(differ), std::max((coarse ? 0.5 : 0.05) * moved, 0.001 * codes));
}

// ---- evaluation, training, scoring, pre-processing -------------------------------------------

class ModelAgreement : public testing::TestWithParam<Dtype> {};

INSTANTIATE_TEST_SUITE_P(Cuda, ModelAgreement, testing::Values(Dtype::f32, Dtype::bf16),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST_P(ModelAgreement, PerplexityIsEqualToRounding) {
  SKIP_WITHOUT_GRIDS();
  const auto [host, device] = on_both([&](Device d) {
    const auto model = model_on(*tiny_model(2), GetParam(), d);
    return perplexity(*model, tiny_segments(9, 17), 4, {}).segment;
  });
  const double difference = largest_relative_difference(host, device);
  say(concat("perplexity, ", name_of(GetParam()), ": segments differ by ", difference));
  EXPECT_LE(difference, GetParam() == Dtype::f32 ? 1e-5 : 1e-2);
}

TEST_P(ModelAgreement, ScoresOfPackedRequestsAreEqualToRounding) {
  SKIP_WITHOUT_GRIDS();
  std::vector<EncodedRequest> requests;
  for (const auto& ids : tiny_segments(6, 11)) {
    for (const int64_t scored : {1, 3}) requests.push_back({ids, scored});
    requests.push_back({{ids.begin(), ids.begin() + 5}, 2});
  }
  const auto [host, device] = on_both([&](Device d) {
    const auto model = model_on(*tiny_model(2), GetParam(), d);
    std::vector<double> all;
    for (const RequestScore& s : score(*model, requests, {.tokens = 40, .want_greedy = true})) {
      all.push_back(s.log_likelihood);
    }
    return all;
  });
  const double difference = largest_relative_difference(host, device);
  say(concat("scores, ", name_of(GetParam()), ": requests differ by ", difference));
  EXPECT_LE(difference, GetParam() == Dtype::f32 ? 1e-5 : 2e-2);
}

/// Logits of a family's small model, and losses of the first steps of a window of its first block.
struct FamilyResults {
  std::vector<double> logits, losses;
};
FamilyResults family_results(const std::string& name, Device device) {
  const auto host = load_model(test::fixture(name), Dtype::f32, Device::cpu());
  const auto model = model_on(*host, Dtype::f32, device);
  const int64_t vocabulary = model->config.vocab_size;
  const auto length = std::min<int64_t>(12, model->config.context());
  const Segments segments = tiny_segments(4, length, vocabulary);
  FamilyResults results;
  {
    const NoGrad none;
    const Tensor ids = Tensor::from(segments[0], {length}, Dtype::i32).to(device);
    results.logits = model->forward(ids, {1, length}).value().to_vector<double>();
  }
  Settings settings = method_settings("cbq_windows", 4, 8);
  settings.batch = 2;
  const ScheduledWindow window{{0, 1}, 1};
  const auto original = cache_in_memory(*model, segments);
  attach_quantizers(*model, window.window, settings, original->get(0, 0, 4));
  Reconstructor reconstructor(*model, settings, window, 0,
                              {original->get(0, 0, 4), {original->get(1, 0, 4)}});
  for (int64_t step = 0; step < 2; ++step) {
    reconstructor.train_step(step, {2 * step, 2 * step + 1});
    results.losses.push_back(reconstructor.take_mean_loss());
  }
  return results;
}

TEST(DeviceAgreement, CudaRunsEveryFamily) {
  SKIP_WITHOUT_GRIDS();
  for (const std::string& name : test::fixture_names()) {
    const auto [host, device] = on_both([&](Device d) { return family_results(name, d); });
    const double logits = test::relative_distance(device.logits, host.logits);
    const double losses = largest_relative_difference(host.losses, device.losses);
    say(concat("family ", name, ", f32: logits differ by ", logits,
               ", losses of two steps at W4A8 by ", losses));
    EXPECT_LE(logits, 1e-5) << name;
    EXPECT_LE(losses, 1e-2) << name;
  }
}

TEST(DeviceAgreement, CudaTrainsTheSameModel) {
  SKIP_WITHOUT_GRIDS();
  std::vector<int32_t> stream;
  for (const auto& ids : tiny_segments(40, 20)) stream.insert(stream.end(), ids.begin(), ids.end());
  const TrainSettings settings{.steps = 6, .batch = 3, .tokens = 14, .warmup = 2};
  const auto [host, device] = on_both([&](Device d) {
    const auto model = model_on(*tiny_model(2), Dtype::f32, d);
    std::vector<double> losses;
    TrainHooks hooks;
    hooks.progress = [&](int64_t, double loss, double, double) { losses.push_back(loss); };
    train(*model, stream, settings, hooks);
    return losses;
  });
  const double difference = largest_relative_difference(host, device);
  say(concat("training, f32: losses of 6 steps differ by ", difference));
  ASSERT_EQ(host.size(), 6u);
  EXPECT_LE(difference, 1e-4);
}

TEST(DeviceAgreement, CudaPreprocessesTheSameModel) {
  SKIP_WITHOUT_GRIDS();
  const Segments segments = tiny_segments(5, 14);
  for (const std::string& name : preprocessors().names()) {
    if (name == "none") continue;
    const std::string stage = name == "outliers" ? "outliers:2x8" : name;
    const auto [host, device] = on_both([&](Device d) {
      const auto model = model_on(*tiny_model(2), Dtype::f32, d);
      PreprocessContext context;
      context.weight.bits = 3;
      context.activation.bits = 6;
      apply_preprocess(stage, *model, segments, context);
      std::vector<double> values;
      for (const auto& [path, p] : parameters_of(*model)) {
        for (const double v : p.value().to_vector<double>()) values.push_back(v);
      }
      for (const auto& [path, clip] : context.activation_clip) values.push_back(clip);
      return values;
    });
    ASSERT_EQ(host.size(), device.size()) << stage;
    int64_t differ = 0;
    for (size_t i = 0; i < host.size(); ++i) {
      differ += !(std::abs(host[i] - device[i]) <= 1e-5 * (1.0 + std::abs(host[i])));
    }
    // A search may take its neighbour where two candidates are equally good.
    const double share = static_cast<double>(differ) / static_cast<double>(host.size());
    say(concat("pre-processing, ", stage, ": ", 100.0 * share, " % of ", host.size(),
               " parameters and clip ratios differ"));
    EXPECT_LE(share, 0.02) << stage;
  }
}

}  // namespace
}  // namespace cbq::test_device_agreement
