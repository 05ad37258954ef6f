// bench step: milliseconds of one reconstruction step, where they go, the memory it takes, and the
// least that the step could cost on this device.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <map>
#include <nlohmann/json.hpp>

#include "nn/formats/atomic_file.h"
#include "quant/rounding.h"
#include "tools/bench/bench.h"
#include "tools/bench/workload.h"

namespace cbq::bench {
namespace {

struct Options {
  WorkloadOptions workload;
  std::string json, dump, clock = "wall";
  double seconds = 3.0;
  int64_t losses = 5;
};

/// In the order of the report.
constexpr const char* parts[] = {"gemm",  "attention", "weight_quant", "activation_quant",
                                 "norms", "loss",      "optimizer",    "data",
                                 "other"};

/// What an op (as launch.h and gemm.cpp name it) belongs to; "other" for what is not listed.
std::string part_of(const std::string& op) {
  static const std::map<std::string, std::string> table = {
      {"gemm", "gemm"},
      {"matmul", "gemm"},
      {"attention", "attention"},
      {"attention_backward", "attention"},
      {"rope", "attention"},
      {"scale_of", "weight_quant"},
      {"scale_gradient", "weight_quant"},
      {"clip_of", "weight_quant"},
      {"clip_gradient", "weight_quant"},
      {"moved_zero_point", "weight_quant"},
      {"quantize_activation", "activation_quant"},
      {"rms_norm", "norms"},
      {"rms_norm_backward", "norms"},
      {"swiglu", "norms"},
      {"swiglu_backward", "norms"},
      {"add", "norms"},
      {"add_into", "norms"},
      {"reconstruction_loss", "loss"},
      {"adam_step", "optimizer"},
      {"sign_sgd_step", "optimizer"},
      {"write_values", "optimizer"},
      {"copy", "data"},
      {"zero", "data"},
      {"cast", "data"},
  };
  if (const auto found = table.find(op); found != table.end()) return found->second;
  if (op.starts_with("quantize_")) return "activation_quant";  // with what stands before it
  for (const std::string& scheme : rounding_schemes().names()) {
    if (op == scheme) return "weight_quant";
  }
  return "other";
}

nlohmann::json milliseconds(const Timing& t) {
  return {{"median", 1e3 * t.median}, {"best", 1e3 * t.best}, {"spread", t.spread()}};
}

/// Steps in pairs: one is timed as a whole, the next one op by op.
class Measurement {
 public:
  Measurement(Workload& workload, ProfileClock clock) : workload_(workload), clock_(clock) {}

  /// The first steps, one by one: their losses are what another program must find, too.
  void warm_up(int64_t losses) {
    for (int64_t i = 0; i < losses; ++i) {
      step();
      losses_.push_back(workload_.reconstructor->take_mean_loss());
    }
    for (int i = 0; i < 3; ++i) step();
    synchronize(workload_.device);
    workload_.reconstructor->take_mean_loss();
    reset_peak(workload_.device);
  }

  void run(double seconds) {
    const double start = seconds_on(ProfileClock::wall);
    while (wall_.size() < 3 || seconds_on(ProfileClock::wall) - start < seconds) {
      plain_step();
      profiled_step();
    }
  }

  nlohmann::json report() const {
    nlohmann::json by_part = nlohmann::json::object(), by_op = nlohmann::json::object();
    const auto n = static_cast<double>(wall_.size());
    for (const char* part : parts) by_part[part] = 0.0;
    double known = 0.0;
    for (const auto& [op, entry] : ops_) {
      const double ms = 1e3 * entry.seconds / n;
      const std::string part = part_of(op);
      by_op[op] = {{"ms", ms}, {"calls", static_cast<double>(entry.calls) / n}, {"part", part}};
      by_part[part] = by_part[part].get<double>() + ms;
      known += ms;
    }
    const double whole = 1e3 * profiled_ / n;
    by_part["other"] = by_part["other"].get<double>() + whole - known;  // between the ops
    const MemoryStatistics memory = memory_statistics(workload_.device);
    return {{"steps", wall_.size()},
            {"wall_ms", milliseconds(timing_of(wall_))},
            {"cpu_ms", milliseconds(timing_of(cpu_))},
            {"profiled_ms", whole},
            {"parts_ms", by_part},
            {"ops", by_op},
            {"losses", losses_},
            {"peak_bytes", memory.peak_bytes - workload_.stream_bytes()},
            {"stream_bytes", workload_.stream_bytes()}};
  }

 private:
  void step() {
    workload_.reconstructor->train_step(next_, workload_.segments_of(next_));
    ++next_;
  }
  void plain_step() {
    const double wall = seconds_on(ProfileClock::wall), cpu = seconds_on(ProfileClock::cpu);
    step();
    synchronize(workload_.device);
    cpu_.push_back(seconds_on(ProfileClock::cpu) - cpu);
    wall_.push_back(seconds_on(ProfileClock::wall) - wall);
  }
  void profiled_step() {
    DeviceProfile profile(clock_);
    const double start = seconds_on(clock_);
    step();
    synchronize(workload_.device);
    profiled_ += seconds_on(clock_) - start;
    for (const auto& [op, entry] : profile.take()) {
      ops_[op].seconds += entry.seconds;
      ops_[op].calls += entry.calls;
    }
  }

