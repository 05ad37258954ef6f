// check_reference DATA [--fast] [--seeds N] [--real]: figures of this program beside those it must
// reach.
//
// The model is stories260K of the test data. Exact rows compare with an independent implementation
// of the same arithmetic; goals bound what quantization may cost, as the mean of several seeds.
// With --real, the model is SmolLM2-135M instead, compared with the library transformers.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>

#include "autograd/worst_error.h"
#include "cbq/global_transforms.h"
#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "experiments/command_line.h"
#include "experiments/progress.h"
#include "nn/formats/json.h"
#include "nn/perplexity.h"
#include "nn/text/tokens.h"
#include "tensor/runtime/environment.h"
#include "tensor/runtime/program.h"
#include "tools/reference/real_model.h"
#include "tools/reference/report.h"

namespace {

using namespace cbq;
namespace fs = std::filesystem;
using nlohmann::json;

struct Data {
  fs::path model;
  json reference;
  TokenSet stories, calibration, held_out;

  explicit Data(const fs::path& folder)
      : model(folder / "models/stories260K_hf"),
        reference(read_json_file(folder / "models/stories260K/reference.json")),
        stories(tokens_from_json(folder / "models/stories260K/reference.json", "ids")),
        calibration(tokens_from_json(folder / "models/stories260K/sampled.json", "calibration")),
        held_out(tokens_from_json(folder / "models/stories260K/sampled.json", "held_out")) {
    for (auto& segment : calibration.segments) segment.pop_back();  // 129 ids are 128 inputs
  }
  std::unique_ptr<Transformer> load() const { return load_model(model, Dtype::f32, Device::cpu()); }
};

double mean_nll(Transformer& model, const TokenSet& set) {
  return perplexity(model, set.segments).mean_nll();
}

// ---- exact rows -------------------------------------------------------------------------------

/// Largest distance of the prompt's logits from the reference's.
double logit_distance(Transformer& model, const json& reference) {
  NoGrad none;
  const auto ids = reference.at("prompt_ids").get<std::vector<int32_t>>();
  const auto tokens = static_cast<int64_t>(ids.size());
  const Var logits = model.forward(Tensor::from(ids, {tokens}), {1, tokens});
  const std::vector<double> values = logits.value().to_vector<double>();
  const auto vocabulary = static_cast<size_t>(model.config.vocab_size);
  WorstError distance;
  for (const json& row : reference.at("prompt_logits")) {
    const double* at = values.data() + row.at("pos").get<size_t>() * vocabulary;
    const auto expect = [&](size_t id, const json& value) {
      distance.add(std::abs(at[id] - value.get<double>()));
    };
    expect(row.at("argmax").get<size_t>(), row.at("argmax_logit"));
    for (size_t i = 0; i < 8; ++i) expect(i, row.at("logits_0_7")[i]);
  }
  return distance.value();
}

void exact_rows(const Data& data, Report& report) {
  const auto model = data.load();
  report.near("stories: original model", mean_nll(*model, data.stories), 1.26644, 1e-4);
  report.near("stories: largest distance of the logits", logit_distance(*model, data.reference), 0,
              1e-4);
  constexpr std::pair<int, double> nearest[] = {
      {8, 1.26747}, {4, 1.46287}, {3, 2.28111}, {2, 6.16467}};
  for (const auto& [bits, expected] : nearest) {
    const auto quantized = data.load();
    Settings settings = method_settings("cbq_windows", bits, float_bits);
    settings.reconstruct = "none";
    settings.scale_search = "min_max";
    quantize(*quantized, data.calibration.slice(0, 1).segments, settings, nullptr, {});
    report.near(fmt::format("stories: nearest, min/max, W{}", bits),
                mean_nll(*quantized, data.stories), expected, 1e-3);
  }
  report.near("held_out: original model", mean_nll(*model, data.held_out), 1.2205, 5e-4);
}

// ---- goals ------------------------------------------------------------------------------------

struct Goal {
  const char* name;
  int wbits, abits;
  const char* overrides;  // over the method
  double bound;           // nats; 0: only reported
  const char* method = "cbq_windows";
};
constexpr Goal goals[] = {
    {"W2A16, nearest, squared error", 2, 16, R"({"reconstruct": "none"})", 0},
    {"W3A16, nearest, squared error", 3, 16, R"({"reconstruct": "none"})", 0},
    {"W4A16, nearest, squared error", 4, 16, R"({"reconstruct": "none"})", 0},
    {"W2A16, GPTQ", 2, 16, R"({"solver": "gptq", "reconstruct": "none"})", 0},
    {"W2A16, GPTQ act_order", 2, 16, R"({"solver": "gptq:act_order", "reconstruct": "none"})",
     3.42},
    {"W3A16, GPTQ", 3, 16, R"({"solver": "gptq", "reconstruct": "none"})", 1.60},
    {"W4A16, GPTQ", 4, 16, R"({"solver": "gptq", "reconstruct": "none"})", 1.30},
    {"W2A16, GPTQ, then tuned", 2, 16, R"({"solver": "gptq"})", 0},
    {"W3A16, GPTQ, then tuned", 3, 16, R"({"solver": "gptq"})", 0},
    {"W4A16, GPTQ, then tuned", 4, 16, R"({"solver": "gptq"})", 0},
    {"W2A16, tuned, window 2 overlap 1", 2, 16, R"({"epochs": 3, "window": 2, "overlap": 1})",
     1.84},
    {"W2A16, tuned, window 3 overlap 2, 6 epochs", 2, 16,
     R"({"epochs": 6, "window": 3, "overlap": 2})", 0},
    {"W2A16, tuned, schedule 0,0-1,0-2,1-3,2-4,3-4,4, 6 epochs", 2, 16,
     R"({"epochs": 6, "schedule": "0,0-1,0-2,1-3,2-4,3-4,4"})", 0},
    {"W2A16, LoRA-Rounding rank 5", 2, 16,
     R"({"epochs": 3, "rounding": "lora_rounding", "rank": 5, "batch": 1, "rate_rounding": 0.05})",
     2.18},
    {"W3A16, tuned", 3, 16, R"({"epochs": 3})", 1.375},
    {"W4A16, tuned", 4, 16, R"({"epochs": 3})", 1.258},
    {"W4A4 per token asymmetric, tuned", 4, 4, R"({"epochs": 3, "act_symmetric": false})", 1.39},
    {"W4A4 per token symmetric, tuned", 4, 4, R"({"epochs": 3, "act_symmetric": true})", 0},
    {"W2A16, cbq", 2, 16, "{}", 0, "cbq"},
    {"W3A16, cbq", 3, 16, "{}", 0, "cbq"},
    {"W4A16, cbq", 4, 16, "{}", 0, "cbq"},
    {"W4A4 per token asymmetric, cbq", 4, 4, "{}", 0, "cbq"},
    {"W4A4 per token asymmetric, cbq, not rotated", 4, 4, R"({"rotation": "none"})", 0, "cbq"},
};

void goal_row(const Data& data, const Goal& goal, int seeds,
              const std::shared_ptr<ActivationCache>& original, Report& report) {
  const auto start = std::chrono::steady_clock::now();
  Progress progress(std::cerr, stderr_is_terminal());
  std::string remark;
  double sum = 0.0;
  Settings settings = method_settings(goal.method, goal.wbits, goal.abits);
  apply_json(settings, json::parse(goal.overrides));
  const bool random = settings.reconstructs();
  if (!random) seeds = 1;
  for (int seed = 0; seed < seeds; ++seed) {
    settings.seed = static_cast<uint64_t>(seed);
    RunHooks hooks;
    hooks.progress = [&](int64_t done, int64_t total, const std::string& what) {
      progress.update(done + seed * total, seeds * total, std::string(goal.name) + ", " + what);
    };
    const auto model = data.load();
    // Another model has other activations.
    const bool is_rewritten = !global_transforms_of(settings).empty();
    if (is_rewritten) apply_global_transforms(*model, settings);
    quantize(*model, data.calibration.segments, settings, is_rewritten ? nullptr : original, hooks);
    const double nll = mean_nll(*model, data.held_out);
    remark += fmt::format(" {:.4f}", nll);
    sum += nll;
  }
  progress.finish();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  report.at_most(
      std::string("held_out: ") + goal.name, sum / seeds, goal.bound,
      fmt::format("{}{}, {:.0f} s", random ? "seeds" : "one run:", remark, seconds.count()));
}

int summary(const Report& report) {
  std::cout << report.lines - report.out << " of " << report.lines << " rows ok\n";
  return report.out == 0 ? 0 : 1;
}

int run(const fs::path& folder, bool fast, int seeds, const std::string& only) {
  const Data data(folder);
  Report report;
  if (only.empty()) exact_rows(data, report);
  if (!fast) {
    const auto model = data.load();
    const auto original = cache_in_memory(*model, data.calibration.segments);
    for (const Goal& goal : goals) {
      if (std::string(goal.name).find(only) == std::string::npos) continue;
      goal_row(data, goal, seeds, original, report);
    }
  }
  if (report.lines == 0) fail("no row is called ", only);
  return summary(report);
}

int run_real(const fs::path& folder, bool fast) {
  Report report;
  real_model_rows(folder, fast, report);
  return summary(report);
}

}  // namespace

int main(int argc, char** argv) {
  cbq::start_program(argv);
  CLI::App app("Figures of this program beside those it must reach");
  std::string folder, only;
  bool fast = false;
  bool real = false;
  int seeds = 3;
  app.add_option("data", folder, "folder of the test data")->required();
  app.add_flag("--fast", fast, "only the rows that take seconds");
  app.add_flag(
      "--real", real,
      "only SmolLM2-135M (./setup.sh smollm2) beside transformers; some minutes, or half a "
      "minute with --fast");
  app.add_option("--seeds", seeds, "runs per goal")->capture_default_str()->check(expect_positive);
  app.add_option("--only", only, "only the goals whose name contains this");
  CLI11_PARSE(app, argc, argv);
  try {
    cbq::check_environment();
    const int code = real ? run_real(folder, fast) : run(folder, fast, seeds, only);
    return code != 0 ? code : cbq::finish_output();
  } catch (const std::exception& error) {
    std::cerr << "check_reference: " << error.what() << std::endl;
    return 1;
  }
}
