#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "experiments/text_table.h"
#include "experiments/trends.h"

namespace cbq::test_experiments_trends {
namespace {

const double ten = 10.0, twelve = 12.0;

Measured one(double mean) { return {mean, 0.0, 1}; }

/// A paired difference of losses with this interval.
Estimate losses(double mean, double half_width) {
  Estimate estimate;
  estimate.mean = mean;
  estimate.error = half_width / 2.0;
  estimate.half_width = half_width;
  return estimate;
}

TEST(Trends, SignsAgreeAndDisagree) {
  const Estimate falls = losses(-0.18, 0.05), rises = losses(0.18, 0.05);
  TrendStep step = judge("c4_ppl", &twelve, &ten, one(30.0), one(25.0), false, &falls);
  EXPECT_EQ(step.paper, Sign::lower);
  EXPECT_EQ(step.ours, Sign::lower);
  EXPECT_EQ(step.verdict, Verdict::agree);
  EXPECT_EQ(step.change, -0.18);
  EXPECT_EQ(step.error, 0.025);
  EXPECT_EQ(step.noise, 0.05);
  step = judge("c4_ppl", &twelve, &ten, one(25.0), one(30.0), false, &rises);
  EXPECT_EQ(step.ours, Sign::higher);
  EXPECT_EQ(step.verdict, Verdict::disagree);
  step = judge("c4_ppl", &ten, &twelve, one(25.0), one(30.0), false, &rises);
  EXPECT_EQ(step.paper, Sign::higher);
  EXPECT_EQ(step.verdict, Verdict::agree);
  EXPECT_EQ(judge("c4_ppl", &ten, &ten, one(25.0), one(30.0), false, &rises).verdict,
            Verdict::disagree);
}

TEST(Trends, AnIntervalThatHoldsZeroResolvesNothing) {
  for (const double sign : {-1.0, 1.0}) {
    const Estimate inside = losses(sign * 0.0499, 0.05), outside = losses(sign * 0.0501, 0.05);
    EXPECT_EQ(judge("c4_ppl", &twelve, &ten, one(30.0), one(30.1), false, &inside).verdict,
              Verdict::unresolved);
    EXPECT_EQ(judge("c4_ppl", &twelve, &ten, one(30.0), one(30.1), false, &outside).verdict,
              sign < 0.0 ? Verdict::agree : Verdict::disagree);
  }
  const Estimate unknown;  // one segment: nothing is known of the noise
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, one(30.0), one(20.0), false, &unknown).verdict,
            Verdict::unresolved);
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, one(30.0), one(20.0), false).verdict,
            Verdict::unresolved)
      << "no losses of segments";
  EXPECT_EQ(name_of(Verdict::unresolved), "not resolved");
}