  Workload& workload_;
  ProfileClock clock_;
  int64_t next_ = 0;
  std::vector<double> wall_, cpu_, losses_;
  double profiled_ = 0.0;
  std::map<std::string, DeviceProfile::Entry> ops_;
};

nlohmann::json floor_report(const Workload& workload, const Ceilings& ceilings) {
  const Floor floor = floor_of(workload);
  const double linear = 1e3 * floor.linear_flops / ceilings.gemm;
  const double attention = 1e3 * floor.attention_flops / ceilings.gemm;
  const double memory = 1e3 * floor.bytes / ceilings.copy;
  return {{"linear_ms", linear},
          {"attention_ms", attention},
          {"weights_ms", memory},
          {"ms", linear + attention + memory},
          {"gflop", 1e-9 * (floor.linear_flops + floor.attention_flops)},
          {"ceiling_gflops", 1e-9 * ceilings.gemm},
          {"ceiling_gbs", 1e-9 * ceilings.copy}};
}

void print(const nlohmann::json& r) {
  const auto ms = [&](const char* clock, const char* what) { return r[clock][what].get<double>(); };
  fmt::print("{}: window {}, {} x {} tokens, W{}A{}, signround {}, {}, {}, {} threads\n",
             r["shape"].get<std::string>(), r["window"].get<int64_t>(), r["batch"].get<int64_t>(),
             r["tokens"].get<int64_t>(), r["wbits"].get<int>(), r["abits"].get<int>(),
             r["rounding"].get<std::string>(), r["dtype"].get<std::string>(),
             r["device"].get<std::string>(), r["threads"].get<int>());
  fmt::print("step: {:.2f} ms (best {:.2f}, +-{:.0f} %), {:.2f} ms of CPU time; {} steps\n",
             ms("wall_ms", "median"), ms("wall_ms", "best"), 100 * ms("wall_ms", "spread"),
             ms("cpu_ms", "median"), r["steps"].get<int64_t>());
  const nlohmann::json& floor = r["floor"];
  fmt::print(
      "floor: {:.2f} ms (linear layers {:.2f}, attention {:.2f}, weights in memory {:.2f}), "
      "at {:.0f} GFLOP/s and {:.0f} GB/s\n",
      floor["ms"].get<double>(), floor["linear_ms"].get<double>(),
      floor["attention_ms"].get<double>(), floor["weights_ms"].get<double>(),
      floor["ceiling_gflops"].get<double>(), floor["ceiling_gbs"].get<double>());
  fmt::print("memory: {:.1f} MB at most, and {:.1f} MB of calibration streams\n",
             1e-6 * r["peak_bytes"].get<double>(), 1e-6 * r["stream_bytes"].get<double>());
  const double whole = r["profiled_ms"];
  for (const char* part : parts) {
    const double value = r["parts_ms"][part];
    fmt::print("  {:<18} {:>10.3f} ms {:>5.1f} %\n", part, value, 100 * value / whole);
  }
  fmt::print("  {:<18} {:>10.3f} ms ({} time)\n", "sum", whole, r["clock"].get<std::string>());
}

void run(const Options& options) {
  const ProfileClock clock = clock_from_name(options.clock);
  Workload workload(options.workload);
  if (!options.dump.empty()) {
    nlohmann::json metadata = workload.description();
    metadata["settings"] = to_json(workload.settings);
    metadata["settings"]["rate_rounding"] = workload.settings.rounding_rate();  // 0: the scheme's
    metadata["segments"] = workload.options.segments;
    workload.dump(options.dump, {{"format", "pt"}, {"bench_step", metadata.dump()}});
  }
  const Ceilings ceilings = measure_ceilings(workload.device, workload.dtype, 0.3, clock, false);
  release_cached(workload.device);
  Measurement measurement(workload, clock);
  measurement.warm_up(options.losses);
  measurement.run(options.seconds);
  nlohmann::json result = workload.description();
  result["program"] = "cbq";
  result["clock"] = options.clock;
  result.update(measurement.report());
  result["floor"] = floor_report(workload, ceilings);
  print(result);
  if (!options.json.empty()) write_text_atomically(options.json, result.dump(2) + "\n");
}

}  // namespace

void add_step_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("step", "One reconstruction step, taken apart");
  std::string names;
  for (const NamedShape& shape : named_shapes()) names += " " + shape.name;
  command->add_option("--shape", options->workload.shape, "Sizes:" + names)->capture_default_str();
  options->workload.add_to(*command);
  command->add_option("--seconds", options->seconds, "Time of the measurement")
      ->capture_default_str();
  add_clock_option(*command, options->clock);
  command->add_option("--losses", options->losses, "First steps whose losses are reported")
      ->capture_default_str();
  command->add_option("--json", options->json, "File for the figures");
  command->add_option("--dump", options->dump,
                      "File (safetensors) for weights and data, for tools/pytorch_step.py");
  command->callback([options] { run(*options); });
}

}  // namespace cbq::bench
