// Noise of differences: published quantiles and examples, naive formulas, and simulations whose
// truth is known.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <random>

#include "experiments/statistics.h"
#include "tests/test_data.h"

namespace cbq::test_experiments_statistics {
namespace {

TEST(Student, QuantilesAsPublished) {
  // Tables of the t distribution: probability, degrees of freedom, quantile.
  const double published[][3] = {{0.975, 1, 12.706},  {0.975, 2, 4.303},  {0.975, 3, 3.182},
                                 {0.975, 5, 2.571},   {0.975, 10, 2.228}, {0.975, 30, 2.042},
                                 {0.975, 120, 1.980}, {0.95, 5, 2.015},   {0.995, 10, 3.169},
                                 {0.9995, 4, 8.610},  {0.90, 15, 1.341}};
  for (const auto& [p, freedom, t] : published) {
    EXPECT_NEAR(student_quantile(p, freedom), t, 0.0005) << p << " " << freedom;
    EXPECT_NEAR(student_quantile(1.0 - p, freedom), -t, 0.0005);
  }
  EXPECT_NEAR(student_quantile(0.975, 1e7), 1.959964, 1e-5) << "the normal distribution's";
  EXPECT_EQ(student_quantile(0.5, 3), 0.0);
}

TEST(Student, ClosedFormsOfOneAndTwoDegreesOfFreedom) {
  for (const double t : {-1e8, -20.0, -1.0, -1e-3, 0.0, 0.5, 3.0, 1e3}) {
    EXPECT_NEAR(student_cdf(t, 1), 0.5 + std::atan(t) / std::numbers::pi, 1e-14) << t;
    EXPECT_NEAR(student_cdf(t, 2), 0.5 + t / (2.0 * std::sqrt(2.0 + t * t)), 1e-14) << t;
  }
  for (const double freedom : {0.7, 1.0, 4.5, 63.0}) {
    for (const double p : {0.001, 0.2, 0.6, 0.975}) {
      EXPECT_NEAR(student_cdf(student_quantile(p, freedom), freedom), p, 1e-12);
    }
  }
  expect_error<std::invalid_argument>([] { student_quantile(1.0, 3); }, {"quantile at 1"});
  expect_error<std::invalid_argument>([] { student_cdf(1.0, 0.0); }, {"degrees of freedom"});
}

/// One seed, segments of `tokens` tokens.
SegmentSums one_seed(const std::vector<double>& per_token, int64_t tokens = 1) {
  SegmentSums sums;
  sums.sums.emplace_back();
  for (const double value : per_token) {
    sums.sums[0].push_back(value * static_cast<double>(tokens));
    sums.tokens.push_back(tokens);
  }
  return sums;
}

// Student (1908), the sleep of ten patients after two drugs; R's t.test(extra ~ group, paired =
// TRUE) prints mean 1.58, t = 4.0621 and the interval 0.7001142 to 2.4598858.
TEST(PairedDifference, AsStudentsOwnExample) {
  const std::vector<double> first = {0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0};
  const std::vector<double> second = {1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4};
  const Estimate d = paired_difference(one_seed(first, 7), one_seed(second, 7));
  EXPECT_NEAR(d.mean, 1.58, 1e-12);
  EXPECT_NEAR(d.mean / d.error, 4.0621, 5e-5);
  EXPECT_NEAR(d.mean - d.half_width, 0.7001142, 5e-8);
  EXPECT_NEAR(d.mean + d.half_width, 2.4598858, 5e-8);
  EXPECT_EQ(d.clusters, 10);
  EXPECT_EQ(d.seeds, 1);
  EXPECT_TRUE(d.excludes(0.0));
  EXPECT_FALSE(d.excludes(1.0));
}

TEST(PairedDifference, ClustersOfOneSizeAreTheirMeans) {
  const std::vector<double> values = {1.0, 3.0, 2.0, 2.5, 7.0, 6.5, -1.0, 0.0};
  const std::vector<int64_t> documents = {5, 5, 9, 9, 2, 2, 4, 4};
  const SegmentSums none = one_seed(std::vector<double>(8, 0.0), 3);
  const Estimate d = paired_difference(none, one_seed(values, 3), documents);
  const Estimate means = paired_difference(one_seed(std::vector<double>(4, 0.0), 6),
                                           one_seed({2.0, 2.25, 6.75, -0.5}, 6));
  EXPECT_EQ(d.clusters, 4);
  EXPECT_NEAR(d.mean, means.mean, 1e-12);
  EXPECT_NEAR(d.error, means.error, 1e-12);
  EXPECT_NEAR(d.half_width, means.half_width, 1e-12);
}

/// The formulas of statistics.h for segments of different lengths, written out once more.
TEST(PairedDifference, NaiveFormulasOfSeedsAndClusters) {
  constexpr size_t seeds = 3, segments = 6;
  const std::vector<int64_t> tokens = {10, 20, 10, 5, 40, 15}, documents = {0, 0, 1, 2, 2, 3};
  SegmentSums from, to;
  from.tokens = to.tokens = tokens;
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> uniform(0.0, 30.0);
  for (size_t r = 0; r < seeds; ++r) {
    from.sums.emplace_back(segments);
    to.sums.emplace_back(segments);
    for (size_t s = 0; s < segments; ++s) {
      from.sums[r][s] = uniform(random);
      to.sums[r][s] = uniform(random) + 20.0 * static_cast<double>(r);
    }
  }
  double total = 0.0;
  for (size_t r = 0; r < seeds; ++r) {
    for (size_t s = 0; s < segments; ++s) total += to.sums[r][s] - from.sums[r][s];
  }
  const double n = 100.0, mean = total / (3.0 * n);
  double u[3][4] = {}, part[4] = {};
  for (size_t s = 0; s < segments; ++s) {
    part[documents[s]] += static_cast<double>(tokens[s]) / n;
    for (size_t r = 0; r < seeds; ++r) {
      u[r][documents[s]] += to.sums[r][s] - from.sums[r][s] - mean * static_cast<double>(tokens[s]);
    }
  }
  double text = 0.0, seed = 0.0, cross = 0.0;
  for (int c = 0; c < 4; ++c) text += std::pow(u[0][c] + u[1][c] + u[2][c], 2);
  for (auto& row : u) seed += std::pow(row[0] + row[1] + row[2] + row[3], 2);
  for (auto& row : u) {
    const double of_seed = row[0] + row[1] + row[2] + row[3];
    for (int c = 0; c < 4; ++c) {
      const double of_cluster = u[0][c] + u[1][c] + u[2][c];
      cross += std::pow(row[c] - of_cluster / 3.0 - of_seed * part[c], 2);
    }
  }
  const double unit = 1.0 / std::pow(3.0 * n, 2);
  const double v_text = unit * 4.0 / 3.0 * text;
  const double v_seed = unit * 3.0 / 2.0 * seed - unit * 12.0 / 6.0 * cross;
  ASSERT_GT(v_seed, 0.0) << "this test needs seeds that differ";
  const Estimate d = paired_difference(from, to, documents);
  EXPECT_NEAR(d.mean, mean, 1e-12);
  EXPECT_NEAR(d.error, std::sqrt(v_text + v_seed), 1e-12);
  // t of 3 and of 2 degrees of freedom.
  EXPECT_NEAR(d.half_width,
              std::sqrt(std::pow(3.182446, 2) * v_text + std::pow(4.302653, 2) * v_seed), 1e-5);
}

TEST(PairedDifference, WhereNothingIsKnownOfTheNoise) {
  const Estimate one = paired_difference(one_seed({1.0}), one_seed({2.0}));
  EXPECT_EQ(one.mean, 1.0);
  EXPECT_FALSE(one.has_error());
  EXPECT_FALSE(one.excludes(0.0));
  const Estimate one_document =
      paired_difference(one_seed({1.0, 2.0}), one_seed({2.0, 5.0}), {4, 4});
  EXPECT_FALSE(one_document.has_error());
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_FALSE(paired_difference(one_seed({1.0, 2.0}), one_seed({inf, 5.0})).has_error());
  const Estimate exact = paired_difference(one_seed({1.0, 2.0}), one_seed({1.0, 2.0}));
  EXPECT_TRUE(exact.has_error());
  EXPECT_FALSE(exact.excludes(0.0));
  EXPECT_TRUE(paired_difference(one_seed({1.0, 2.0}), one_seed({2.0, 3.0})).excludes(0.0));
}

TEST(PairedDifference, RefusesWhatDoesNotFit) {
  const SegmentSums two = one_seed({1.0, 2.0}), three = one_seed({1.0, 2.0, 3.0});
  expect_error<std::invalid_argument>([&] { paired_difference(two, three); }, {"pairs"});
  expect_error<std::invalid_argument>([&] { paired_difference(two, two, {1}); },
                                      {"1 documents of 2 segments"});
  expect_error<std::invalid_argument>([&] { paired_difference({}, {}); }, {"no segments"});
  SegmentSums broken = two;
  broken.sums[0].pop_back();
  expect_error<std::invalid_argument>([&] { mean_per_token(broken); }, {"1 sums of 2 segments"});
  broken = two;
  broken.tokens[1] = 0;
  expect_error<std::invalid_argument>([&] { mean_per_token(broken); }, {"0 tokens"});
}

/// Two rows whose true difference is 0.25 per token: noise of a seed, a document, a segment, and of
/// a seed on a segment.
struct Truth {
  int seeds = 1, documents = 30, segments_per_document = 1;
  double seed = 0.0, document = 0.0, segment = 1.0, cross = 0.0;
};

/// How often the interval holds the truth. `clustered`: it is told the documents.
double coverage(const Truth& truth, bool clustered, int trials = 2000) {
  std::mt19937_64 random(11);
  std::normal_distribution<double> normal;
  int held = 0;
  for (int trial = 0; trial < trials; ++trial) {
    SegmentSums from, to;
    std::vector<int64_t> documents;
    std::vector<double> common;
    for (int d = 0; d < truth.documents; ++d) {
      const double of_document = truth.document * normal(random);
      for (int s = 0; s < truth.segments_per_document; ++s) {
        documents.push_back(d);
        common.push_back(of_document + truth.segment * normal(random));
        to.tokens.push_back(20 + 30 * (s % 3));
      }
    }
    from.tokens = to.tokens;
    for (int r = 0; r < truth.seeds; ++r) {
      const double of_seed = truth.seed * normal(random);
      from.sums.emplace_back();
      to.sums.emplace_back();
      for (size_t s = 0; s < common.size(); ++s) {
        const auto tokens = static_cast<double>(to.tokens[s]);
        const double level = 50.0 * normal(random);  // of the segment, in both rows
        from.sums.back().push_back(tokens * level);
        to.sums.back().push_back(
            tokens * (level + 0.25 + of_seed + common[s] + truth.cross * normal(random)));
      }
    }
    const Estimate d = paired_difference(from, to, clustered ? documents : std::vector<int64_t>());
    held += d.excludes(0.25) ? 0 : 1;
  }
  return static_cast<double>(held) / trials;
}

TEST(PairedDifference, IntervalsHoldTheTruthAsOftenAsTheySay) {
  const Truth truths[] = {
      {.seeds = 1, .documents = 8},
      {.seeds = 1, .documents = 64},
      {.seeds = 1, .documents = 20, .segments_per_document = 3, .document = 1.0},
      {.seeds = 2, .documents = 64, .cross = 0.3},
      {.seeds = 2, .documents = 64, .seed = 1.0, .cross = 0.3},
      {.seeds = 3, .documents = 64, .seed = 0.05, .cross = 1.0},
      {.seeds = 3, .documents = 30, .seed = 0.2, .cross = 0.3},
      {.seeds = 3,
       .documents = 10,
       .segments_per_document = 3,
       .seed = 0.3,
       .document = 1.0,
       .cross = 0.3},
      {.seeds = 5, .documents = 64, .seed = 1.0, .cross = 0.3},
  };
  for (const Truth& t : truths) {
    const double held = coverage(t, true);
    EXPECT_GE(held, 0.935) << t.seeds << " seeds, " << t.documents << " documents, seed noise "
                           << t.seed;
    EXPECT_LE(held, 0.985) << t.seeds << " seeds, " << t.documents << " documents, seed noise "
                           << t.seed;
  }
}

// What the simulation would show of a wrong formula: segments of a document taken for independent,
// the noise of seeds left out.
TEST(PairedDifference, TheSimulationTellsWrongIntervals) {
  EXPECT_LT(coverage({.documents = 20, .segments_per_document = 6, .document = 1.0}, false), 0.8);
  Truth one_of_many{.seeds = 3, .documents = 64, .seed = 0.3};
  std::mt19937_64 random(5);
  std::normal_distribution<double> normal;
  int held = 0;
  for (int trial = 0; trial < 1000; ++trial) {
    SegmentSums from, to;
    from.tokens = to.tokens = std::vector<int64_t>(64, 10);
    from.sums = {std::vector<double>(64, 0.0)};
    to.sums = {std::vector<double>()};
    const double of_seed = one_of_many.seed * normal(random);
    for (int s = 0; s < 64; ++s) to.sums[0].push_back(10.0 * (of_seed + normal(random)));
    held += paired_difference(from, to).excludes(0.0) ? 0 : 1;
  }
  EXPECT_LT(held, 700) << "one seed cannot tell what another seed changes";
}

TEST(MeanPerToken, IsTheDifferenceFromNothing) {
  SegmentSums sums = one_seed({1.0, 4.0, 2.0}, 5), zeros = one_seed({0.0, 0.0, 0.0}, 5);
  const Estimate mean = mean_per_token(sums), difference = paired_difference(zeros, sums);
  EXPECT_EQ(mean.mean, difference.mean);
  EXPECT_EQ(mean.error, difference.error);
  EXPECT_NEAR(mean.mean, 7.0 / 3.0, 1e-14);
}

}  // namespace
}  // namespace cbq::test_experiments_statistics
