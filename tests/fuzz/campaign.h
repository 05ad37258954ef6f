// A campaign: many cases of many targets, in processes of a few hundred cases each, so that a crash
// costs one case and not the rest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/limits.h"

namespace cbq::fuzz {

struct CampaignOptions {
  int64_t count = 3000;  // cases per target
  int64_t first = 0;     // number of the first
  uint64_t seed = 1;
  double seconds = 0.0;            // for all targets together, by the clock; 0: no limit
  std::filesystem::path findings;  // where failing inputs are kept
  Limits limits;
};

/// Something that a parser must not do. Cases with the same `kind` are one fault.
struct Failure {
  int64_t number = 0;          // of the case
  std::string kind;            // without what differs from case to case
  std::string report;          // the message, or what the sanitizer said
  std::filesystem::path kept;  // the input; empty when enough of this kind are kept
};

struct TargetResult {
  int64_t cases = 0, accepted = 0, refused = 0;
  double seconds = 0.0;  // of processor time in the parser
  double slowest = 0.0;
  std::vector<Failure> failures;
};

/// Runs the cases first, ..., first + count - 1 of a target, after the seeds themselves.
TargetResult run_campaign(const FuzzTarget& target, const CampaignOptions& options);

/// Runs one file, with what stands beside it. Returns the failure's report; empty: none.
std::string run_file(const FuzzTarget& target, const std::filesystem::path& file,
                     const CampaignOptions& options);

}  // namespace cbq::fuzz
