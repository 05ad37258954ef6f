// Whole runs: equal bytes, resuming, overrides, and a gain on a real model.
#include <algorithm>
#include <cmath>

#include "cbq/activation_cache.h"
#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantizers.h"
#include "cbq/resume.h"
#include "cbq/sampling.h"
#include "nn/formats/json.h"
#include "nn/perplexity.h"
#include "tests/environment.h"
#include "tests/flipped_bits.h"
#include "tests/test_data.h"
#include "tests/tiny_model.h"

namespace cbq::test_pipeline {
namespace {

using State = std::map<std::string, std::vector<float>>;

Settings quick(const nlohmann::json& changes = nlohmann::json::object()) {
  Settings s = method_settings("cbq_windows", 2, 16);
  s.epochs = 1;
  s.batch = 2;
  apply_json(s, changes);
  return s;
}

State state_of(Transformer& model) {
  State state;
  for (const auto& [name, tensor] : quantizer_state(model, {0, model.block_count()})) {
    state[name] = tensor.to_vector<float>();
  }
  return state;
}

/// The state after a run on a fresh tiny model.
State run(const Settings& settings, const RunHooks& hooks = {}, int64_t blocks = 4) {
  const auto model = tiny_model(blocks);
  quantize(*model, tiny_segments(6, 8), settings, nullptr, hooks);
  return state_of(*model);
}

TEST(Pipeline, EveryLinearEndsInHardenedCodes) {
  const auto model = tiny_model(3);
  const RunResult result = quantize(*model, tiny_segments(6, 8), quick(), nullptr, {});
  ASSERT_EQ(result.windows.size(), 2u);
  EXPECT_EQ(result.windows[0].finishes, 1);
  EXPECT_EQ(result.windows[1].finishes, 2);
  EXPECT_GT(result.peak_bytes, 0);
  for (const WindowLinear& l : linears_of(*model, {0, 3})) {
    ASSERT_NE(l.quantizers(), nullptr) << l.path;
    EXPECT_EQ(l.quantizers()->weight_quantizer->packed().bits, 2) << l.path;
    EXPECT_FALSE(l.quantizers()->activation_quantizer) << l.path;
  }
  remove_quantizers(*model);
  for (const WindowLinear& l : linears_of(*model, {0, 3})) EXPECT_FALSE(l.linear->transform);
}

TEST(Pipeline, TwoRunsGiveTheSameBytes) {
  for (const int abits : {16, 4}) {
    const Settings s = quick({{"abits", abits}, {"homologous", abits == 4}});
    EXPECT_EQ(run(s), run(s)) << abits;
  }
  EXPECT_NE(run(quick()), run(quick({{"seed", 1}})));
}

TEST(Pipeline, SchedulesOfTheSameWindowsAreTheSameRun) {
  EXPECT_EQ(run(quick()), run(quick({{"schedule", "0-1,1-2,2-3"}})));
  EXPECT_NE(run(quick()), run(quick({{"schedule", "0,0-1,1-2,2-3,3"}})));
}

TEST(Pipeline, ZeroEpochsEqualNearestRounding) {
  State nearest = run(quick({{"reconstruct", "none"}}));
  EXPECT_EQ(run(quick({{"epochs", 0}})), nearest);
  EXPECT_NE(run(quick()), nearest);
}

/// A run that is interrupted after `steps` steps and resumed ends where an uninterrupted one does.
void expect_resumed(const Settings& settings, int steps) {
  SCOPED_TRACE(steps);
  TemporaryFolder folder;
  RunHooks hooks;
  hooks.resume_folder = folder / "state";
  bool stop = false;
  hooks.progress = [&](int64_t done, int64_t, const std::string&) { stop = done >= steps; };
  hooks.interrupted = [&] { return stop; };
  EXPECT_THROW(run(settings, hooks), Interrupted);
  hooks.interrupted = nullptr;
  std::vector<std::string> said;
  hooks.say = [&](const std::string& line) { said.push_back(line); };
  int64_t first_done = 0;
  hooks.progress = [&](int64_t done, int64_t, const std::string&) {
    if (first_done == 0) first_done = done;
  };
  EXPECT_EQ(run(settings, hooks), run(settings));
  EXPECT_EQ(first_done, (steps - 1) / 3 * 3 + 1);  // three steps per window
  const auto resumed = std::count_if(said.begin(), said.end(), [](const std::string& line) {
    return line.find("resumed after window") != std::string::npos;
  });
  EXPECT_EQ(resumed, steps > 3 ? 1 : 0);
}

TEST(Pipeline, ResumedRunEndsInTheSameBytes) {
  for (const int steps : {1, 4, 8}) expect_resumed(quick(), steps);
  expect_resumed(quick({{"schedule", "0,0-2,1-2,2-3"}, {"rounding", "lora_rounding"}}), 7);
  expect_resumed(quick({{"abits", 8}, {"act_granularity", "per_tensor"}, {"act_dynamic", false}}),
                 8);
  // Windows that end before an earlier one did: blocks behind them have learned, too.
  for (const int steps : {5, 8, 11}) {
    expect_resumed(quick({{"schedule", "0-2,1,1-2,3"}}), steps);
    expect_resumed(quick({{"schedule", "0-2,1,1-2,3"}, {"wbits", 16}, {"abits", 4}}), steps);
  }
  const nlohmann::json further[] = {
      {{"preprocess", "cfp_weight_activation"}, {"abits", 4}},
      {{"preprocess", "smoothquant"}, {"abits", 8}},
      {{"homologous", true}},
      {{"quantize_attention", true}, {"abits", 4}},
      {{"preprocess", "let"}, {"abits", 4}, {"grid", "clip"}, {"rounding", "nearest"}},
      {{"preprocess", "reorder:4,2"}, {"abits", 8}, {"act_granularity", "per_cluster"}},
      {{"preprocess", "channel_assembly"}, {"abits", 4}},
      {{"preprocess", "let"}, {"abits", 4}, {"grid", "clip"}, {"keep", "last"}},
  };
  for (const nlohmann::json& changes : further) {
    SCOPED_TRACE(changes.dump());
    expect_resumed(quick(changes), 5);
  }
}

TEST(Pipeline, StateOfAnotherRunIsNeitherTrustedNorLost) {
  TemporaryFolder folder;
  RunHooks hooks;
  hooks.resume_folder = folder / "state";
  const auto expected = run(quick(), hooks);
  expect_error<std::runtime_error>(
      [&] {
        run(quick({{"seed", 3}}), hooks);
      },
      {"state.safetensors", "it differs in seed (0 there, 3 here)", "--overwrite"});
  {
    // Products of another algorithm end in other last bits.
    const Environment moved("CBQ_GEMM_CANDIDATES", "2");
    expect_error<std::runtime_error>([&] { run(quick(), hooks); },
                                     {"state.safetensors", "switches of the environment"});
  }
  const Environment harmless("CBQ_SYNC", "1");
  std::vector<std::string> said;
  hooks.say = [&](const std::string& line) { said.push_back(line); };
  EXPECT_EQ(run(quick(), hooks), expected);
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("resumed after"), std::string::npos) << said[0];
}

TEST(Pipeline, ARunThatKeepsNoStateLeavesThatOfAnother) {
  TemporaryFolder folder;
  RunHooks hooks;
  hooks.resume_folder = folder / "state";
  const State expected = run(quick(), hooks);
  const Settings nearest = quick({{"reconstruct", "none"}});
  expect_error<std::runtime_error>([&] { run(nearest, hooks); },
                                   {"state.safetensors", "belongs to another run", "reconstruct"});
  EXPECT_EQ(run(quick(), hooks), expected);
  hooks.resume_folder = folder / "none";
  EXPECT_EQ(run(nearest, hooks), run(nearest));
  EXPECT_FALSE(std::filesystem::exists(folder / "none"));
}

TEST(Pipeline, ARunThatKeepsNoStateIsNotStoppedByADamagedOne) {
  TemporaryFolder folder;
  std::filesystem::create_directories(folder / "state");
  folder.write("state/state.safetensors", "nothing that can be read");
  RunHooks hooks;
  hooks.resume_folder = folder / "state";
  const Settings nearest = quick({{"reconstruct", "none"}});
  EXPECT_EQ(run(nearest, hooks), run(nearest));
  EXPECT_FALSE(ResumeFolder::has_state(folder / "state"));
}

TEST(Pipeline, StateLacksNothing) {
  const auto model = tiny_model(2);
  quantize(*model, tiny_segments(6, 8), quick(), nullptr, {});
  auto state = quantizer_state(*model, {0, 2});
  std::erase_if(
      state, [](const auto& entry) { return entry.first.find("layers.1") != std::string::npos; });
  expect_error<std::invalid_argument>(
      [&] {
        restore_quantizer_state(*model, {0, 2}, state);
      },
      {"lacks", "layers.1"});
}

TEST(Pipeline, DamagedStateIsNotTrusted) {
  TemporaryFolder folder;
  RunHooks hooks;
  hooks.resume_folder = folder / "state";
  run(quick(), hooks);
  std::filesystem::resize_file(folder / "state/block-0.safetensors", 100);
  std::vector<std::string> said;
  hooks.say = [&](const std::string& line) { said.push_back(line); };
  EXPECT_EQ(run(quick(), hooks), run(quick()));
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("block-0"), std::string::npos) << said[0];
}

