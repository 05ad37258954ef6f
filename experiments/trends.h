// The signs of a table: does a value fall or rise from one row to another, in the paper and here?
#pragma once

#include <map>
#include <string>
#include <vector>

#include "experiments/statistics.h"

namespace cbq {

/// Mean of a quantity over seeds, in the unit that is printed.
struct Measured {
  double mean = 0.0;
  double spread = 0.0;  // standard deviation over seeds; 0 for one
  int seeds = 0;        // 0: nothing measured
  /// Standard error of the mean where it is known: of perplexities over segments, of accuracies
  /// over the task's items.
  double error = 0.0;
};

enum class Sign { lower, equal, higher, unknown };
std::string name_of(Sign sign);

enum class Verdict {
  agree,
  disagree,
  unresolved,  // ours differs by less than chance could make it
  same,        // ours are one and the same cell
  unjudged     // the paper or we have no value
};
std::string name_of(Verdict verdict);

/// One step of a trend under one metric.
struct TrendStep {
  std::string metric;
  Sign paper = Sign::unknown, ours = Sign::unknown;
  double change = 0.0;  // ours: ln(to / from); of a perplexity in nats per token
  double error = 0.0;   // standard error of `change` where it comes from test segments, else 0
  double noise = 0.0;   // |change| up to this is no difference
  Verdict verdict = Verdict::unjudged;
};

/// Relative difference that one seed cannot tell from chance: 0.01 for memory, 0.05 for times, 0
/// for what is no measurement (epochs); infinity for all others, about which one value says
/// nothing.
double single_seed_noise(const std::string& metric);

/// Compares `to` with `from`. `losses`: the paired difference of the losses of a perplexity
/// (paired_difference), else null.
///   perplexities: change = losses->mean, noise = half the width of its 95 % interval;
///   others: change = ln(to / from), and noise
///     with several seeds twice the standard error of the difference,
///       2 sqrt((sd_from / mean_from)^2 / n_from + (sd_to / mean_to)^2 / n_to), at least 0.005,
///       where errors are known (accuracies) with their squares, relative to the means, in the sum;
///     with one seed single_seed_noise(), or where both errors are known (accuracies) twice the
///       error of the difference of the logarithms.
/// The verdict is `unresolved` unless |change| > noise. A loss that is infinite in one row alone
/// differs for certain. `paper_from` and `paper_to` may be null, `same` says that both are the same
/// cell.
TrendStep judge(const std::string& metric, const double* paper_from, const double* paper_to,
                const Measured& from, const Measured& to, bool same,
                const Estimate* losses = nullptr);

}  // namespace cbq
