#include "tools/python/listener.h"

#include <filesystem>
#include <sstream>
#include <system_error>

#include "tensor/error.h"

namespace cbq::python {

template <class F>
void PythonListener::call(F&& f) {
  if (raised_) return;
  const py::gil_scoped_acquire gil;
  try {
    f();
  } catch (...) {
    raised_ = std::current_exception();
  }
}

/// Signals are looked at 50 times a second: a step of a small model takes less than that.
bool PythonListener::interrupted() {
  if (raised_) return true;
  const auto now = std::chrono::steady_clock::now();
  if (now - asked_ < std::chrono::milliseconds(20)) return false;
  asked_ = now;
  call([] {
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  });
  return raised_ != nullptr;
}

void PythonListener::progress(int64_t done, int64_t total, const std::string& what) {
  if (progress_.is_none()) return;
  call([&] { progress_(done, total, what); });
}

void PythonListener::tell(const std::string& line) {
  if (log_.is_none()) return;
  call([&] { log_(line); });
}

void PythonListener::result(const std::string& lines) {
  std::istringstream in(lines);
  for (std::string line; std::getline(in, line);) tell(line);
}

void PythonListener::rethrow(const std::string& text) {
  if (!raised_) return;
  try {
    std::rethrow_exception(raised_);
  } catch (py::error_already_set& error) {
    raised_ = nullptr;
    if (error.matches(PyExc_KeyboardInterrupt) && py::len(error.value().attr("args")) == 0) {
      PyErr_SetString(PyExc_KeyboardInterrupt, text.c_str());
      throw py::error_already_set();
    }
    throw;
  }
}

void bind_errors(py::module_& module) {
  static py::exception<NonFiniteError> non_finite(module, "NonFiniteError", PyExc_RuntimeError);
  non_finite.doc() = "A computation met NaN or infinity.";
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const NonFiniteError& error) {
      PyErr_SetString(non_finite.ptr(), error.what());
    } catch (const MissingFile& error) {
      PyErr_SetString(PyExc_FileNotFoundError, error.what());
    } catch (const std::filesystem::filesystem_error& error) {
      const bool is_missing = error.code() == std::errc::no_such_file_or_directory;
      PyErr_SetString(is_missing ? PyExc_FileNotFoundError : PyExc_OSError, error.what());
    } catch (const Interrupted& error) {
      PyErr_SetString(PyExc_KeyboardInterrupt, error.what());
    }
  });
}

}  // namespace cbq::python
