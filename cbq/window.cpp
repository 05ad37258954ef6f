#include "cbq/window.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "tensor/error.h"

namespace cbq {

std::vector<ScheduledWindow> sliding_windows(int64_t blocks, int64_t size, int64_t overlap) {
  check(blocks >= 1, "sliding_windows: a model of ", blocks, " blocks has nothing to reconstruct");
  check(size >= 1, "window: ", size, " blocks; a window holds at least one");
  check(overlap >= 0 && overlap < size, "overlap: ", overlap, " with window ", size,
        "; the overlap must be at least 0 and smaller than the window");
  std::vector<ScheduledWindow> schedule;
  for (int64_t first = 0;; first += size - overlap) {
    if (first + size >= blocks) {
      schedule.push_back({{first, blocks - first}, blocks - first});
      return schedule;
    }
    schedule.push_back({{first, size}, size - overlap});
  }
}

namespace {

/// One window of the text and where it stands.
struct Entry {
  Window window;
  size_t position;
  std::string text;
};

int64_t parse_block(const std::string& text, size_t begin, size_t end, int64_t blocks) {
  while (begin < end && text[begin] == ' ') ++begin;
  while (end > begin && text[end - 1] == ' ') --end;
  int64_t block = -1;
  const auto [rest, error] = std::from_chars(text.data() + begin, text.data() + end, block);
  check(error == std::errc() && rest == text.data() + end && begin < end,
        "schedule: expected a block number at position ", begin, " of '", text,
        "'; windows look like 0-1 or 3, separated by commas");
  check(block >= 0 && block < blocks, "schedule: block ", block, " at position ", begin, " of '",
        text, "'; the model has blocks 0 to ", blocks - 1);
  return block;
}

std::vector<Entry> parse_entries(const std::string& text, int64_t blocks) {
  std::vector<Entry> entries;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const size_t dash = std::min(text.find('-', begin), end);
    const int64_t first = parse_block(text, begin, dash, blocks);
    const int64_t last = dash < end ? parse_block(text, dash + 1, end, blocks) : first;
    check(first <= last, "schedule: window ", first, "-", last, " at position ", begin, " of '",
          text, "' runs backwards");
    entries.push_back({{first, last - first + 1}, begin, text.substr(begin, end - begin)});
    begin = end + 1;
  }
  return entries;
}

}  // namespace

int64_t blocks_of_schedule(const std::string& text) {
  int64_t blocks = 0;
  for (const Entry& entry : parse_entries(text, std::numeric_limits<int64_t>::max())) {
    blocks = std::max(blocks, entry.window.last() + 1);
  }
  return blocks;
}

std::vector<ScheduledWindow> parse_schedule(const std::string& text, int64_t blocks) {
  const std::vector<Entry> entries = parse_entries(text, blocks);
  std::vector<size_t> last_window(static_cast<size_t>(blocks), entries.size());  // none
  for (size_t i = 0; i < entries.size(); ++i) {
    const Window& w = entries[i].window;
    for (int64_t b = w.first; b <= w.last(); ++b) last_window[static_cast<size_t>(b)] = i;
  }
  for (int64_t b = 0; b < blocks; ++b) {
    check(last_window[static_cast<size_t>(b)] < entries.size(), "schedule: no window of '", text,
          "' contains block ", b);
  }
  std::vector<ScheduledWindow> schedule;
  int64_t unfinished = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const Window& w = entries[i].window;
    check(
        w.first == unfinished, "schedule: window ", entries[i].text, " at position ",
        entries[i].position, " of '", text, "' starts at block ", w.first,
        [&] {
          return unfinished < blocks
                     ? concat(", but block ", unfinished, " is the first unfinished one")
                     : ", but all blocks are finished";
        },
        "; a window starts where the finished blocks end (a window finishes the leading blocks ",
        "that no later window contains)");
    while (unfinished <= w.last() && last_window[static_cast<size_t>(unfinished)] <= i)
      ++unfinished;
    schedule.push_back({w, unfinished - w.first});
  }
  check(unfinished == blocks, "schedule: after the last window of '", text, "' block ", unfinished,
        " is still unfinished: the last window that contains it must start at it or finish all ",
        "blocks before it");
  return schedule;
}

std::vector<ScheduledWindow> widening_windows(int64_t blocks, int64_t widest, int64_t size) {
  check(widest >= 1, "widening: up to ", widest, " blocks; a window holds at least one");
  if (blocks < size || size < 1) return sliding_windows(blocks, size, 0);
  // Between both ends lie blocks - 2 (widest - 1): the last of the first end, the first of the last
  // end and all between.
  widest = std::min(widest, (blocks - size) / 2 + 1);
  std::vector<Window> windows;
  for (int64_t count = 1; count <= widest; ++count) windows.push_back({0, count});
  for (int64_t first = widest - 1; first + size <= blocks - widest + 1; ++first) {
    windows.push_back({first, size});
  }
  for (int64_t count = widest; count >= 1; --count) windows.push_back({blocks - count, count});
  std::string text;
  for (const Window& w : windows) {
    text += concat(text.empty() ? "" : ",", w.first, "-", w.last());
  }
  return parse_schedule(text, blocks);
}

std::optional<int64_t> widest_of_schedule(const std::string& text) {
  const std::string word = "widening:";
  if (!text.starts_with(word)) return std::nullopt;
  int64_t widest = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + word.size(), end, widest);
  check(error == std::errc() && rest == end && widest >= 1, "schedule: '", text,
        "'; expected the blocks of the widest window behind the colon, as in widening:4");
  return widest;
}

std::string to_string(const std::vector<ScheduledWindow>& schedule) {
  std::string text;
  for (const ScheduledWindow& s : schedule) {
    if (!text.empty()) text += ',';
    text += std::to_string(s.window.first);
    if (s.window.count > 1) text += '-' + std::to_string(s.window.last());
  }
  return text;
}

}  // namespace cbq