/// `name` in the state of a whole run with a bit flipped, at a few places: a run that finds it ends
/// in the right bytes, and says so where it starts anew.
void expect_damage_noticed(const std::string& name) {
  TemporaryFolder folder;
  RunHooks hooks;
  hooks.resume_folder = folder / "state";
  const State expected = run(quick(), hooks);
  const std::filesystem::path path = folder / "state" / name;
  const std::string good = read_text_file(path);
  for_each_flipped_bit(good, 0, good.size() / 12, [&](const std::string& flipped) {
    folder.write("state/" + name, flipped);
    std::string said;
    hooks.say = [&](const std::string& line) { said += line; };
    EXPECT_EQ(run(quick(), hooks), expected);
    EXPECT_NE(said.find(said.starts_with("resumed after") ? "resumed after" : name),
              std::string::npos)
        << said;
  });
}

TEST(Pipeline, AFlippedBitOfAStateChangesNoResult) {
  expect_damage_noticed("state.safetensors");
  expect_damage_noticed("block-0.safetensors");
}

/// Wide enough, and of enough segments, that products of another number of rows sum in another
/// order.
State run_wide(int64_t length, int64_t batch, const std::filesystem::path& cache) {
  const auto model = tiny_model(2, 64);
  const auto segments = tiny_segments(37, length);
  const Settings settings = quick({{"batch", batch}, {"scale_search", "min_max"}});
  std::shared_ptr<ActivationCache> original;
  if (!cache.empty()) original = cache_on_disk(*model, segments, cache, nullptr);
  quantize(*model, segments, settings, original, {});
  return state_of(*model);
}

