// What chance could do to a difference between two rows of a table.
//
// A test text is a sample of segments, and a seed is a sample of the training's random numbers. Two
// rows are scored on the same segments and, with several seeds, run with the same seeds: so their
// losses are compared pair by pair, which takes what both have in common out of the noise.
#pragma once

#include <cstdint>
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
  double error = 0.0;    // standard error; 0 where it is not known
  double freedom = 0.0;  // degrees of freedom of `error`; 0: not known, nothing can be said
  int64_t clusters = 0;  // documents, or segments where documents are not known
  int seeds = 0;

  bool has_error() const { return freedom > 0.0; }
  /// Half the width of the interval that holds the true value with this probability:
  /// student_quantile((1 + level) / 2, freedom) * error.
  double half_width(double level = 0.95) const;
};

/// The mean of `to` - `from` and its standard error. With seeds r = 1..R, segments s with n_s tokens
/// in clusters c = 1..C (documents; each segment its own where `documents` is empty), N = sum n_s:
///   d_rs = to_rs - from_rs,   D = sum_rs d_rs / (R N)                  the difference per token
///   u_rc = sum_{s in c} (d_rs - D n_s),   U_r = sum_c u_rc,   U_c = sum_r u_rc
///   V_text  = C / (C - 1) sum_c U_c^2 / (R N)^2
///   V_seed  = R / (R - 1) sum_r U_r^2 / (R N)^2                        (0 where R = 1)
///   V_cross = R C / ((R - 1) (C - 1)) sum_rc (u_rc - U_c / R - U_r N_c / N)^2 / (R N)^2
///   V = max(V_text + V_seed - V_cross, V_text, V_seed),   error = sqrt(V)
/// V_text and V_seed both hold the noise that belongs to a seed on a segment alone, so that it is
/// subtracted once (two-way analysis of variance; Cameron, Gelbach & Miller 2011 for clusters). With
/// one seed and segments of one length, D and V_text are mean and variance of the paired t test.
/// Degrees of freedom after Satterthwaite (1946):
///   (V_text + V_seed)^2 / (V_text^2 / (C - 1) + V_seed^2 / (R - 1)).
/// With R = 1 the noise is that of the text only: another seed may say something else.
/// Nothing is known of the noise (freedom 0) with one cluster, or where a sum is not finite.
/// Throws std::invalid_argument for sums that do not fit the segments, or no segments.
Estimate paired_difference(const SegmentSums& from, const SegmentSums& to,
                           const std::vector<int64_t>& documents = {});
/// The same of one row against nothing: its mean per token and the noise of that.
Estimate mean_per_token(const SegmentSums& sums, const std::vector<int64_t>& documents = {});

}  // namespace cbq
