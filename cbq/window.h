// Windows: which blocks are reconstructed together, and in which order.
#pragma once

#include <cstdint>
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

/// "0-1,1-2,...": what parse_schedule reads.
std::string to_string(const std::vector<ScheduledWindow>& schedule);

}  // namespace cbq
