// What chance could do to a difference between two rows of a table.
//
// A test text is a sample of segments, and a seed is a sample of the training's random numbers. Two
// rows are scored on the same segments and, with several seeds, run with the same seeds: so their
// losses are compared pair by pair, which takes what both have in common out of the noise.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace cbq {

/// P(T <= t) of Student's distribution with `freedom` > 0 degrees of freedom (need not be whole).
double student_cdf(double t, double freedom);
/// The t with student_cdf(t, freedom) = p, for 0 < p < 1.
double student_quantile(double p, double freedom);

/// A quantity of every scored token (its negative log-likelihood, its KL), summed over the tokens
/// of each segment.
struct SegmentSums {
  std::vector<std::vector<double>> sums;  // [seed][segment]
  std::vector<int64_t> tokens;            // [segment]
};

/// A mean per token and the noise of it.
struct Estimate {
  double mean = 0.0;
  double error = 0.0;  // standard error
  /// Half the width of the interval that holds the true value with a probability of 95 %.
  double half_width = std::numeric_limits<double>::infinity();
  int64_t clusters = 0;  // documents, or segments where documents are not known
  int seeds = 0;

  /// False where nothing is known of the noise: one cluster, or a sum that is not finite.
  bool has_error() const { return std::isfinite(half_width); }
  /// Whether the interval leaves out `value`.
  bool excludes(double value) const { return std::abs(mean - value) > half_width; }
};

/// The mean of `to` - `from` and the noise of it. With seeds r = 1..R, segments s of n_s tokens in
/// clusters c = 1..C (documents; each segment its own where `documents` is empty), N = sum n_s,
/// N_c the tokens of a cluster:
///   d_rs = to_rs - from_rs,   D = sum_rs d_rs / (R N)                  the difference per token
///   u_rc = sum_{s in c} (d_rs - D n_s),   U_r = sum_c u_rc,   U_c = sum_r u_rc
///   V_text  = C / (C - 1) sum_c U_c^2 / (R N)^2
///   V_seed  = R / (R - 1) sum_r U_r^2 / (R N)^2
///   V_cross = R C / ((R - 1) (C - 1)) sum_rc (u_rc - U_c / R - U_r N_c / N)^2 / (R N)^2
/// V_text and V_seed both hold the noise that a seed has on one segment alone; V_cross is that
/// noise, and is taken out of V_seed (two-way analysis of variance; Cameron, Gelbach & Miller 2011
/// for clusters). With one seed both are 0, and D and V_text are those of the paired t test.
///   error = sqrt(V_text + S),  half width = sqrt(t_{C-1}^2 V_text + t_{R-1}^2 S),
///   S = max(V_seed - V_cross, 0),  t_n: 97.5 % quantile of Student's distribution.
/// Each variance has the quantile of its own degrees of freedom (as in Cochran & Cox 1957), since
/// two or three seeds tell little about theirs: Satterthwaite's common number let intervals of two
/// seeds hold the truth in 87 % of cases.
/// With one seed the noise is that of the text alone: another seed may say something else.
/// Throws std::invalid_argument for sums that do not fit the segments, or no segments.
Estimate paired_difference(const SegmentSums& from, const SegmentSums& to,
                           const std::vector<int64_t>& documents = {});
/// The same of one row against nothing: its mean per token and the noise of that.
Estimate mean_per_token(const SegmentSums& sums, const std::vector<int64_t>& documents = {});

}  // namespace cbq