TEST(Pipeline, ACacheOfActivationsChangesNoBit) {
  const TemporaryFolder shared;
  for (const int64_t length : {1, 5, 32}) {
    for (const int64_t batch : {1, 3, 16}) {
      SCOPED_TRACE(concat(length, " tokens, ", batch, " segments a step"));
      const TemporaryFolder own;
      const State without = run_wide(length, batch, {});
      EXPECT_EQ(run_wide(length, batch, own.path()), without);
      EXPECT_EQ(run_wide(length, batch, shared.path()), without);
    }
  }
  EXPECT_EQ(shared.count(), 3) << "one file for all settings";
}

/// Interrupts everything that looks, at its n-th look, for growing n, until a run gets through.
int looks_until_done(const Settings& settings, bool on_disk = false) {
  const auto segments = tiny_segments(6, 8);
  for (int n = 1; n < 10000; ++n) {
    const TemporaryFolder folder;
    RunHooks hooks;
    int left = n;
    hooks.interrupted = [&] { return --left <= 0; };
    hooks.resume_folder = folder / "state";
    const auto model = tiny_model(3);
    try {
      std::shared_ptr<ActivationCache> original;
      if (on_disk) {
        original =
            cache_on_disk(*model, segments, folder / "cache", nullptr, {hooks.interrupted, {}});
      }
      quantize(*model, segments, settings, original, hooks);
      return n;
    } catch (const Interrupted& stop) {
      EXPECT_NE(std::string(stop.what()).find("interrupted"), std::string::npos);
      if (!on_disk) continue;
      for (const auto& file : std::filesystem::recursive_directory_iterator(folder.path())) {
        EXPECT_NE(file.path().extension(), ".tmp") << "left behind";
      }
    }
  }
  ADD_FAILURE() << "never done";
  return 0;
}

