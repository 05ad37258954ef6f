#include "experiments/trends.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace cbq {
namespace {

Sign sign_of(double change) {
  if (change == 0.0) return Sign::equal;
  return change < 0.0 ? Sign::lower : Sign::higher;
}

double relative_variance(const Measured& m) {
  return m.mean == 0.0 ? 0.0 : std::pow(m.spread / m.mean, 2) / m.seeds;
}

/// Of the data that both rows were scored on, where it is known (accuracies).
double error_variance(const Measured& m) {
  return m.mean == 0.0 ? 0.0 : std::pow(m.error / m.mean, 2);
}

/// Of one seed each.
double noise_of(const std::string& metric, const Measured& from, const Measured& to) {
  if (from.error == 0.0 || to.error == 0.0) return single_seed_noise(metric);
  return 2.0 * std::hypot(from.error / from.mean, to.error / to.mean);
}

}  // namespace

std::string name_of(Sign sign) {
  switch (sign) {
    case Sign::lower:
      return "lower";
    case Sign::equal:
      return "equal";
    case Sign::higher:
      return "higher";
    default:
      return "-";
  }
}

std::string name_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::agree:
      return "agree";
    case Verdict::disagree:
      return "DISAGREE";
    case Verdict::unresolved:
      return "not resolved";
    case Verdict::same:
      return "same cell";
    default:
      return "-";
  }
}

double single_seed_noise(const std::string& metric) {
  if (metric == "time_hours") return 0.05;
  if (metric == "gpu_memory_gb") return 0.01;
  if (metric == "epochs") return 0.0;
  return std::numeric_limits<double>::infinity();
}

TrendStep judge(const std::string& metric, const double* paper_from, const double* paper_to,
                const Measured& from, const Measured& to, bool same, const Estimate* losses) {
  TrendStep step;
  step.metric = metric;
  if (paper_from != nullptr && paper_to != nullptr) step.paper = sign_of(*paper_to - *paper_from);
  if (from.seeds == 0 || to.seeds == 0 || !(from.mean > 0.0) || !(to.mean > 0.0)) return step;
  step.change = same ? 0.0 : std::log(to.mean / from.mean);
  if (std::isnan(step.change)) return step;  // both infinite
  if (losses != nullptr) {
    if (std::isfinite(losses->mean) && !same) step.change = losses->mean;
    step.error = losses->error;
    step.noise = losses->half_width;
  } else {
    step.noise =
        std::min(from.seeds, to.seeds) < 2
            ? noise_of(metric, from, to)
            : std::max(0.005, 2.0 * std::sqrt(relative_variance(from) + relative_variance(to) +
                                              error_variance(from) + error_variance(to)));
  }
  step.ours = sign_of(step.change);
  const bool exact = losses == nullptr && step.noise == 0.0;
  const bool resolved = exact || std::isinf(step.change) || std::abs(step.change) > step.noise;
  if (same) {
    step.verdict = Verdict::same;
  } else if (step.paper == Sign::unknown) {
    step.verdict = Verdict::unjudged;
  } else if (!resolved) {
    step.verdict = Verdict::unresolved;
  } else {
    step.verdict = step.paper == step.ours ? Verdict::agree : Verdict::disagree;
  }
  return step;
}

}  // namespace cbq
