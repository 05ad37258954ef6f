#include "experiments/statistics.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "tensor/error.h"

namespace cbq {
namespace {

/// The continued fraction of the incomplete beta function (Abramowitz & Stegun 26.5.8), by Lentz's
/// method. It converges fast for x < (a + 1) / (a + b + 2).
double beta_fraction(double a, double b, double x) {
  constexpr double tiny = 1e-300;
  const auto away_from_zero = [](double v) { return std::abs(v) < tiny ? tiny : v; };
  double c = 1.0, d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0)), value = d;
  for (int m = 1; m < 10000; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    double factor = 1.0;
    for (const double term : {even, odd}) {
      d = 1.0 / away_from_zero(1.0 + term * d);
      c = away_from_zero(1.0 + term / c);
      factor = c * d;
      value *= factor;
    }
    if (std::abs(factor - 1.0) < 1e-15) break;
  }
  return value;
}

/// Regularized incomplete beta function I_x(a, b); `rest` = 1 - x, which a caller may know better
/// than the subtraction gives it.
double incomplete_beta(double a, double b, double x, double rest) {
  if (x <= 0.0) return 0.0;
  if (rest <= 0.0) return 1.0;
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) +
                                a * std::log(x) + b * std::log(rest));
  if (x < (a + 1.0) / (a + b + 2.0)) return front * beta_fraction(a, b, x) / a;
  return 1.0 - front * beta_fraction(b, a, rest) / b;
}

void check_sums(const SegmentSums& sums) {
  check(!sums.tokens.empty() && !sums.sums.empty(), "statistics: no segments");
  for (const std::vector<double>& of_seed : sums.sums) {
    check(of_seed.size() == sums.tokens.size(), "statistics: ", of_seed.size(), " sums of ",
          sums.tokens.size(), " segments");
  }
  for (const int64_t tokens : sums.tokens) {
    check(tokens > 0, "statistics: a segment of ", tokens, " tokens");
  }
}

/// The cluster of every segment, numbered from 0.
std::vector<size_t> clusters_of(size_t segments, const std::vector<int64_t>& documents) {
  std::vector<size_t> clusters(segments);
  std::iota(clusters.begin(), clusters.end(), size_t{0});
  if (documents.empty()) return clusters;
  check(documents.size() == segments, "statistics: ", documents.size(), " documents of ", segments,
        " segments");
  std::map<int64_t, size_t> numbers;
  for (size_t s = 0; s < segments; ++s) {
    clusters[s] = numbers.emplace(documents[s], numbers.size()).first->second;
  }
  return clusters;
}

double square(double x) { return x * x; }

/// u_rc, and what is summed over it.
struct Deviations {
  std::vector<std::vector<double>> u;  // [seed][cluster]
  std::vector<double> of_seed, of_cluster;
  std::vector<double> share;  // of a cluster in all tokens
};

Deviations deviations_of(const std::vector<std::vector<double>>& d,
                         const std::vector<int64_t>& tokens, const std::vector<size_t>& clusters,
                         double mean, double all_tokens) {
  const size_t count = 1 + *std::max_element(clusters.begin(), clusters.end());
  Deviations result;
  result.of_cluster.resize(count);
  result.share.resize(count);
  for (size_t s = 0; s < tokens.size(); ++s) {
    result.share[clusters[s]] += static_cast<double>(tokens[s]) / all_tokens;
  }
  for (const std::vector<double>& of_seed : d) {
    std::vector<double>& u = result.u.emplace_back(count);
    for (size_t s = 0; s < tokens.size(); ++s) {
      u[clusters[s]] += of_seed[s] - mean * static_cast<double>(tokens[s]);
    }
    for (size_t c = 0; c < count; ++c) result.of_cluster[c] += u[c];
    result.of_seed.push_back(std::accumulate(u.begin(), u.end(), 0.0));
  }
  return result;
}

/// The quantile that an interval of 95 % needs for a variance of `count` means.
double quantile_of(double count) { return student_quantile(0.975, count - 1.0); }