TEST(Pipeline, EveryLongLoopLooksForCtrlC) {
  // 21 linears, of which each is a look, in nearest rounding; a look for each parameter (29), block
  // and pass comes on top where these are.
  EXPECT_GE(looks_until_done(quick({{"reconstruct", "none"}})), 21);
  const int nothing_learned = looks_until_done(quick({{"epochs", 0}}));
  EXPECT_GE(nothing_learned, 29 + 4 + 21);
  EXPECT_GE(looks_until_done(quick({{"epochs", 0}, {"preprocess", "smoothquant"}, {"abits", 8}})),
            nothing_learned + 2 * 3)
      << "a pass and a stage per block";
  EXPECT_GE(looks_until_done(quick({{"epochs", 0}}), true), nothing_learned);
}

TEST(Pipeline, OuterFc2KeepsMoreBits) {
  const auto model = tiny_model(3);
  quantize(*model, tiny_segments(4, 8),
           quick({{"fc2_first_last_bits", 4}, {"layer_bits", "1.self_attn.q_proj=16"}}), nullptr,
           {});
  for (const WindowLinear& l : linears_of(*model, {0, 3})) {
    if (l.path == "model.layers.1.self_attn.q_proj") {
      EXPECT_EQ(l.quantizers(), nullptr);
      continue;
    }
    EXPECT_EQ(l.quantizers()->weight_quantizer->packed().bits, l.fc2 && l.block != 1 ? 4 : 2);
  }
}

TEST(Pipeline, AttentionOperandsAreQuantizedOnRequest) {
  const auto model = tiny_model(2);
  const auto segments = tiny_segments(4, 8);
  const double plain = perplexity(*model, segments).mean_nll();
  Settings s = quick({{"wbits", 16}, {"abits", 4}, {"reconstruct", "none"}});
  quantize(*model, segments, s, nullptr, {});
  const double linears = perplexity(*model, segments).mean_nll();
  s.quantize_attention = true;
  quantize(*model, segments, s, nullptr, {});
  EXPECT_TRUE(model->blocks[0]->attention_transform);
  EXPECT_NE(perplexity(*model, segments).mean_nll(), linears);
  s.reconstruct = "cbq";
  quantize(*model, segments, s, nullptr, {});  // differentiable
  remove_quantizers(*model);
  EXPECT_EQ(perplexity(*model, segments).mean_nll(), plain);
}

TEST(Pipeline, HomologousTargetIsTheOriginalModelEvenAfterTruncation) {
  // The first block's input is the same in both streams, so both targets are the same tensor, and
  // their mean is the error without the second: unless the truncated block made the second one.
  const auto loss_before = [](bool homologous) {
    const auto model = tiny_model(2);
    model->blocks[0]->linears()[0].linear->weight.value().data<float>()[0] = 30.0f;
    const RunResult result = quantize(*model, tiny_segments(4, 8),
                                      quick({{"wbits", 8},
                                             {"preprocess", "cfp_weight"},
                                             {"homologous", homologous},
                                             {"epochs", 0},
                                             {"window", 1},
                                             {"overlap", 0}}),
                                      nullptr, {});
    EXPECT_FALSE(result.notes.empty());
    return result.windows[0].loss_before;
  };
  const double without = loss_before(false);
  EXPECT_GT(without, 1e-2);
  EXPECT_NEAR(loss_before(true), without, 1e-5 * without);
}

