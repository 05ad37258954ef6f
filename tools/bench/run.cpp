// bench run: what a whole window costs (targets, steps, evaluations, hardening, moving the streams
// on), windows per minute, and hours per model beside the paper's.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cbq/pipeline.h"
#include "cbq/quantizers.h"
#include "experiments/command_line.h"
#include "kernels/ops.h"
#include "nn/formats/atomic_file.h"
#include "tools/bench/bench.h"
#include "tools/bench/workload.h"

namespace cbq::bench {
namespace {

struct Options {
  WorkloadOptions workload;
  std::vector<std::string> shapes;
  std::string json, clock = "wall";
  double seconds = 3.0;
  int64_t segments = 128, epochs = 3, test_tokens = 341469;  // WikiText-2 by LLaMA's tokenizer
};

/// Hours of the paper's table 11 (ICLR version; its GPUs, weight-only quantization).
struct PaperHours {
  const char* shape;
  double cbq, omniquant;
};
constexpr PaperHours paper_hours[] = {
    {"7b", 0.9, 1.1}, {"13b", 1.45, 2.2}, {"30b", 2.1, 4.5}, {"65b", 4.3, 8.9}};

/// Seconds of the parts of a window. Each part's cost is proportional to the number of steps or of
/// segments, or is paid once: measured on a few, extrapolated to all.
struct WindowCost {
  double once = 0.0;       // grids of the new blocks, hardening of the finished ones
  double step = 0.0;       // an optimizer step
  double evaluate = 0.0;   // a segment through the hard window, and its loss
  double target = 0.0;     // a segment through the original new blocks
  double propagate = 0.0;  // a segment through the hardened blocks, `finishing` of them
  double score = 0.0;      // a segment's last hidden state through the head, and its loss
  int64_t finishing = 0;
  int64_t peak_bytes = 0;     // without the streams
  int64_t segment_bytes = 0;  // of both streams, per segment

