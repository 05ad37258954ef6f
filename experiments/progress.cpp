#include "experiments/progress.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <utility>

#include "tensor/error.h"

namespace cbq {
namespace {

constexpr int bar_width = 24;
constexpr double redraw_seconds = 0.1, plain_seconds = 10.0;

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

bool stderr_is_terminal() { return ::isatty(STDERR_FILENO) == 1; }

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0.0 || seconds > 1e9) return "?";
  const auto s = static_cast<long long>(std::llround(seconds));
  char text[48];
  if (s >= 48 * 3600) {
    std::snprintf(text, sizeof text, "%lld d %lld h", s / 86400, s / 3600 % 24);
  } else if (s >= 3600) {
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
  } else {
    std::snprintf(text, sizeof text, "%lld:%02lld", s / 60, s % 60);
  }
  return text;
}

Progress::Progress(std::ostream& out, bool tty, Clock clock)
    : out_(out), tty_(tty), clock_(clock ? std::move(clock) : Clock(steady_seconds)) {}

Progress::~Progress() {
  if (bar_shown_) out_ << std::endl;
}

void Progress::update(int64_t done, int64_t total, const std::string& what) {
  if (running_ && (total != total_ || done < done_)) finish();
  const bool is_new = !running_;
  if (is_new) {
    running_ = true;
    first_done_ = done;
    begin_ = clock_();
    printed_done_ = printed_tenth_ = -1;
    // A plain log needs no line before something has been done.
    printed_at_ = begin_;
    printed_tenth_ = total > 0 ? done * 10 / total : 0;
  }
  done_ = done;
  total_ = total;
  what_ = what;
  const double since = clock_() - printed_at_;
  if (tty_) {
    if (is_new || done == total || since >= redraw_seconds) print_bar();
  } else {
    const int64_t tenth = total > 0 ? done * 10 / total : 0;
    if (done == total || (tenth != printed_tenth_ && since >= 1.0) || since >= plain_seconds) {
      print_plain();
    }
  }
}

void Progress::line(const std::string& text) {
  if (bar_shown_) out_ << "\r\x1b[K";
  out_ << message_of(text) << std::endl;  // it may quote a file, which may hold anything
  if (bar_shown_) print_bar();
}

void Progress::finish() {
  if (running_ && printed_done_ != done_) tty_ ? print_bar() : print_plain();
  if (bar_shown_) out_ << std::endl;
  bar_shown_ = running_ = false;
}

void Progress::pause() {
  if (bar_shown_) out_ << std::endl;
  bar_shown_ = false;
}

std::string Progress::state_text() const {
  const double elapsed = clock_() - begin_;
  const int64_t here = done_ - first_done_;
  std::string text = std::to_string(done_) + "/" + std::to_string(total_);
  if (done_ == total_) {
    text += ", " + duration_text(elapsed);
  } else if (here > 0) {
    const double left = elapsed / static_cast<double>(here) * static_cast<double>(total_ - done_);
    text += ", " + duration_text(left) + " left";
  }
  return what_.empty() ? text : text + ", " + what_;
}

void Progress::print_bar() {
  const int full =
      total_ > 0 ? static_cast<int>(std::clamp<int64_t>(done_ * bar_width / total_, 0, bar_width))
                 : 0;
  out_ << "\r\x1b[K[" << std::string(static_cast<size_t>(full), '=')
       << std::string(static_cast<size_t>(bar_width - full), ' ') << "] " << state_text()
       << std::flush;
  bar_shown_ = true;
  printed_done_ = done_;
  printed_at_ = clock_();
}

void Progress::print_plain() {
  if (printed_done_ == done_) return;
  out_ << state_text() << std::endl;
  printed_done_ = done_;
  printed_tenth_ = total_ > 0 ? done_ * 10 / total_ : 0;
  printed_at_ = clock_();
}

}  // namespace cbq
