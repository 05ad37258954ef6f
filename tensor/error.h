// Errors: one mechanism per kind of fault (see docs/design.md, "Errors").
//
//   caller's mistake (shape, dtype, name, range)  -> check(...)  throws std::invalid_argument
//   the world's fault (file, memory, driver)      -> fail(...)   throws std::runtime_error
//   our own bug                                   -> assert(...)
//
// A message says what was expected, what came, and how to mend it.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace cbq {

/// Concatenates `parts` with operator<<.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Throws std::invalid_argument with the concatenated parts when `condition` is false.
template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) throw std::invalid_argument(concat(parts...));
}

/// Throws std::runtime_error with the concatenated parts: a file, memory or driver failed us.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw std::runtime_error(concat(parts...));
}

/// A computation met NaN or infinity; kept apart from other runtime errors so that a caller can
/// restore its best parameters (cbq::Reconstructor) instead of giving up.
struct NonFiniteError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace cbq
