// The progress printer: what a terminal shows and what a log file holds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "experiments/progress.h"

namespace cbq::test_cli_progress {
namespace {

TEST(CliProgress, DurationsReadLikeAClock) {
  EXPECT_EQ(duration_text(0.4), "0:00");
  EXPECT_EQ(duration_text(67), "1:07");
  EXPECT_EQ(duration_text(3599.6), "1:00:00");
  EXPECT_EQ(duration_text(3 * 3600 + 130), "3:02:10");
  EXPECT_EQ(duration_text(51 * 3600), "2 d 3 h");
  EXPECT_EQ(duration_text(-1), "?");
  EXPECT_EQ(duration_text(std::numeric_limits<double>::infinity()), "?");
}

TEST(CliProgress, RemainingTimeIsThatOfTheStepsToCome) {
  double now = 100.0;
  std::ostringstream out;
  Progress progress(out, true, [&now] { return now; });
  // A resumed run: 60 of 100 steps were there before.
  progress.update(60, 100, "window 4");
  now += 5.0;
  progress.update(70, 100, "window 4");  // 2 steps a second, 30 to go
  EXPECT_NE(out.str().find("70/100, 0:15 left, window 4"), std::string::npos) << out.str();
}

TEST(CliProgress, ABarIsRedrawnInItsLineAndLinesGoAboveIt) {
  double now = 0.0;
  std::ostringstream out;
  {
    Progress progress(out, true, [&now] { return now; });
    progress.update(0, 4, "a");
    now += 0.01;
    progress.update(1, 4, "a");  // too soon to draw again
    progress.line("hello");
    now += 1.0;
    progress.update(4, 4, "a");
  }
  const std::string text = out.str();
  EXPECT_EQ(text.find("1/4"), text.find("1/4,", text.find("hello"))) << "drawn below the line only";
  EXPECT_NE(text.find("hello\n\r\x1b[K["), std::string::npos);
  EXPECT_EQ(text.back(), '\n') << "the bar's line is ended";
  EXPECT_NE(text.find("[========================] 4/4"), std::string::npos);
}

TEST(CliProgress, ALogHoldsPlainLinesAndFewOfThem) {
  double now = 0.0;
  std::ostringstream out;
  Progress progress(out, false, [&now] { return now; });
  for (int i = 0; i <= 1000; ++i, now += 0.05) progress.update(i, 1000, "step");
  progress.finish();
  const std::string text = out.str();
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  const auto lines = std::count(text.begin(), text.end(), '\n');
  EXPECT_EQ(lines, 10) << text;
  EXPECT_NE(text.find("1000/1000"), std::string::npos);
}

TEST(CliProgress, AnotherTotalBeginsANewBar) {
  double now = 0.0;
  std::ostringstream out;
  Progress progress(out, true, [&now] { return now; });
  progress.update(1, 2, "first");
  now += 100.0;
  progress.update(1, 5, "second");
  now += 1.0;
  progress.update(2, 5, "second");
  EXPECT_NE(out.str().find("2/5, 0:03 left, second"), std::string::npos)
      << "the first bar's time does not count: " << out.str();
}

}  // namespace
}  // namespace cbq::test_cli_progress
