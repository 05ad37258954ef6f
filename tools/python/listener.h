// How C++ code that runs for long meets Python: progress, Ctrl-C, the lock of the interpreter.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <exception>
#include <string>

#include "tools/cli/listener.h"

namespace cbq::python {

namespace py = pybind11;

/// Hears a command that runs without the interpreter's lock, and takes the lock for callbacks. An
/// exception of a callback, or of a signal's handler (KeyboardInterrupt), makes interrupted() true;
/// rethrow() throws it when the command has come back.
class PythonListener final : public cli::Listener {
 public:
  /// `progress(done, total, what)` and `log(line)`; both may be None.
  PythonListener(py::object progress, py::object log)
      : progress_(std::move(progress)), log_(std::move(log)) {}

  bool interrupted() override;
  void progress(int64_t done, int64_t total, const std::string& what) override;
  void finish() override {}
  void line(const std::string& text) override { tell(text); }
  void result(const std::string& lines) override;

  /// Throws what a callback or signal has raised, if anything has; `text` becomes the message of a
  /// KeyboardInterrupt. With the interpreter's lock.
  void rethrow(const std::string& text);

 private:
  void tell(const std::string& line);
  template <class F>
  void call(F&& f);

  py::object progress_, log_;
  std::exception_ptr raised_;
  std::chrono::steady_clock::time_point asked_{};
};

/// f() without the interpreter's lock; an Interrupted becomes what has raised it. With the lock
/// again on return. What the last callback has raised is thrown as well: nothing has asked for it.
template <class F>
auto run_unlocked(PythonListener& listener, F&& f) {
  std::string text;
  try {
    const auto unlocked = [&] {
      const py::gil_scoped_release release;
      return f();
    };
    if constexpr (std::is_void_v<decltype(f())>) {
      unlocked();
      listener.rethrow("interrupted at the end");
      return;
    } else {
      auto result = unlocked();
      listener.rethrow("interrupted at the end");
      return result;
    }
  } catch (const Interrupted& stop) {
    text = stop.what();
  }
  listener.rethrow(text);
  throw Interrupted(text);
}

/// Which Python exception each C++ one becomes, beyond what pybind11 knows.
void bind_errors(py::module_& module);

}  // namespace cbq::python
