#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "experiments/grid.h"
#include "experiments/trends.h"

namespace cbq::test_experiments_trends {
namespace {

const double ten = 10.0, twelve = 12.0;

Measured one(double mean) { return {mean, 0.0, 1}; }

TEST(Trends, SignsAgreeAndDisagree) {
  TrendStep step = judge("c4_ppl", &twelve, &ten, one(30.0), one(25.0), false);
  EXPECT_EQ(step.paper, Sign::lower);
  EXPECT_EQ(step.ours, Sign::lower);
  EXPECT_EQ(step.verdict, Verdict::agree);
  EXPECT_NEAR(step.change, std::log(25.0 / 30.0), 1e-12);
  step = judge("c4_ppl", &twelve, &ten, one(25.0), one(30.0), false);
  EXPECT_EQ(step.ours, Sign::higher);
  EXPECT_EQ(step.verdict, Verdict::disagree);
  step = judge("c4_ppl", &ten, &twelve, one(25.0), one(30.0), false);
  EXPECT_EQ(step.paper, Sign::higher);
  EXPECT_EQ(step.verdict, Verdict::agree);
  EXPECT_EQ(judge("c4_ppl", &ten, &ten, one(25.0), one(30.0), false).verdict, Verdict::disagree);
}

TEST(Trends, DifferencesBelowTheNoiseAreNone) {
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, one(30.0), one(30.0 * std::exp(0.019)), false).verdict,
            Verdict::noise);
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, one(30.0), one(30.0 * std::exp(0.021)), false).verdict,
            Verdict::disagree);
  // 3 seeds: 2 sqrt(0.03^2 / 3 + 0.04^2 / 3) = 0.0577
  const Measured from = {30.0, 0.9, 3}, wide = {31.5, 1.26, 3}, far = {32.0, 1.28, 3};
  const TrendStep near_step = judge("c4_ppl", &twelve, &ten, from, wide, false);
  EXPECT_NEAR(near_step.noise, 2.0 * std::sqrt(0.03 * 0.03 / 3 + 0.04 * 0.04 / 3), 1e-12);
  EXPECT_EQ(near_step.verdict, Verdict::noise);
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, from, far, false).verdict, Verdict::disagree);
  const Measured exact = {30.0, 0.0, 3}, close = {30.12, 0.0, 3}, apart = {30.3, 0.0, 3};
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, exact, close, false).verdict, Verdict::noise);
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, exact, apart, false).verdict, Verdict::disagree);
}

TEST(Trends, WhatCannotBeJudged) {
  EXPECT_EQ(judge("c4_ppl", nullptr, &ten, one(30.0), one(25.0), false).verdict, Verdict::unjudged);
  EXPECT_EQ(judge("c4_ppl", nullptr, &ten, one(30.0), one(25.0), false).ours, Sign::lower);
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, one(30.0), {}, false).verdict, Verdict::unjudged);
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, one(30.0), one(30.0), true).verdict, Verdict::same);
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, one(inf), one(inf), false).verdict, Verdict::unjudged);
  EXPECT_EQ(judge("c4_ppl", &twelve, &ten, one(inf), one(25.0), false).verdict, Verdict::agree);
  EXPECT_EQ(judge("gpu_memory_gb", &ten, &twelve, one(0.0), one(1.0), false).verdict,
            Verdict::unjudged);
}

TEST(Grid, AlignsColumnsAndWrapsGroups) {
  Grid grid;
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
