// Coarse-to-fine outlier detection (CBQ, Algorithm 1): which of many values are outliers.
#pragma once

#include <cstdint>
#include <vector>

namespace cbq {

struct OutlierConfig {
  double lambda1 = 1.5;  // of the interquartile range
  double lambda2 = 1.0;  // of the variance
  /// As printed, M_intra is the variance of the reserved part of the coarse set alone, and splits
  /// start behind its first value. That variance starts near 0, so that any gap wins: on Gaussian
  /// values without outliers it cuts off about the whole coarse set (1.7 % of |W|).
  bool printed_variance = false;
  /// Coarse sets with fewer values hold no outliers.
  int64_t least_coarse = 2;
};

struct OutlierSplit {
  int64_t coarse = 0;    // values above the coarse threshold
  int64_t outliers = 0;  // of them, values above `threshold`
  double threshold =
      0.0;              // largest value that is kept: max(reserved); the maximum without outliers
  double metric = 0.0;  // M of the best split; 0 without outliers
};

/// With x sorted ascending (0-based), Q1 = x[n/4], Q3 = x[3n/4]:
///   coarse set O = { x > Q3 + lambda1 (Q3 - Q1) }, sorted;
///   for every split i of O: kept = all values below O[i], outliers = O[i:],
///     M = (min(outliers) - max(kept))^2 - lambda2 var(kept);
///   the split with the largest M (the first of equals), if that is positive.
/// The printed pseudo-code starts M* at +infinity, which no M exceeds, and its text minimizes M.
/// The stated aim, a large gap and a small variance, asks for the maximum, which is taken here.
/// Split 0 (all of O are outliers) takes part: all values below O are kept then. With
/// `printed_variance` it would keep no value of O, so i starts at 1.
/// O(n) and a sort of O. `values` >= 0 typically (|W|, channel maxima); they are reordered.
/// Throws std::invalid_argument for no values at all and for NaN or infinity.
OutlierSplit find_outliers(std::vector<double> values, const OutlierConfig& config = {});

}  // namespace cbq
