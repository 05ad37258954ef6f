// cbq_fuzz: damaged files for every parser of the project (tests/fuzz/fuzz.h).
#include <fmt/format.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <map>

#include "tensor/error.h"
#include "tests/fuzz/campaign.h"

using namespace cbq;
using namespace cbq::fuzz;

namespace {

struct CommandLine {
  std::vector<std::string> names;
  std::string input;
  bool list = false;
  CampaignOptions campaign;
};

bool is_self_test(const FuzzTarget& target) { return target.name.starts_with("self_"); }

std::vector<const FuzzTarget*> chosen_targets(const std::vector<std::string>& names) {
  std::vector<const FuzzTarget*> chosen;
  std::string known;
  for (const FuzzTarget* target : targets()) {
    known += (known.empty() ? "" : ", ") + target->name;
    if (names.empty() && !is_self_test(*target)) chosen.push_back(target);
  }
  for (const std::string& name : names) {
    const auto all = targets();
    const auto at = std::find_if(all.begin(), all.end(),
                                 [&](const FuzzTarget* target) { return target->name == name; });
    check(at != all.end(), "--target: unknown '", name, "'; known: ", known);
    chosen.push_back(*at);
  }
  return chosen;
}

/// One line per fault, with the number of cases that show it and the first input.
void print_failures(const FuzzTarget& target, const TargetResult& result) {
  std::map<std::string, std::vector<const Failure*>> by_kind;
  for (const Failure& failure : result.failures) by_kind[failure.kind].push_back(&failure);
  for (const auto& [kind, failures] : by_kind) {
    fmt::print("  {} x {}\n    e.g. --target {} --first {} --count 1; kept: {}\n", failures.size(),
               kind, target.name, failures[0]->number, failures[0]->kept.string());
  }
}

int run_all(const CommandLine& line) {
  const std::vector<const FuzzTarget*> chosen = chosen_targets(line.names);
  const auto start = std::chrono::steady_clock::now();
  int64_t cases = 0, failing = 0;
  fmt::print("{:<24} {:>7} {:>9} {:>8} {:>9} {:>8} {:>8}\n", "target", "cases", "accepted",
             "refused", "failing", "us/case", "ms most");
  for (size_t i = 0; i < chosen.size(); ++i) {
    CampaignOptions options = line.campaign;
    if (options.seconds > 0.0) {  // what is left, in equal parts
      const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
      const auto left = static_cast<double>(chosen.size() - i);
      options.seconds = std::max(1e-3, (options.seconds - passed.count()) / left);
    }
    const TargetResult result = run_campaign(*chosen[i], options);
    fmt::print("{:<24} {:>7} {:>9} {:>8} {:>9} {:>8.0f} {:>8.1f}\n", chosen[i]->name, result.cases,
               result.accepted, result.refused, result.failures.size(),
               1e6 * result.seconds / static_cast<double>(std::max<int64_t>(result.cases, 1)),
               1e3 * result.slowest);
    print_failures(*chosen[i], result);
    std::fflush(stdout);
    cases += result.cases;
    failing += static_cast<int64_t>(result.failures.size());
  }
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
  fmt::print("{} cases of {} targets in {:.0f} s, seed {}{}: {} failed\n", cases, chosen.size(),
             passed.count(), line.campaign.seed,
             has_sanitizer() ? "" : " (without sanitizers: the preset cpu-debug has them)",
             failing);
  return failing == 0 ? 0 : 1;
}

int run(const CommandLine& line) {
  if (line.list) {
    for (const FuzzTarget* target : targets()) fmt::print("{}\n", target->name);
    return 0;
  }
  if (line.input.empty()) return run_all(line);
  check(line.names.size() == 1, "--input: name the parser with --target");
  const std::string report = run_file(*chosen_targets(line.names)[0], line.input, line.campaign);
  fmt::print("{}\n", report.empty() ? "nothing wrong" : report);
  return report.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  // Forked processes have no threads but their first, and an input is too small for more.
  omp_set_num_threads(1);
  CommandLine line;
  CLI::App app(
      "Gives damaged files to the project's parsers. Exits with 1 when one crashes, takes "
      "too long or too much memory, or throws what it should not.");
  app.add_option("--target", line.names, "parsers; default: all (--list)");
  app.add_option("--count", line.campaign.count, "inputs per parser")->capture_default_str();
  app.add_option("--first", line.campaign.first, "number of the first input");
  app.add_option("--seed", line.campaign.seed, "of the inputs")->capture_default_str();
  app.add_option("--seconds", line.campaign.seconds, "at most so long for all; 0: no limit");
  app.add_option("--input", line.input,
                 "run this file alone, with what stands beside it, and print what happens");
  app.add_option("--findings", line.campaign.findings, "folder for the inputs that fail")
      ->default_val("fuzz-findings");
  app.add_option("--cpu-seconds", line.campaign.limits.seconds,
                 "limit per input, of processor time")
      ->capture_default_str();
  app.add_option("--wait-seconds", line.campaign.limits.wait, "limit per input by the clock")
      ->capture_default_str();
  app.add_option("--megabytes", line.campaign.limits.megabytes, "limit of memory per input")
      ->capture_default_str();
  app.add_flag("--list", line.list, "names of the parsers");
  try {
    app.parse(argc, argv);
    return run(line);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    fmt::print(stderr, "cbq_fuzz: {}\n", error.what());
    return 2;
  }
}
