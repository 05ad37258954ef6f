// bench ops: every op case with benchmark shapes, as GB/s or GFLOP/s and as a share of what this
// device was just measured to reach: a copy of memory, and a large matrix product.
#include "kernels/ops.h"

#include <fmt/core.h>

#include <map>

#include "kernels/launch/tuned_switch.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/json.h"
#include "tests/op_case.h"
#include "tools/bench/bench.h"

namespace cbq::bench {
namespace {

using test::OpCase;

struct Options {
  std::string device = "cpu", dtype = "f32", filter, json;
  double seconds = 0.2;
};

/// What `--json` writes.
nlohmann::json& lines_of_json() {
  static nlohmann::json lines = nlohmann::json::array();
  return lines;
}

double bytes_of(const test::Tensors& tensors) {
  double total = 0.0;
  for (const Tensor& t : tensors) total += static_cast<double>(t.bytes());
  return total;
}

/// What an op that moves `bytes` can reach. On CUDA a copy of as much: what is written may still be
/// in the cache when the op ends, and the less there is to write, the more of it.
double memory_ceiling(const Ceilings& ceilings, const Options& options, Device device,
                      double bytes) {
  if (!device.is_cuda()) return ceilings.copy;
  static std::map<double, double> known;
  const auto found = known.find(bytes);
  if (found != known.end()) return found->second;
  return known[bytes] = copy_rate(device, bytes, options.seconds);
}

/// `work`: bytes, or operations where `flops`; `ceiling`: of the same per second.
void print_rate(const std::string& title, const std::string& shapes, double work, bool flops,
                const Timing& timing, double ceiling) {
  const double rate = work / timing.median;
  fmt::print("{:<42} {:>7.1f} {:<7} {:>4.0f} % (best {:>7.1f})  {:>9.3f} ms +-{:>2.0f} %  {}\n",
             title, rate * 1e-9, flops ? "GFLOP/s" : "GB/s", 100 * rate / ceiling,
             1e-9 * work / timing.best, timing.median * 1e3, 100 * timing.spread(), shapes);
  lines_of_json().push_back({{"op", title},
                             {"shapes", shapes},
                             {"unit", flops ? "GFLOP/s" : "GB/s"},
                             {"rate", rate * 1e-9},
                             {"share", rate / ceiling},
                             {"ms", timing.median * 1e3},
                             {"best_ms", timing.best * 1e3},
                             {"spread", timing.spread()}});
}

void print_line(const OpCase& op, const test::Shapes& shapes, const Ceilings& ceilings,
                const Options& options, Device device, Dtype dtype) {
  const test::Tensors inputs = test::make_inputs(op, shapes, dtype, device);
  const test::Tensors outputs = op.call(inputs);
  const Timing timing = measure_op(device, options.seconds, [&] { op.call(inputs); });
  const double work = op.flops ? op.flops(shapes) : bytes_of(inputs) + bytes_of(outputs);
  std::string text;
  for (const Shape& shape : shapes) text += to_string(shape);
  const bool flops = op.flops != nullptr;
  const double ceiling = flops ? ceilings.gemm : memory_ceiling(ceilings, options, device, work);
  print_rate(op.title(), text, work, flops, timing, ceiling);
}

/// Where a line's kernels are tuned ones, their reference kernels are timed beside them.
int print_tuned_lines(const std::vector<TunedLine>& tuned_lines, const Ceilings& ceilings,
                      const Options& options, Device device) {
  int lines = 0;
  for (const TunedLine& line : tuned_lines) {
    if (line.title.find(options.filter) == std::string::npos) continue;
    const long before = tuned::launches();
    const auto print = [&](const std::string& title) {
      const Timing timing = measure_op(device, options.seconds, line.run);
      const double ceiling =
          line.flops ? ceilings.gemm : memory_ceiling(ceilings, options, device, line.work);
      print_rate(title, to_string(line.shape), line.work, line.flops, timing, ceiling);
      ++lines;
    };
    print(line.title);
    if (tuned::launches() == before) continue;
    const tuned::ReferenceKernels reference_kernels;
    print(line.title + ", reference kernels");
  }
  return lines;
}

void run(const Options& options) {
  const Device device = device_from_name(options.device);
  const Dtype dtype = dtype_from_name(options.dtype);
  fmt::print("{}, {}; median +- half the distance of the quartiles\n", name_of(device),
             name_of(dtype));
  const Ceilings ceilings =
      measure_ceilings(device, dtype, options.seconds, ProfileClock::wall, true);
  int lines = 0;
  for (const OpCase& op : test::op_cases()) {
    if (op.title().find(options.filter) == std::string::npos) continue;
    if (std::find(op.dtypes.begin(), op.dtypes.end(), dtype) == op.dtypes.end()) continue;
    for (const test::Shapes& shapes : op.bench) {
      print_line(op, shapes, ceilings, options, device, dtype);
      ++lines;
    }
  }
  lines += print_tuned_lines(attention_lines(device, dtype), ceilings, options, device);
  lines += print_tuned_lines(rounding_lines(device, dtype), ceilings, options, device);
  lines += print_tuned_lines(token_lines(device, dtype), ceilings, options, device);
  check(lines > 0, "bench ops: no case with a benchmark in ", options.dtype, " matches '",
        options.filter, "'");
  if (options.json.empty()) return;
  const nlohmann::json all = {{"device", name_of(device)},
                              {"dtype", name_of(dtype)},
                              {"copy_gbs", ceilings.copy * 1e-9},
                              {"gemm_gflops", ceilings.gemm * 1e-9},
                              {"lines", lines_of_json()}};
  write_text_atomically(options.json, all.dump(2) + "\n");
}

}  // namespace

void add_ops_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("ops", "Speed of every op against memory and BLAS");
  command->add_option("--device", options->device, "cpu, cuda, auto")->capture_default_str();
  command->add_option("--dtype", options->dtype, "f32, bf16, f16 or f64")->capture_default_str();
  command->add_option("--filter", options->filter, "Only cases with this in their name");
  command->add_option("--seconds", options->seconds, "Time per line")->capture_default_str();
  command->add_option("--json", options->json, "File for the figures");
  command->callback([options] { run(*options); });
}

}  // namespace cbq::bench
