// The largest of many errors, where NaN is the largest of all.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

namespace cbq {

/// Running maximum of errors; NaN counts as infinity. Neither std::max nor a comparison does that:
/// `if (error > worst)` passes over a NaN, and `if (!(error <= worst))` keeps it only until the
/// next error, because nothing compares with it.
class WorstError {
 public:
  /// True if `error` is the largest so far.
  bool add(double error) {
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    if (error <= value_) return false;
    value_ = error;
    return true;
  }
  /// 0 before the first error.
  double value() const { return value_; }

 private:
  double value_ = 0.0;
};

/// max |a_i - b_i|; infinity where one of the two is NaN or infinite and the other one is not the
/// same number, and for lists of unequal length.
inline double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  WorstError worst;
  if (a.size() != b.size()) worst.add(std::numeric_limits<double>::infinity());
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    worst.add(a[i] == b[i] ? 0.0 : std::abs(a[i] - b[i]));
  }
  return worst.value();
}

}  // namespace cbq
