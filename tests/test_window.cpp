// Windows: properties over all small cases, and schedules written by hand.
#include "cbq/window.h"
#include "tensor/error.h"
#include "tests/test_data.h"

namespace cbq {
namespace {

/// What every schedule must satisfy, however it came about.
void expect_sound(const std::vector<ScheduledWindow>& schedule, int64_t blocks) {
  std::vector<int> finished(static_cast<size_t>(blocks), 0);
  int64_t unfinished = 0;
  for (const ScheduledWindow& s : schedule) {
    ASSERT_GE(s.window.count, 1);
    ASSERT_LT(s.window.last(), blocks);
    ASSERT_EQ(s.window.first, unfinished);
    ASSERT_GE(s.finishes, 0);
    ASSERT_LE(s.finishes, s.window.count);
    for (int64_t b = 0; b < s.finishes; ++b) ++finished[static_cast<size_t>(s.window.first + b)];
    unfinished += s.finishes;
  }
  for (const int times : finished) EXPECT_EQ(times, 1);
  EXPECT_EQ(schedule.back().finishes, schedule.back().window.count);
  EXPECT_EQ(schedule.back().window.last(), blocks - 1);
}

TEST(Window, EveryBlockIsFinishedOnceForAllSmallCases) {
  for (int64_t blocks = 1; blocks <= 12; ++blocks) {
    for (int64_t size = 1; size <= 13; ++size) {
      for (int64_t overlap = 0; overlap < size; ++overlap) {
        SCOPED_TRACE(concat("K ", blocks, " n ", size, " o ", overlap));
        const auto schedule = sliding_windows(blocks, size, overlap);
        expect_sound(schedule, blocks);
        for (size_t i = 0; i + 1 < schedule.size(); ++i) {
          EXPECT_EQ(schedule[i].window.count, size);
          EXPECT_EQ(schedule[i].finishes, size - overlap);
          const int64_t shared = schedule[i].window.last() - schedule[i + 1].window.first + 1;
          EXPECT_EQ(shared, overlap);
        }
        EXPECT_LE(schedule.back().window.count, size);
        // No window lies inside the one before it: the last one would otherwise learn nothing new.
        if (schedule.size() > 1) {
          EXPECT_GT(schedule.back().window.last(), schedule[schedule.size() - 2].window.last());
        }
        // The text form means the same windows.
        EXPECT_EQ(parse_schedule(to_string(schedule), blocks), schedule);
      }
    }
  }
}

TEST(Window, LastWindowIsShortened) {
  EXPECT_EQ(to_string(sliding_windows(8, 4, 1)), "0-3,3-6,6-7");
  EXPECT_EQ(to_string(sliding_windows(5, 2, 1)), "0-1,1-2,2-3,3-4");
  EXPECT_EQ(to_string(sliding_windows(5, 2, 0)), "0-1,2-3,4");
  EXPECT_EQ(to_string(sliding_windows(3, 8, 7)), "0-2");
}

TEST(Window, ImpossibleSizesAreRefused) {
  expect_error<std::invalid_argument>([] { sliding_windows(4, 2, 2); }, {"overlap", "2"});
  expect_error<std::invalid_argument>([] { sliding_windows(4, 0, 0); }, {"window", "0"});
  expect_error<std::invalid_argument>([] { sliding_windows(4, 2, -1); }, {"overlap", "-1"});
  expect_error<std::invalid_argument>([] { sliding_windows(0, 2, 1); }, {"0 blocks"});
}

TEST(Window, ScheduleWidensAndNarrows) {
  const auto schedule = parse_schedule("0, 0-1,0-2,1-2,2", 3);
  expect_sound(schedule, 3);
  ASSERT_EQ(schedule.size(), 5u);
  EXPECT_EQ(schedule[0].finishes, 0);
  EXPECT_EQ(schedule[2].finishes, 1);
  EXPECT_EQ(schedule[3].finishes, 1);
  EXPECT_EQ(schedule[4].finishes, 1);
  EXPECT_EQ(to_string(schedule), "0,0-1,0-2,1-2,2");
}

TEST(Window, ScheduleErrorsNamePositionAndReason) {
  const auto refused = [](const char* text, std::initializer_list<const char*> parts) {
    SCOPED_TRACE(text);
    expect_error<std::invalid_argument>([&] { parse_schedule(text, 4); }, parts);
  };
  refused("", {"block number", "position 0"});
  refused("0-1,,2-3", {"position 4"});
  refused("0-1,x,2-3", {"position 4"});
  refused("0-1,2-3,", {"position 8"});
  refused("0-1,2-4", {"block 4", "position 6", "0 to 3"});
  refused("1-0,2-3", {"backwards"});
  refused("0-1,3", {"block 2"});
  refused("2-3,0-1", {"starts at block 2", "block 0"});
  refused("0-1,2-3,0", {"starts at block 2"});  // block 0 is to be finished later
  refused("0-3,1", {"block 2", "unfinished"});  // 2 and 3 lie behind a block that goes on
  refused("0-3,0-3,1-9999999999999999999", {"block number"});
}

}  // namespace
}  // namespace cbq
