// How far a long run is: one bar with the remaining time on a terminal, plain lines elsewhere.
#pragma once

#include <cstdint>
#include <functional>
#include <ostream>
#include <string>

namespace cbq {

/// Whether standard error is a terminal, where progress belongs: results go to standard output.
bool stderr_is_terminal();

/// "0:07", "12:34", "3:02:10", "2 d 3 h"; "?" for a negative or infinite number of seconds.
std::string duration_text(double seconds);

class Progress {
 public:
  using Clock = std::function<double()>;  // seconds from any origin

  /// On a terminal (`tty`) the bar is drawn at most ten times a second; elsewhere a line appears at
  /// most every 10 s and every tenth of the way, so that a log stays readable. `clock` is for
  /// tests; by default it is the steady clock.
  Progress(std::ostream& out, bool tty, Clock clock = {});
  /// Ends the bar's line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` of `total` steps. The remaining time is that of the steps to come at the mean speed
  /// since the first update, so steps that a resumed run found finished do not count as fast ones.
  /// Another total, or fewer steps than before, begins a new bar.
  void update(int64_t done, int64_t total, const std::string& what);
  /// A line of text; the bar stays below it.
  void line(const std::string& text);
  /// Leaves the terminal to other output for a while; the clock goes on.
  void pause();
  /// Draws the last state and ends the bar's line. A later update begins a new bar.
  void finish();

 private:
  std::string state_text() const;
  void print_bar();
  void print_plain();

  std::ostream& out_;
  bool tty_;
  Clock clock_;
  bool running_ = false;    // an update has come since the start or the last finish()
  bool bar_shown_ = false;  // the cursor is on the bar's line
  int64_t first_done_ = 0, done_ = 0, total_ = 0;
  int64_t printed_done_ = -1, printed_tenth_ = -1;
  double begin_ = 0.0, printed_at_ = 0.0;
  std::string what_;
};

}  // namespace cbq
