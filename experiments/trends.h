// The signs of a table: does a value fall or rise from one row to another, in the paper and here?
#pragma once

#include <map>
#include <string>
#include <vector>

namespace cbq {

/// Mean of a quantity over seeds, in the unit that is printed.
struct Measured {
  double mean = 0.0;
  double spread = 0.0;  // standard deviation over seeds; 0 for one
  int seeds = 0;        // 0: nothing measured
};

enum class Sign { lower, equal, higher, unknown };
std::string name_of(Sign sign);

enum class Verdict {
  agree,
  disagree,
  noise,    // ours differs by less than it would by chance
  same,     // ours are one and the same cell
  unjudged  // the paper or we have no value
};
std::string name_of(Verdict verdict);

/// One step of a trend under one metric.
struct TrendStep {
  std::string metric;
  Sign paper = Sign::unknown, ours = Sign::unknown;
  double change = 0.0;  // ours: ln(to / from); for a perplexity, nats per token
  double noise = 0.0;   // |change| below this is no difference
  Verdict verdict = Verdict::unjudged;
};

/// Relative difference that one seed cannot tell from chance: 0.02 for perplexities (nats; the
/// spread of seeds at 2 bits is 0.01 to 0.03), 0.01 for memory, 0.05 for times.
double single_seed_noise(const std::string& metric);

/// Compares `to` with `from`. Noise: with several seeds twice the standard error of the difference,
///   2 sqrt((sd_from / mean_from)^2 / n_from + (sd_to / mean_to)^2 / n_to), at least 0.005;
/// with one seed single_seed_noise().
/// `paper_from` and `paper_to` may be null, `same` says that both are the same cell.
TrendStep judge(const std::string& metric, const double* paper_from, const double* paper_to,
                const Measured& from, const Measured& to, bool same);

}  // namespace cbq
