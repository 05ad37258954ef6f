#include "quant/transforms/local/outlier_split.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"

namespace cbq {
namespace {

/// Variance of a growing set (Welford 1962): prefix sums that do not cancel.
class RunningVariance {
 public:
  void add(double x) {
    ++count_;
    const double before = x - mean_;
    mean_ += before / static_cast<double>(count_);
    squares_ += before * (x - mean_);
  }
  double variance() const { return count_ == 0 ? 0.0 : squares_ / static_cast<double>(count_); }

 private:
  int64_t count_ = 0;
  double mean_ = 0.0, squares_ = 0.0;
};

double element(std::vector<double>& values, size_t index) {
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(index);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace

OutlierSplit find_outliers(std::vector<double> values, const OutlierConfig& config) {
  check(!values.empty(), "find_outliers: no values");
  check(config.lambda1 >= 0.0, "find_outliers: lambda1 must not be negative, got ", config.lambda1);
  for (const double x : values) check(std::isfinite(x), "find_outliers: a value is ", x);
  const size_t n = values.size();
  const double q1 = element(values, n / 4), q3 = element(values, 3 * n / 4);
  const double coarse_threshold = q3 + config.lambda1 * (q3 - q1);

  const auto coarse_begin =
      std::partition(values.begin(), values.end(), [&](double x) { return x <= coarse_threshold; });
  std::sort(coarse_begin, values.end());
  const std::vector<double> coarse(coarse_begin, values.end());
  OutlierSplit best;
  best.coarse = static_cast<int64_t>(coarse.size());
  best.threshold = *std::max_element(values.begin(), values.end());
  if (best.coarse < config.least_coarse || coarse.empty()) return best;

  RunningVariance kept;
  if (!config.printed_variance) {
    for (auto x = values.begin(); x != coarse_begin; ++x) kept.add(*x);
  }
  double largest_kept = *std::max_element(values.begin(), coarse_begin);  // Q1 is one of them
  for (size_t i = 0; i < coarse.size(); ++i) {
    if (i > 0 || !config.printed_variance) {
      const double gap = coarse[i] - largest_kept;
      const double metric = gap * gap - config.lambda2 * kept.variance();
      if (metric > best.metric) {
        best.metric = metric;
        best.outliers = static_cast<int64_t>(coarse.size() - i);
        best.threshold = largest_kept;
      }
    }
    kept.add(coarse[i]);
    largest_kept = coarse[i];
  }
  return best;
}

}  // namespace cbq