  double seconds(int64_t segments, int64_t steps, int64_t epochs) const {
    const auto n = static_cast<double>(segments);
    return once + static_cast<double>(steps) * step +
           n * (static_cast<double>(epochs + 1) * evaluate + target + propagate);
  }
  /// Perplexity of the original or the quantized model on `segments` segments.
  double perplexity_seconds(int64_t segments, int64_t blocks) const {
    const double block = propagate / static_cast<double>(finishing);
    return static_cast<double>(segments) * (static_cast<double>(blocks) * block + score);
  }
};

/// LLaMA's vocabulary; the embedded shapes have a smaller one, and no 30 GB to spend on a head.
int64_t vocabulary_of(const NamedShape& shape) { return shape.hidden < 1024 ? 4096 : 32000; }

/// Seconds that the head and the loss of a segment take.
double measure_score(const Workload& w, ProfileClock clock) {
  const int64_t vocabulary = vocabulary_of(w.shape), tokens = w.options.tokens;
  Tensor hidden({tokens, w.shape.hidden}, w.dtype, w.device);
  Tensor head({vocabulary, w.shape.hidden}, w.dtype, w.device);
  kernels::fill_normal(hidden, 0.0, 1.0, 2, 0);
  kernels::fill_normal(head, 0.0, 1.0 / std::sqrt(static_cast<double>(w.shape.hidden)), 2, 1);
  const Tensor targets = Tensor::zeros({tokens}, Dtype::i32, w.device);
  const auto score = [&] {
    kernels::cross_entropy(kernels::matmul(hidden, kernels::Trans::no, head, kernels::Trans::yes),
                           targets);
  };
  return measure(w.device, 0.2, score, clock).median;
}

WindowCost measure_window(const WorkloadOptions& options, double seconds, ProfileClock clock) {
  WindowCost cost;
  Workload w(options);
  const auto time = [&](const auto& f) {
    synchronize(w.device);
    const double start = seconds_on(clock);
    f();
    synchronize(w.device);
    return seconds_on(clock) - start;
  };
  const auto segments = static_cast<double>(w.options.segments);
  const Window fresh = {0, w.window.finishes};  // as many as finish
  cost.finishing = w.window.finishes;
  cost.segment_bytes = w.stream_bytes() / w.options.segments;
  int64_t next = 0;
  const auto one_step = [&] {
    w.reconstructor->train_step(next, w.segments_of(next));
    ++next;
  };
  cost.step = measure(w.device, seconds, one_step, clock).median;
  w.reconstructor->evaluate(true);
  reset_peak(w.device);
  cost.evaluate = time([&] { w.reconstructor->evaluate(true); }) / segments;
  one_step();
  cost.peak_bytes = memory_statistics(w.device).peak_bytes - w.stream_bytes();
  w.reconstructor = nullptr;
  cost.once = time([&] { harden_blocks(*w.model, fresh); });
  // Once before it counts: the first call of a shape looks for algorithms and memory.
  const auto run_all = [&] { run_blocks(*w.model, fresh, w.data.inputs); };
  run_all();
  cost.propagate = time(run_all) / segments;
  remove_quantizers(*w.model);
  cost.target = time(run_all) / segments;
  w.settings.scale_search = "squared_error";  // what a run does
  cost.once += time([&] { attach_quantizers(*w.model, fresh, w.settings, w.data.inputs); });
  cost.score = measure_score(w, clock);
  return cost;
}

nlohmann::json measure_shape(const Options& options, const std::string& name) {
  WorkloadOptions workload = options.workload;
  workload.shape = name;
  const NamedShape& shape = shape_of(name);
  const int64_t batch = workload.batch > 0 ? workload.batch : shape.batch;
  const WindowCost cost = measure_window(workload, options.seconds, clock_from_name(options.clock));
  const int64_t overlap = std::min<int64_t>(1, workload.window - 1);
  const auto windows =
      static_cast<int64_t>(sliding_windows(shape.blocks, workload.window, overlap).size());
  const int64_t steps = options.epochs * ((options.segments + batch - 1) / batch);
  const double window_seconds = cost.seconds(options.segments, steps, options.epochs);
  const int64_t tokens = workload.tokens > 0 ? workload.tokens : shape.tokens;
  const double perplexity = cost.perplexity_seconds(options.test_tokens / tokens, shape.blocks);
  const double total = static_cast<double>(windows) * window_seconds + perplexity;
  nlohmann::json result = {{"shape", name},
                           {"clock", options.clock},
                           {"windows", windows},
                           {"steps_per_window", steps},
                           {"step_ms", 1e3 * cost.step},
                           {"window_seconds", window_seconds},
                           {"windows_per_minute", 60.0 / window_seconds},
                           {"perplexity_seconds", perplexity},
                           {"hours", total / 3600.0},
                           {"peak_bytes", cost.peak_bytes},
                           {"stream_bytes", options.segments * cost.segment_bytes}};
  for (const PaperHours& paper : paper_hours) {
    if (name != paper.shape) continue;
    result["paper_hours"] = paper.cbq;
    result["paper_hours_omniquant"] = paper.omniquant;
  }
  return result;
}

void print(const nlohmann::json& r) {
  const auto number = [&](const char* key) { return r[key].get<double>(); };
  const std::string paper =
      r.contains("paper_hours")
          ? fmt::format("{:>7.2f} {:>9.2f}", number("paper_hours"), number("paper_hours_omniquant"))
          : "";
  fmt::print(
      "{:<13} {:>7} {:>6} {:>10.2f} {:>9.2f} {:>8.2f} {:>8.1f} {:>9.4f} {:>8.2f} {:>8.2f} {}\n",
      r["shape"].get<std::string>(), r["windows"].get<int64_t>(),
      r["steps_per_window"].get<int64_t>(), number("step_ms"), number("window_seconds"),
      number("windows_per_minute"), number("perplexity_seconds"), number("hours"),
      1e-9 * number("peak_bytes"), 1e-9 * number("stream_bytes"), paper);
  std::fflush(stdout);
}

void run(const Options& options) {
  const WorkloadOptions& w = options.workload;
  fmt::print("{} segments, {} epochs, window {}, W{}A{}, signround {}, {}\n", options.segments,
             options.epochs, w.window, w.wbits, w.abits, w.rounding,
             name_of(device_from_name(w.device)));
  fmt::print(
      "extrapolated from one window ({} time), the perplexity on {} tokens included; paper: hours "
      "of "
      "its table 11 on its own GPUs\n",
      options.clock, options.test_tokens);
  fmt::print("{:<13} {:>7} {:>6} {:>10} {:>9} {:>8} {:>8} {:>9} {:>8} {:>8} {:>7} {:>9}\n", "shape",
             "windows", "steps", "ms/step", "s/window", "win/min", "ppl, s", "hours", "GB",
             "streams", "paper", "OmniQuant");
  nlohmann::json all = nlohmann::json::array();
  for (const std::string& shape : options.shapes) {
    all.push_back(measure_shape(options, shape));
    print(all.back());
    release_cached(device_from_name(w.device));
  }
  if (!options.json.empty()) write_text_atomically(options.json, all.dump(2) + "\n");
}

}  // namespace

void add_run_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("run", "Windows per minute, hours per model");
  std::string names;
  for (const NamedShape& shape : named_shapes()) names += " " + shape.name;
  options->shapes = {"embedded"};
  command->add_option("--shape", options->shapes, "Sizes, with commas between:" + names)
      ->delimiter(',')
      ->capture_default_str();
  options->workload.add_to(*command);
  command->add_option("--segments", options->segments, "Calibration segments of the run")
      ->capture_default_str()
      ->check(expect_positive);
  command->add_option("--epochs", options->epochs, "Epochs of the run")
      ->capture_default_str()
      ->check(expect_positive);
  command
      ->add_option("--test-tokens", options->test_tokens,
                   "Tokens of the perplexity at the end; 0 leaves it out")
      ->capture_default_str()
      ->check(expect_from_zero);
  command->add_option("--seconds", options->seconds, "Time for the steps of a shape")
      ->capture_default_str();
  add_clock_option(*command, options->clock);
  command->add_option("--json", options->json, "File for the figures");
  command->callback([options] { run(*options); });
}

}  // namespace cbq::bench