TEST(Pipeline, ImpossibleRequestsAreRefusedBeforeAnythingIsComputed) {
  const auto model = tiny_model(2);
  const auto refused = [&](const nlohmann::json& changes,
                           std::initializer_list<const char*> parts) {
    SCOPED_TRACE(changes.dump());
    expect_error<std::invalid_argument>(
        [&] { quantize(*model, tiny_segments(4, 8), quick(changes), nullptr, {}); }, parts);
    for (const WindowLinear& l : linears_of(*model, {0, 2})) EXPECT_FALSE(l.linear->transform);
  };
  refused({{"granularity", "per_group"}, {"group_size", 5}}, {"model.layers.0", "5"});
  refused({{"schedule", "0-3"}}, {"block 3"});
  refused({{"preprocess", "magic"}}, {"magic", "none"});
  expect_error<std::invalid_argument>([&] { quantize(*model, {}, quick(), nullptr, {}); },
                                      {"no segments"});
  const auto half = make_model(tiny_config(2), Dtype::f16, Device::cpu());
  expect_error<std::invalid_argument>(
      [&] { quantize(*half, tiny_segments(4, 8), quick(), nullptr, {}); }, {"f16", "bf16"});
}

TEST(Pipeline, SamplesAreReproducibleAndStartWithBos) {
  const auto model = tiny_model(2);
  const auto a = sample_segments(*model, 3, 10, 5);
  EXPECT_EQ(a, sample_segments(*model, 3, 10, 5));
  EXPECT_NE(a, sample_segments(*model, 3, 10, 6));
  ASSERT_EQ(a.size(), 3u);
  for (const auto& segment : a) {
    EXPECT_EQ(segment.size(), 10u);
    EXPECT_EQ(segment[0], 1);
  }
  expect_error<std::invalid_argument>([&] { sample_segments(*model, 3, 33, 5); }, {"33", "32"});
}

TEST(Pipeline, AModelWhoseLogitsAreNoNumbersIsNotSampled) {
  const auto model = tiny_model(1);
  model->visit_head("",
                    [](const std::string&, Var& p) { p.value().data<float>()[0] = std::nanf(""); });
  expect_error<NonFiniteError>([&] { sample_segments(*model, 2, 4, 5); }, {"logits", "NaN"});
}

TEST(Pipeline, SamplesFollowTheModelsDistribution) {
  const auto model = tiny_model(1);
  const auto segments = sample_segments(*model, 4000, 2, 5);
  NoGrad none;
  const Tensor logits = model->forward(Tensor::from<int32_t>({1}, {1}), Sequence{1, 1}).value();
  const std::vector<float> p = kernels::softmax(logits).to_vector<float>();
  std::vector<double> counts(p.size(), 0.0);
  for (const auto& s : segments) counts[static_cast<size_t>(s[1])] += 1.0 / 4000;
  for (size_t i = 0; i < p.size(); ++i) {
    EXPECT_NEAR(counts[i], p[i], 5 * std::sqrt(static_cast<double>(p[i]) / 4000) + 1e-3);
  }
}

TEST(Pipeline, ReconstructionBeatsNearestOnARealModel) {
  SKIP_WITHOUT_TEST_DATA();
  const auto samples = read_json_file(test_data() / "models/stories260K/sampled.json");
  auto calibration = samples["calibration"].get<std::vector<std::vector<int32_t>>>();
  auto held_out = samples["held_out"].get<std::vector<std::vector<int32_t>>>();
  calibration.resize(32);
  held_out.resize(16);
  const auto model = load_model(test_data() / "models/stories260K_hf", Dtype::f32, Device::cpu());
  Settings s = method_settings("cbq_windows", 2, 16);
  s.epochs = 1;
  quantize(*model, calibration, s, nullptr, {});
  const double learned = perplexity(*model, held_out).mean_nll();
  s.reconstruct = "none";
  quantize(*model, calibration, s, nullptr, {});
  const double nearest = perplexity(*model, held_out).mean_nll();
  EXPECT_LT(learned, nearest - 1.0);
}

}  // namespace
}  // namespace cbq::test_pipeline
