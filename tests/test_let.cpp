// The learnable equivalent transformation: its start, that no factor changes a model's function,
// gradients, and the contract of what is learned in a window.
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/functions.h"
#include "autograd/worst_error.h"
#include "cbq/learnable.h"
#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "cbq/quantizers.h"
#include "tests/fixtures.h"
#include "tests/test_data.h"
#include "tests/test_preprocess_model.h"

namespace cbq::test::test_let {
namespace {

using Doubles = std::vector<double>;

std::vector<std::vector<int32_t>> segments_below_64() {
  std::vector<std::vector<int32_t>> segments(4);
  for (int s = 0; s < 4; ++s) {
    for (int t = 0; t < 12; ++t)
      segments[static_cast<size_t>(s)].push_back((5 * s + 7 * t * t + t) % 64);
  }
  return segments;
}

/// Runs the stage and puts the factors that it leaves on all blocks.
std::vector<std::string> put_factors(Transformer& model, const std::string& stage = "let",
                                     int abits = 4) {
  PreprocessContext context = context_of(4, abits);
  const auto segments = model.config.vocab_size == 64 ? segments_below_64() : small_segments();
  const auto notes = apply_preprocess(stage, model, segments, context);
  attach_learned_scaling(model, {0, model.block_count()}, context.learned_scaling);
  return notes;
}

LearnedScaling& scaling_of(Transformer& model, int64_t block) {
  return dynamic_cast<LearnedScaling&>(*model.block(block).equivalent);
}

/// Factors somewhere else: scales by e^N(0, 0.3), shifts by N(0, 0.2).
void move_factors(Transformer& model) {
  for (int64_t b = 0; b < model.block_count(); ++b) {
    uint64_t stream = 100 * static_cast<uint64_t>(b);
    for (const auto& [name, variable] : scaling_of(model, b).variables()) {
      const Tensor noise = Tensor(variable.shape(), Dtype::f64);
      kernels::fill_normal(noise, 0.0, 1.0, 11, stream++);
      Doubles x = variable.value().to_vector<double>(), by = noise.to_vector<double>();
      for (size_t i = 0; i < x.size(); ++i) {
        x[i] = name.ends_with(".scale") ? x[i] * std::exp(0.3 * by[i]) : x[i] + 0.2 * by[i];
      }
      variable.value().copy_from(Tensor::from(x, variable.shape(), variable.dtype()));
    }
  }
}

// ---- the start ----------------------------------------------------------------------------------

TEST(Let, StartFollowsItsFormula) {
  auto model = model_with_outliers(2);
  const auto statistics = collect_statistics(*model, small_segments());
  auto before = values_of(*model);
  PreprocessContext context = context_of(4, 4);
  apply_preprocess("let:0.7", *model, small_segments(), context);
  auto after = values_of(*model);
  const std::string p = "model.layers.1.";
  const auto largest_of = [&](const std::string& weight, size_t channel, size_t channels) {
    double largest = 0.0;
    const Doubles& w = before.at(p + weight + ".weight");
    for (size_t i = channel; i < w.size(); i += channels)
      largest = std::max(largest, std::abs(w[i]));
    return largest;
  };
  const auto factor = [](double x, double w) { return std::pow(x, 0.7) / std::pow(w, 0.3); };
  for (size_t c = 0; c < 64; ++c) {
    const double q = factor(statistics.of(p + "self_attn.q_proj").abs_max[c],
                            largest_of("self_attn.q_proj", c, 64));
    const double k = before[p + "self_attn.k_proj.weight"][64 + c] * q;
    EXPECT_NEAR(after[p + "self_attn.k_proj.weight"][64 + c], k, 1e-6 * std::abs(k));
    const double gain = before[p + "input_layernorm.weight"][c] / q;
    EXPECT_NEAR(after[p + "input_layernorm.weight"][c], gain, 1e-6 * std::abs(gain));
    const double up =
        factor(statistics.of(p + "mlp.up_proj").abs_max[c], largest_of("mlp.up_proj", c, 64));
    const double gate = before[p + "mlp.gate_proj.weight"][64 + c] * up;
    EXPECT_NEAR(after[p + "mlp.gate_proj.weight"][64 + c], gate, 1e-6 * std::abs(gate));
    // Two query heads of 16 share the values of a head.
    const size_t first = c / 32 * 32 + c % 16, second = first + 16;
    const Doubles& x = statistics.of(p + "self_attn.o_proj").abs_max;
    const double o =
        factor(std::max(x[first], x[second]), std::max(largest_of("self_attn.o_proj", first, 64),
                                                       largest_of("self_attn.o_proj", second, 64)));
    const double column = before[p + "self_attn.o_proj.weight"][64 + c] * o;
    EXPECT_NEAR(after[p + "self_attn.o_proj.weight"][64 + c], column, 1e-6 * std::abs(column));
  }
  EXPECT_EQ(after[p + "mlp.down_proj.weight"], before[p + "mlp.down_proj.weight"]);
  ASSERT_EQ(context.learned_scaling.size(), 2u);
  EXPECT_EQ(context.learned_scaling.at(1).size(), 3u);
}

TEST(Let, ShiftsOnlyWhereInputsAreQuantizedAndAllHaveBiases) {
  const auto shifts = [](const std::string& name, const std::string& stage, int abits) {
    const auto model = load_model(fixture(name), Dtype::f64, Device::cpu());
    put_factors(*model, stage, abits);
    int count = 0;
    for (const auto& [variable, value] : scaling_of(*model, 0).variables()) {
      count += variable.ends_with(".shift");
    }
    return count;
  };
  EXPECT_EQ(shifts("opt", "let", 4), 3);
  EXPECT_EQ(shifts("bloom", "let", 4), 3);
  EXPECT_EQ(shifts("opt", "let", 16), 0);
  EXPECT_EQ(shifts("opt", "let:0.5,no_shift", 4), 0);
  EXPECT_EQ(shifts("qwen2", "let", 4), 0);  // o_proj has no bias, norms have none
}

TEST(Let, StartOfAShiftIsTheMiddleOfTheRange) {
  const auto model = load_model(fixture("opt"), Dtype::f64, Device::cpu());
  const auto statistics = collect_statistics(*model, segments_below_64());
  PreprocessContext context = context_of(4, 4);
  apply_preprocess("let", *model, segments_below_64(), context);
  const std::string p = "model.decoder.layers.0.";
  const InputStatistics& x = statistics.of(p + "self_attn.q_proj");
  const Doubles& z = context.learned_scaling.at(0).at(p + "self_attn_layer_norm").shift;
  ASSERT_EQ(z.size(), x.max.size());
  for (size_t c = 0; c < z.size(); ++c) EXPECT_NEAR(z[c], (x.max[c] + x.min[c]) / 2, 1e-12);
  const auto after = collect_statistics(*model, segments_below_64());
  const InputStatistics& moved = after.of(p + "self_attn.q_proj");
  for (size_t c = 0; c < z.size(); ++c) EXPECT_NEAR(moved.max[c], -moved.min[c], 1e-6);
}

TEST(Let, MustBeTheLastStage) {
  expect_error<std::invalid_argument>([] { parse_preprocessors("let+omse"); },
                                      {"'let'", "last stage", "'omse'"});
  parse_preprocessors("omse+let:0.75");
  expect_error<std::invalid_argument>([] { parse_preprocessors("let:2"); }, {"let", "0 to 1", "2"});
  expect_error<std::invalid_argument>([] { parse_preprocessors("let:shift"); }, {"let", "shift"});
}

// ---- every family -------------------------------------------------------------------------------

class LetFamilies : public ::testing::TestWithParam<std::string> {};

TEST_P(LetFamilies, NoFactorChangesTheFunction) {
  const ExpectedResults expected(GetParam());
  for (const auto& [dtype, tolerance] : {std::pair(Dtype::f64, 1e-11), {Dtype::f32, 1e-5}}) {
    const auto model = load_model(fixture(GetParam()), dtype, Device::cpu());
    const Doubles before = logits_of(*model, expected);
    put_factors(*model);
    const Doubles at_start = logits_of(*model, expected);
    EXPECT_LE(relative_distance(at_start, before), tolerance);
    for (int64_t b = 0; b < model->block_count(); ++b)
      model->block(b).equivalent->set_active(false);
    EXPECT_EQ(logits_of(*model, expected), at_start) << "r = 1 and d = 0 change no bit";
    for (int64_t b = 0; b < model->block_count(); ++b) model->block(b).equivalent->set_active(true);

    move_factors(*model);
    const Doubles moved = logits_of(*model, expected);
    EXPECT_LE(relative_distance(moved, before), tolerance);
    std::map<std::string, Doubles> parameters = values_of(*model);
    for (int64_t b = 0; b < model->block_count(); ++b) scaling_of(*model, b).fold();
    EXPECT_EQ(logits_of(*model, expected), moved) << "folding changes no bit";
    const bool has_factors = !scaling_of(*model, 0).variables().empty();
    EXPECT_EQ(values_of(*model) != parameters, has_factors);
    for (int64_t b = 0; b < model->block_count(); ++b) {
      for (const NamedLinear& l : model->block(b).linears()) EXPECT_FALSE(l.linear->equivalent);
      for (const ScalingSite& site : model->block(b).scaling_sites()) {
        const bool is_norm = site.norm_equivalent != nullptr;
        EXPECT_FALSE(is_norm && *site.norm_equivalent != nullptr);
      }
    }
  }
}

TEST_P(LetFamilies, WindowsLearnAndTheFolderHasWhatWasLearned) {
  const ExpectedResults expected(GetParam());
  const auto model = load_model(fixture(GetParam()), Dtype::f32, Device::cpu());
  Settings settings = method_settings("omniquant", 4, 4);
  settings.epochs = 2;
  const RunResult result = quantize(*model, segments_below_64(), settings, nullptr, {});
  ASSERT_EQ(result.windows.size(), static_cast<size_t>(model->block_count()));
  for (const WindowReport& report : result.windows) {
    EXPECT_TRUE(report.trouble.empty()) << report.trouble;
    EXPECT_EQ(report.best_epoch, 2);
  }
  for (int64_t b = 0; b < model->block_count(); ++b) {
    EXPECT_TRUE(scaling_of(*model, b).folded());
    for (const NamedLinear& l : model->block(b).linears()) EXPECT_FALSE(l.linear->equivalent);
  }
  const TemporaryFolder folder;
  save_quantized(*model, folder / "q");
  const auto loaded = load_any_model(folder / "q", Dtype::f32, Device::cpu());
  EXPECT_EQ(logits_of(*loaded, expected), logits_of(*model, expected));
}

INSTANTIATE_TEST_SUITE_P(Families, LetFamilies, ::testing::ValuesIn(fixture_names()),
                         [](const auto& one) { return test_name(one.param); });

TEST(Let, SaysWhatAFamilyLacks) {
  const auto notes_of = [](const std::string& name) {
    const auto model = load_model(fixture(name), Dtype::f64, Device::cpu());
    return joined(put_factors(*model));
  };
  const std::pair<const char*, const char*> lacks[] = {
      {"opt-post-norm", "norms behind the sums are the residual stream, too"},
      {"opt-bare", "the norm has no weight"},
      {"bloom-post-norm-residual", "the norm's output is also the residual"},
      {"qwen3", "queries and keys: norms of queries and keys undo every factor"},
      {"gemma2", "the norm's gain is 1 + its weight"},
      {"olmo2", "the residual stream itself is read"},
      {"gpt-neox", "queries and keys: the rotary embedding turns only a part of each head"},
      {"llama", "other inputs are left alone"}};
  for (const auto& [name, text] : lacks) {
    EXPECT_NE(notes_of(name).find(text), std::string::npos) << name << "\n" << notes_of(name);
  }
}

TEST(Let, AFactorKeepsItsDistanceFromZero) {
  auto model = small_model(2);
  const Doubles before = logits_of(*model);
  put_factors(*model);
  const Var scale = scaling_of(*model, 0).variables().front().second;
  Doubles values = scale.value().to_vector<double>();
  values[0] = 0.0;
  values[1] = -1e-7;
  values[2] = 0.009;
  values[3] = -0.02;
  scale.value().copy_from(Tensor::from(values, scale.shape()));
  EXPECT_LE(relative_distance(logits_of(*model), before), 1e-9);
  const Doubles kept = scale.value().to_vector<double>();
  EXPECT_EQ(Doubles(kept.begin(), kept.begin() + 4), (Doubles{0.01, -0.01, 0.01, -0.02}));
}

// ---- gradients ----------------------------------------------------------------------------------

/// sum_i c_i y_i with the same pseudo-random c for every call of the same name.
Var weighted_sum(const Var& y, uint64_t stream) {
  const Tensor c(y.shape(), Dtype::f64);
  kernels::fill_normal(c, 0.0, 1.0, 21, stream);
  return ag::sum(ag::mul(y, Var(c)));
}

/// Everything that the layers of a block compute with, as one number.
Var number_of(Block& block) {
  Var total;
  uint64_t stream = 0;
  const auto add = [&](const Var& y) {
    if (!y.defined()) return;
    const Var part = weighted_sum(y, stream++);
    total = total.defined() ? ag::add(total, part) : part;
  };
  for (const NamedLinear& l : block.linears()) {
    add(l.linear->current_weight());
    add(l.linear->current_bias());
  }
  for (const ScalingSite& site : block.scaling_sites()) {
    if (site.norm_equivalent == nullptr || !*site.norm_equivalent) continue;
    add((*site.norm_equivalent)->weight(*site.norm_weight));
    if (site.norm_bias != nullptr) {
      add((*site.norm_equivalent)->bias(*site.norm_bias, *site.norm_weight));
    }
  }
  return total;
}

void expect_gradients(Transformer& model) {
  put_factors(model);
  move_factors(model);
  Block& block = model.block(1);
  const auto& variables = scaling_of(model, 1).variables();
  ASSERT_GE(variables.size(), 4u);
  {
    Tape tape;
    tape.backward(number_of(block));
  }
  for (const auto& [name, variable] : variables) {
    ASSERT_TRUE(variable.grad().defined()) << name;
    const Doubles found = variable.grad().to_vector<double>();
    const Doubles at = variable.value().to_vector<double>();
    for (size_t i = 0; i < at.size(); ++i) {
      const auto value = [&](double step) {
        Doubles x = at;
        x[i] += step * std::abs(at[i]);
        variable.value().copy_from(Tensor::from(x, variable.shape()));
        return number_of(block).value().item();
      };
      const double want = (value(1e-5) - value(-1e-5)) / (2e-5 * std::abs(at[i]));
      ASSERT_NEAR(found[i], want, 1e-6 * (1.0 + std::abs(want))) << name << ", " << i;
    }
    variable.value().copy_from(Tensor::from(at, variable.shape()));
  }
}

TEST(Let, GradientsMatchCentralDifferences) {
  for (const char* name : {"opt", "bloom", "qwen2", "mistral"}) {
    SCOPED_TRACE(name);
    expect_gradients(*load_model(fixture(name), Dtype::f64, Device::cpu()));
  }
  expect_gradients(*model_with_outliers(2));
}

TEST(Let, CastPassesTheGradientInTheOldDtype) {
  const Var x(Tensor::from<double>({1.0, 2.0}, {2}), true);
  Tape tape;
  tape.backward(ag::sum(ag::scale(ag::cast(x, Dtype::f32), 3.0)));
  EXPECT_EQ(x.grad().dtype(), Dtype::f64);
  EXPECT_EQ(x.grad().to_vector<double>(), (Doubles{3.0, 3.0}));
}

// W^ = s (clamp(round(w/s) + z) - z) with s and z from the ends of w itself: the gradients equal
// central differences of the same function in which round(x) is x plus a constant, and what the
// clamp cuts off stays at its end.
TEST(Let, GradientOfAFollowingWeightMatchesCentralDifferences) {
  const int64_t out = 5, in = 12;
  for (const bool symmetric : {false, true}) {
    for (const int64_t group : {int64_t{0}, int64_t{4}}) {
      SCOPED_TRACE(concat("symmetric ", symmetric, ", group ", group));
      const Tensor w0({out, in}, Dtype::f64), c({out, in}, Dtype::f64);
      kernels::fill_normal(w0, 0.1, 1.0, 5, 1);
      kernels::fill_normal(c, 0.0, 1.0, 5, 2);
      WeightConfig config;
      config.bits = 3;
      config.symmetric = symmetric;
      config.search = ScaleSearch::min_max;
      if (group > 0) {
        config.granularity = Granularity::per_group;
        config.group_size = group;
      }
      RoundingConfig rounding;
      rounding.grid = "clip";
      WeightQuantizer quantizer(w0, config, rounding, "layer", 0, 0);
      quantizer.follow_weight();
      const std::vector<Var> logits = quantizer.variables("clip");
      ASSERT_EQ(logits.size(), 2u);
      for (size_t i = 0; i < 2; ++i) kernels::fill_normal(logits[i].value(), 1.0, 0.3, 6, i);

      const int64_t n = group > 0 ? group : in, groups = out * in / n;
      const auto sigmoid = [](double x) { return 1.0 / (1.0 + std::exp(-x)); };
      Doubles code_error, zero_error;  // round(x) - x
      Doubles beyond;                  // the end of the grid that cuts a code off, or -1
      const auto value = [&](const Doubles& w, const Doubles& up, const Doubles& low, bool fix) {
        const Doubles weights = c.to_vector<double>();
        double sum = 0.0;
        for (int64_t g = 0; g < groups; ++g) {
          double high = 0.0, bottom = 0.0;
          for (int64_t j = g * n; j < (g + 1) * n; ++j) {
            high = std::max(high, w[static_cast<size_t>(j)]);
            bottom = std::min(bottom, w[static_cast<size_t>(j)]);
          }
          const auto at = static_cast<size_t>(g);
          const double h = sigmoid(up[at]) * high, l = sigmoid(low[at]) * bottom;
          const double s = symmetric ? 2.0 * std::max(h, -l) / 7.0 : (h - l) / 7.0;
          const double exact = symmetric ? 4.0 : -l / s;
          if (fix) zero_error.push_back(std::nearbyint(exact) - exact);
          const double z = exact + zero_error[at];
          for (int64_t j = g * n; j < (g + 1) * n; ++j) {
            const auto k = static_cast<size_t>(j);
            const double u = w[k] / s;
            if (fix) {
              code_error.push_back(std::nearbyint(u) - u);
              const double code = std::nearbyint(u) + std::nearbyint(z);
              beyond.push_back(code < 0.0 ? 0.0 : code > 7.0 ? 7.0 : -1.0);
            }
            const double q = beyond[k] >= 0.0 ? beyond[k] : u + code_error[k] + z;
            sum += weights[k] * s * (q - z);
          }
        }
        return sum;
      };
      const Doubles w = w0.to_vector<double>(), up = logits[0].value().to_vector<double>(),
                    low = logits[1].value().to_vector<double>();
      const double base = value(w, up, low, true);
      const Var leaf(w0, true);
      Tape tape;
      const Var y = ag::sum(ag::mul(quantizer.fake_quant(leaf), Var(c)));
      EXPECT_NEAR(y.value().item(), base, 1e-12 * (1.0 + std::abs(base)));
      tape.backward(y);
      const auto expect = [&](const Doubles& found, const Doubles& at, const auto& f) {
        for (size_t i = 0; i < at.size(); ++i) {
          Doubles more = at, less = at;
          more[i] += 1e-6;
          less[i] -= 1e-6;
          const double want = (f(more) - f(less)) / 2e-6;
          EXPECT_NEAR(found[i], want, 1e-7 * (1.0 + std::abs(want))) << i;
        }
      };
      expect(leaf.grad().to_vector<double>(), w,
             [&](const Doubles& x) { return value(x, up, low, false); });
      expect(logits[0].grad().to_vector<double>(), up,
             [&](const Doubles& x) { return value(w, x, low, false); });
      expect(logits[1].grad().to_vector<double>(), low,
             [&](const Doubles& x) { return value(w, up, x, false); });
    }
  }
}

TEST(Let, AWeightIsFollowedToTheEnd) {
  const Tensor w({4, 16}, Dtype::f32);
  kernels::fill_normal(w, 0.0, 1.0, 5, 1);
  const Tensor other = kernels::scale(w, 3.0);
  WeightConfig config;
  config.search = ScaleSearch::min_max;
  RoundingConfig rounding;
  rounding.grid = "clip";
  WeightQuantizer moved(w, config, rounding, "layer", 0, 0),
      started(other, config, rounding, "layer", 0, 0);
  moved.follow_weight();
  EXPECT_EQ(moved.fake_quant(Var(other)).value().to_vector<float>(),
            started.fake_quant(Var(other)).value().to_vector<float>());
  moved.fake_quant(Var(w));
  moved.harden(other);
  started.harden(other);
  EXPECT_EQ(moved.packed().scale.to_vector<float>(), started.packed().scale.to_vector<float>());
  EXPECT_EQ(moved.packed().codes.to_vector<uint8_t>(), started.packed().codes.to_vector<uint8_t>());

  rounding.grid = "log";
  WeightQuantizer fixed(w, config, rounding, "model.x", 0, 0);
  expect_error<std::invalid_argument>([&] { fixed.follow_weight(); },
                                      {"model.x", "grid 'log'", "clip"});
}

// ---- settings and runs --------------------------------------------------------------------------

TEST(Let, WhatCannotFollowIsRefusedBeforeAnythingIsComputed) {
  const auto refused = [](const nlohmann::json& changes, std::initializer_list<const char*> parts) {
    Settings s = method_settings("omniquant", 4, 4);
    apply_json(s, changes);
    expect_error<std::invalid_argument>([&] { validate(s, 2); }, parts);
  };
  refused({{"grid", "log"}}, {"'let'", "grid 'log'", "clip"});
  refused({{"solver", "gptq"}}, {"'let'", "solver 'gptq"});
  refused({{"act_granularity", "per_tensor"}}, {"'let'", "per_token"});
  refused({{"rate_let", -1.0}}, {"rate_let"});
  Settings start_alone = method_settings("omniquant", 4, 4);
  apply_json(start_alone, {{"reconstruct", "none"}, {"solver", "gptq"}, {"grid", "log"}});
  validate(start_alone, 2);
}

std::map<std::string, std::vector<float>> state_of(Transformer& model) {
  std::map<std::string, std::vector<float>> state;
  for (const auto& [name, tensor] : quantizer_state(model, {0, model.block_count()})) {
    state[name] = tensor.to_vector<float>();
  }
  for (const auto& [path, parameter] : parameters_of(model)) {
    state[path] = parameter.value().to_vector<float>();
  }
  return state;
}

/// A run of two epochs over four segments that stops after `steps` steps, if that is not 0, and is
/// resumed.
std::map<std::string, std::vector<float>> state_after(const std::string& name, int steps,
                                                      const nlohmann::json& changes) {
  Settings settings = method_settings("omniquant", 4, 4);
  settings.epochs = 2;
  apply_json(settings, changes);
  const TemporaryFolder folder;
  RunHooks hooks;
  hooks.resume_folder = folder / "state";
  if (steps > 0) {
    bool stop = false;
    hooks.progress = [&](int64_t done, int64_t, const std::string&) { stop = done >= steps; };
    hooks.interrupted = [&] { return stop; };
    const auto first = load_model(fixture(name), Dtype::f32, Device::cpu());
    EXPECT_THROW(quantize(*first, segments_below_64(), settings, nullptr, hooks), Interrupted);
    hooks.progress = nullptr;
    hooks.interrupted = nullptr;
  }
  const auto model = load_model(fixture(name), Dtype::f32, Device::cpu());
  quantize(*model, segments_below_64(), settings, nullptr, hooks);
  return state_of(*model);
}

TEST(Let, AResumedRunEndsInTheSameBits) {
  for (const char* name : {"opt", "bloom", "qwen2"}) {
    SCOPED_TRACE(name);
    for (const nlohmann::json& changes :
         {nlohmann::json::object(),
          nlohmann::json{{"schedule", "0,0-1,1"}, {"homologous", true}}}) {
      const auto whole = state_after(name, 0, changes);
      EXPECT_EQ(whole.count(name == std::string("opt")
                                ? "model.decoder.layers.0.let.self_attn_layer_norm.shift"
                                : "nothing"),
                name == std::string("opt") ? 1u : 0u);
      // In the first window, behind it, and in the second one.
      for (const int steps : {3, 9, 12})
        EXPECT_EQ(state_after(name, steps, changes), whole) << steps;
    }
  }
}

TEST(Let, FactorsAreLearned) {
  const auto model = load_model(fixture("opt"), Dtype::f32, Device::cpu());
  Settings settings = method_settings("omniquant", 4, 4);
  settings.epochs = 2;
  quantize(*model, segments_below_64(), settings, nullptr, {});
  const auto start = load_model(fixture("opt"), Dtype::f32, Device::cpu());
  put_factors(*start);
  for (int64_t b = 0; b < 2; ++b) {
    const auto& learned = scaling_of(*model, b).variables();
    const auto& before = scaling_of(*start, b).variables();
    ASSERT_EQ(learned.size(), before.size());
    for (size_t i = 0; i < learned.size(); ++i) {
      EXPECT_EQ(learned[i].first, before[i].first);
      EXPECT_NE(learned[i].second.value().to_vector<float>(),
                before[i].second.value().to_vector<float>())
          << learned[i].first;
    }
  }
}

TEST(Let, AFrozenBlockTakesNoFactorsBack) {
  const auto model = load_model(fixture("qwen2"), Dtype::f32, Device::cpu());
  put_factors(*model);
  const auto live = scaling_of(*model, 0).snapshot();
  for (const WindowLearnable& l : learnables_of(*model, {0, 1})) {
    EXPECT_EQ(l.learnable->name(), "model.layers.0.let");
    EXPECT_EQ(l.learnable->groups().size(), 1u);
    l.learnable->freeze();
    EXPECT_TRUE(l.learnable->groups().empty());
    l.learnable->freeze();  // once more changes nothing
  }
  expect_error<std::invalid_argument>([&] { scaling_of(*model, 0).restore(live); },
                                      {"model.layers.0.", "folded already"});
  // What is folded folds the block that it is restored in.
  const auto other = load_model(fixture("qwen2"), Dtype::f32, Device::cpu());
  put_factors(*other);
  scaling_of(*other, 0).restore(scaling_of(*model, 0).snapshot());
  EXPECT_TRUE(scaling_of(*other, 0).folded());
  EXPECT_EQ(values_of(*other), values_of(*model));
  auto lacking = live;
  lacking.pop_back();
  expect_error<std::invalid_argument>([&] { scaling_of(*other, 1).restore(lacking); },
                                      {"model.layers.1.", "lack"});
}

}  // namespace
}  // namespace cbq::test::test_let
