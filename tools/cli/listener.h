// Whom a command tells what it does, and who may stop it: a terminal, or a program that called it.
#pragma once

#include <cstdint>
#include <iostream>
#include <string>

#include "cbq/watch.h"
#include "experiments/progress.h"
#include "tensor/runtime/program.h"

namespace cbq::cli {

class Listener {
 public:
  virtual ~Listener() = default;
  /// True: stop, please. Asked often.
  virtual bool interrupted() = 0;
  virtual void progress(int64_t done, int64_t total, const std::string& what) = 0;
  /// What was counted so far has ended, or makes room for other output.
  virtual void finish() = 0;
  /// A line of the log.
  virtual void line(const std::string& text) = 0;
  /// Lines with results, each with its line end.
  virtual void result(const std::string& lines) = 0;

  /// This listener for loops; it must outlive the watch.
  Watch watch() {
    return {[this] { return interrupted(); },
            [this](int64_t done, int64_t total, const std::string& what) {
              progress(done, total, what);
            }};
  }
};

/// The terminal of a program: progress and log on standard error, results on standard output,
/// Ctrl-C (where catch_interrupts() was called) stops.
class Terminal final : public Listener {
 public:
  bool interrupted() override { return cbq::interrupted(); }
  void progress(int64_t done, int64_t total, const std::string& what) override {
    progress_.update(done, total, what);
  }
  void finish() override { progress_.finish(); }
  void line(const std::string& text) override { progress_.line(text); }
  void result(const std::string& lines) override { std::cout << lines << std::flush; }

 private:
  Progress progress_{std::cerr, stderr_is_terminal()};
};

}  // namespace cbq::cli
