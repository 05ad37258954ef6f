// Windows: which blocks are reconstructed together, and in which order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace cbq {

struct Window {
  int64_t first = 0;
  int64_t count = 1;
  int64_t last() const { return first + count - 1; }
  bool operator==(const Window&) const = default;
};

/// A window and how many of its leading blocks are finished (hardened, never touched again) after
/// it. Windows come in an order in which each starts at the first unfinished block.
struct ScheduledWindow {
  Window window;
  int64_t finishes = 0;  // blocks [window.first, window.first + finishes)
  bool operator==(const ScheduledWindow&) const = default;
};

/// Windows of `size` consecutive blocks that share `overlap` blocks with the next one (stride
/// size - overlap). The last window is shortened where it must be (8 blocks, size 4, overlap 1:
/// 0-3, 3-6, 6-7) and finishes all its blocks; any other finishes its first size - overlap.
/// size >= blocks gives one window.
/// Throws std::invalid_argument unless 1 <= blocks, 1 <= size and 0 <= overlap < size.
std::vector<ScheduledWindow> sliding_windows(int64_t blocks, int64_t size, int64_t overlap);

/// An explicit schedule "0,0-1,0-2,1-2": first-last block (or one block) per window, in order. A
/// window finishes the leading blocks that no later window contains. Throws std::invalid_argument,
/// with the position in the text, unless windows are ranges within the model, each starts at the
/// first unfinished block (its input is the quantized stream up to there), and after the last one
/// every block is finished.
std::vector<ScheduledWindow> parse_schedule(const std::string& text, int64_t blocks);

/// How many blocks such a schedule names: its largest number plus one. Throws as above for a text
/// that is no list of windows.
int64_t blocks_of_schedule(const std::string& text);

/// Windows that widen at the first blocks and narrow at the last, which are the most sensitive
/// (SliderQuant, 2026, section 3): 0, 0-1, ... up to `widest` blocks, then windows of `size`
/// blocks, one block apart, then `widest` blocks at the end, one less each time:
///   10 blocks, widest 4, size 2:  0,0-1,0-2,0-3,3-4,4-5,5-6,6-9,7-9,8-9,9
/// A model with too few blocks for both ends gets the widest windows that leave room for one of
/// `size`; one with less than that gets sliding_windows.
/// Throws std::invalid_argument unless 1 <= blocks, 1 <= size and 1 <= widest.
std::vector<ScheduledWindow> widening_windows(int64_t blocks, int64_t widest, int64_t size);
/// 4 of "widening:4"; nothing for any other schedule. Throws std::invalid_argument where no number
/// from 1 follows.
std::optional<int64_t> widest_of_schedule(const std::string& text);

/// "0-1,1-2,...": what parse_schedule reads.
std::string to_string(const std::vector<ScheduledWindow>& schedule);

}  // namespace cbq
