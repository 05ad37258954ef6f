// Windows: properties over all small cases, and schedules written by hand.
#include "cbq/window.h"
#include "tensor/error.h"
#include "tests/test_data.h"

namespace cbq::test_window {
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

TEST(Window, WideningSchedulesAreSoundForAllSmallCases) {
  for (int64_t blocks = 1; blocks <= 12; ++blocks) {
    for (int64_t widest = 1; widest <= 6; ++widest) {
      for (int64_t size = 1; size <= 5; ++size) {
        SCOPED_TRACE(concat("K ", blocks, " widest ", widest, " n ", size));
        const auto schedule = widening_windows(blocks, widest, size);
        expect_sound(schedule, blocks);
        EXPECT_EQ(parse_schedule(to_string(schedule), blocks), schedule);
        if (blocks < size) continue;
        EXPECT_EQ(schedule.front().window.count, 1);
        EXPECT_EQ(schedule.back().window.count, 1);
        for (const ScheduledWindow& s : schedule) {
          EXPECT_LE(s.window.count, std::max(widest, size));
        }
      }
    }
  }
}

// The published program's list for 32 blocks: fill_window_size 4, num_layer 2, sliding_layer 1.
TEST(Window, WideningSchedulesByHand) {
  EXPECT_EQ(to_string(widening_windows(32, 4, 2)),
            "0,0-1,0-2,0-3,3-4,4-5,5-6,6-7,7-8,8-9,9-10,10-11,11-12,12-13,13-14,14-15,15-16,16-17,"
            "17-18,18-19,19-20,20-21,21-22,22-23,23-24,24-25,25-26,26-27,27-28,28-31,29-31,30-31,"
            "31");
  EXPECT_EQ(to_string(widening_windows(10, 4, 2)), "0,0-1,0-2,0-3,3-4,4-5,5-6,6-9,7-9,8-9,9");
  EXPECT_EQ(to_string(widening_windows(4, 4, 2)), "0,0-1,1-2,2-3,3");
  EXPECT_EQ(to_string(widening_windows(2, 4, 2)), "0,0-1,1");
  EXPECT_EQ(to_string(widening_windows(1, 4, 2)), "0");
  EXPECT_EQ(widest_of_schedule("widening:4"), 4);
  EXPECT_EQ(widest_of_schedule("0-1"), std::nullopt);
  for (const char* wrong : {"widening:", "widening:0", "widening:2x", "widening:-1"}) {
    expect_error<std::invalid_argument>([&] { widest_of_schedule(wrong); }, {wrong, "widening:4"});
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
}  // namespace cbq::test_window