/// max(V_seed - V_cross, 0).
double seed_variance(const Deviations& of, double unit) {
  const auto seeds = static_cast<double>(of.of_seed.size());
  const auto clusters = static_cast<double>(of.of_cluster.size());
  double seed = 0.0, cross = 0.0;
  for (const double u : of.of_seed) seed += square(u);
  for (size_t r = 0; r < of.u.size(); ++r) {
    for (size_t c = 0; c < of.of_cluster.size(); ++c) {
      cross += square(of.u[r][c] - of.of_cluster[c] / seeds - of.of_seed[r] * of.share[c]);
    }
  }
  const double factor = unit * seeds / (seeds - 1.0);
  return std::max(0.0, factor * (seed - cross * clusters / (clusters - 1.0)));
}

void add_noise(const Deviations& of, double all_tokens, Estimate* estimate) {
  if (estimate->clusters < 2) return;
  const auto seeds = static_cast<double>(of.of_seed.size());
  const auto clusters = static_cast<double>(of.of_cluster.size());
  const double unit = 1.0 / square(seeds * all_tokens);
  double text = 0.0;
  for (const double u : of.of_cluster) text += square(u) * unit * clusters / (clusters - 1.0);
  double variance = text, square_of_half = square(quantile_of(clusters)) * text;
  if (of.of_seed.size() > 1) {
    const double seed = seed_variance(of, unit);
    variance += seed;
    square_of_half += square(quantile_of(seeds)) * seed;
  }
  estimate->error = std::sqrt(variance);
  estimate->half_width = std::sqrt(square_of_half);
}

Estimate estimate_of(const std::vector<std::vector<double>>& d, const std::vector<int64_t>& tokens,
                     const std::vector<int64_t>& documents) {
  const std::vector<size_t> clusters = clusters_of(tokens.size(), documents);
  const auto all_tokens =
      static_cast<double>(std::accumulate(tokens.begin(), tokens.end(), int64_t{0}));
  Estimate estimate;
  estimate.seeds = static_cast<int>(d.size());
  estimate.clusters = static_cast<int64_t>(1 + *std::max_element(clusters.begin(), clusters.end()));
  for (const std::vector<double>& of_seed : d) {
    estimate.mean += std::accumulate(of_seed.begin(), of_seed.end(), 0.0) /
                     (static_cast<double>(d.size()) * all_tokens);
  }
  if (!std::isfinite(estimate.mean)) return estimate;
  add_noise(deviations_of(d, tokens, clusters, estimate.mean, all_tokens), all_tokens, &estimate);
  return estimate;
}

}  // namespace

double student_cdf(double t, double freedom) {
  check(freedom > 0.0, "Student's distribution: ", freedom, " degrees of freedom");
  const double sum = freedom + t * t;
  const double tail =
      std::isinf(sum) ? 0.0 : 0.5 * incomplete_beta(freedom / 2.0, 0.5, freedom / sum, t * t / sum);
  return t > 0.0 ? 1.0 - tail : tail;
}

double student_quantile(double p, double freedom) {
  check(p > 0.0 && p < 1.0, "Student's distribution: no quantile at ", p);
  if (p == 0.5) return 0.0;
  if (p < 0.5) return -student_quantile(1.0 - p, freedom);
  double low = 0.0, high = 1.0;
  while (student_cdf(high, freedom) < p && high < 1e15) high *= 2.0;
  for (int i = 0; i < 200 && high - low > 1e-15 * high; ++i) {
    const double middle = 0.5 * (low + high);
    (student_cdf(middle, freedom) < p ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

Estimate paired_difference(const SegmentSums& from, const SegmentSums& to,
                           const std::vector<int64_t>& documents) {
  check_sums(from);
  check_sums(to);
  check(from.tokens == to.tokens && from.sums.size() == to.sums.size(),
        "statistics: two rows of different segments or seeds cannot be compared in pairs");
  std::vector<std::vector<double>> d = to.sums;
  for (size_t r = 0; r < d.size(); ++r) {
    for (size_t s = 0; s < d[r].size(); ++s) d[r][s] -= from.sums[r][s];
  }
  return estimate_of(d, to.tokens, documents);
}

Estimate mean_per_token(const SegmentSums& sums, const std::vector<int64_t>& documents) {
  check_sums(sums);
  return estimate_of(sums.sums, sums.tokens, documents);
}

}  // namespace cbq
