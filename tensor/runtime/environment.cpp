#include "tensor/runtime/environment.h"

#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <numeric>

#include "tensor/error.h"
#include "tensor/runtime/notice.h"

namespace cbq {
namespace {

/// Read by setup.sh and by tests; nothing for a program.
const std::vector<std::string> others = {"CBQ_WERROR", "CBQ_TEST_DATA", "CBQ_JOIN_TESTS"};

std::vector<std::string> numbers(int first, int last) {
  std::vector<std::string> all;
  for (int i = first; i <= last; ++i) all.push_back(std::to_string(i));
  return all;
}

/// "auto, 0 or 1"; "1 to 16" of many.
std::string text_of(const std::vector<std::string>& values) {
  if (values.size() > 4) return concat(values.front(), " to ", values.back());
  std::string text = values.front();
  for (size_t i = 1; i < values.size(); ++i) {
    text += concat(i + 1 == values.size() ? " or " : ", ", values[i]);
  }
  return text;
}

/// Insertions, deletions and replacements that make `b` of `a` (Levenshtein 1966).
size_t distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

const std::vector<EnvironmentSwitch>& environment_switches() {
  static const std::vector<EnvironmentSwitch> all = {
      {"CBQ_ATTENTION",
       {"fused", "tiles"},
       "bf16 attention on CUDA; tiles: batched products",
       true},
      {"CBQ_FAST", {"1", "0"}, "tuned kernels, f32 products; 0: reference kernels, OpenBLAS", true},
      {"CBQ_GEMM_CANDIDATES", numbers(1, 16), "proposals of cuBLASLt timed for a new product",
       true},
      {"CBQ_GRAPH", {"auto", "0", "1"}, "steps recorded and replayed; auto: on CUDA only"},
      {"CBQ_STREAMS", {"auto", "device", "host"}, "where calibration streams lie on CUDA"},
      {"CBQ_SYNC", {"0", "1"}, "1: wait for every launch, so that an error names its op"}};
  return all;
}

std::string environment_value(const std::string& name) {
  const std::vector<EnvironmentSwitch>& all = environment_switches();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const auto& s) { return s.name == name; });
  assert(found != all.end());
  const char* set = std::getenv(name.c_str());
  if (set == nullptr || *set == '\0') return found->values.front();
  const std::vector<std::string>& known = found->values;
  check(
      std::find(known.begin(), known.end(), set) != known.end(), name, "='", set,
      "' in the environment: expected ", [&] { return text_of(known); }, "; `unset ", name,
      "` gives ", known.front());
  return set;
}

std::string bits_of_environment() {
  std::string text;
  for (const EnvironmentSwitch& s : environment_switches()) {
    const std::string value = environment_value(s.name);
    if (!s.moves_bits || value == s.values.front()) continue;
    text += concat(text.empty() ? "" : " ", s.name, "=", value);
  }
  return text;
}

std::string doubt_about_variable(const std::string& name) {
  if (!name.starts_with("CBQ_")) return "";
  std::vector<std::string> known;
  for (const EnvironmentSwitch& s : environment_switches()) known.push_back(s.name);
  if (std::find(known.begin(), known.end(), name) != known.end() ||
      std::find(others.begin(), others.end(), name) != others.end()) {
    return "";
  }
  const std::string& nearest = *std::min_element(
      known.begin(), known.end(),
      [&](const auto& a, const auto& b) { return distance(a, name) < distance(b, name); });
  return concat("the environment variable ", name, " has no effect; the most similar switch is ",
                nearest);
}

void check_environment() {
  for (const EnvironmentSwitch& s : environment_switches()) environment_value(s.name);
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string variable = *entry;
    const std::string doubt = doubt_about_variable(variable.substr(0, variable.find('=')));
    if (!doubt.empty()) notice_once(doubt);
  }
}

std::string environment_help() {
  std::string text = "Environment (docs/performance.md):";
  for (const EnvironmentSwitch& s : environment_switches()) {
    text += concat("\n  ", s.name, "=", text_of(s.values), ": ", s.help);
  }
  return text;
}

}  // namespace cbq