TEST(Trends, RulesOfMemoryTimeAndEpochs) {
  const auto verdict = [](const char* metric, double change, const Measured& from) {
    Measured to = from;
    to.mean *= std::exp(change);
    return judge(metric, &ten, &twelve, from, to, false).verdict;
  };
  EXPECT_EQ(verdict("gpu_memory_gb", 0.009, one(30.0)), Verdict::unresolved);
  EXPECT_EQ(verdict("gpu_memory_gb", 0.011, one(30.0)), Verdict::agree);
  EXPECT_EQ(verdict("time_hours", 0.049, one(30.0)), Verdict::unresolved);
  EXPECT_EQ(verdict("time_hours", -0.051, one(30.0)), Verdict::disagree);
  EXPECT_EQ(verdict("epochs", 0.001, one(30.0)), Verdict::agree);
  EXPECT_EQ(judge("epochs", &ten, &ten, one(3.0), one(3.0), false).verdict, Verdict::agree);
  EXPECT_EQ(verdict("other_metric", 3.0, one(30.0)), Verdict::unresolved);
  // 3 seeds: 2 sqrt(0.03^2 / 3 + 0.04^2 / 3) = 0.0577
  const Measured from = {30.0, 0.9, 3}, wide = {31.5, 1.26, 3}, far = {32.0, 1.28, 3};
  const TrendStep near_step = judge("time_hours", &twelve, &ten, from, wide, false);
  EXPECT_NEAR(near_step.noise, 2.0 * std::sqrt(0.03 * 0.03 / 3 + 0.04 * 0.04 / 3), 1e-12);
  EXPECT_EQ(near_step.verdict, Verdict::unresolved);
  EXPECT_EQ(judge("time_hours", &twelve, &ten, from, far, false).verdict, Verdict::disagree);
  // Accuracies of the same 100 questions: seeds that agree do not make their sampling error
  // smaller.
  const Measured half = {50.0, 0.0, 2, 5.0}, more = {52.0, 0.0, 2, 5.0};
  EXPECT_NEAR(judge("piqa_acc", &ten, &twelve, half, more, false).noise,
              2.0 * std::sqrt(0.1 * 0.1 + 5.0 / 52.0 * 5.0 / 52.0), 1e-12);
  EXPECT_EQ(judge("piqa_acc", &ten, &twelve, half, more, false).verdict, Verdict::unresolved);
  const Measured exact = {30.0, 0.0, 3}, close = {30.12, 0.0, 3}, apart = {30.3, 0.0, 3};
  EXPECT_EQ(judge("time_hours", &twelve, &ten, exact, close, false).verdict, Verdict::unresolved);
  EXPECT_EQ(judge("time_hours", &twelve, &ten, exact, apart, false).verdict, Verdict::disagree);
}

TEST(Trends, WhatCannotBeJudged) {
  const Estimate falls = losses(-0.18, 0.05);
  EXPECT_EQ(judge("c4_ppl", nullptr, &ten, one(30.0), one(25.0), false, &falls).verdict,
            Verdict::unjudged);
  EXPECT_EQ(judge("c4_ppl", nullptr, &ten, one(30.0), one(25.0), false, &falls).ours, Sign::lower);
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, one(30.0), {}, false).verdict, Verdict::unjudged);
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, one(30.0), one(30.0), true, &falls).verdict,
            Verdict::same);
  const double inf = std::numeric_limits<double>::infinity();
  Estimate infinite;
  infinite.mean = -inf;
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, one(inf), one(inf), false, &infinite).verdict,
            Verdict::unjudged);
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, one(inf), one(25.0), false, &infinite).verdict,
            Verdict::agree);
  EXPECT_EQ(judge("gpu_memory_gb", &ten, &twelve, one(0.0), one(1.0), false).verdict,
            Verdict::unjudged);
}

TEST(TextTable, AlignsColumnsAndWrapsGroups) {
  TextTable grid;
  grid.label_head = "row";
  grid.labels = {"first", "second row"};
  grid.rules = {1};
  grid.groups = {{"C4", {"ours", "paper"}, {{"31.2±0.4", "14.57"}, {"7.00", "-"}}},
                 {"a long title", {"x"}, {{"1"}}}};
  EXPECT_EQ(to_terminal(grid, 60),
            "           | C4              | a long title\n"
            "row        |     ours  paper |            x\n"
            "-----------+-----------------+-------------\n"
            "first      | 31.2±0.4  14.57 |            1\n"
            "-----------+-----------------+-------------\n"
            "second row |     7.00      - |\n");
  EXPECT_EQ(to_terminal(grid, 40),
            "           | C4\n"
            "row        |     ours  paper\n"
            "-----------+----------------\n"
            "first      | 31.2±0.4  14.57\n"
            "-----------+----------------\n"
            "second row |     7.00      -\n"
            "\n"
            "           | a long title\n"
            "row        |            x\n"
            "-----------+-------------\n"
            "first      |            1\n"
            "-----------+-------------\n"
            "second row |\n");
  EXPECT_EQ(to_markdown(grid),
            "| row | C4: ours | C4: paper | a long title: x |\n|---|---:|---:|---:|\n"
            "| first | 31.2±0.4 | 14.57 | 1 |\n| second row | 7.00 | - |  |\n");
  EXPECT_EQ(wrapped("one two three four", 9, 2), "one two\n  three\n  four\n");
}

}  // namespace
}  // namespace cbq::test_experiments_trends
