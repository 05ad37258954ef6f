// Errors: one mechanism per kind of fault (see docs/design.md, "Errors").
//
//   caller's mistake (shape, dtype, name, range)  -> check(...)  throws std::invalid_argument
//   the world's fault (file, memory, driver)      -> fail(...)   throws std::runtime_error
//   our own bug                                   -> assert(...)
//
// A message says what was expected, what came, and how to mend it.
#pragma once

#include <cerrno>
#include <concepts>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace cbq {

namespace detail {
void write_part(std::ostream& out, const std::vector<int64_t>& shape);  // "[2, 3]"

// A message's part is written as it is passed, so that a check that holds converts nothing.
template <class Part>
void write_part(std::ostream& out, const Part& part) {
  if constexpr (std::is_invocable_v<const Part&>) {
    out << part();
  } else if constexpr (requires { name_of(part); }) {
    out << name_of(part);  // Dtype, Device and the other enumerations
  } else if constexpr (requires {
                         { part.string() } -> std::same_as<std::string>;
                       }) {
    out << part.string();  // operator<< of a std::filesystem::path would add quotation marks
  } else {
    out << part;
  }
}
}  // namespace detail

/// Concatenates `parts`: whatever operator<< or name_of() takes, shapes, paths without quotation
/// marks, and callables without arguments, whose result is written.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (detail::write_part(out, parts), ...);
  return out.str();
}

namespace detail {
/// The text with bytes that are not UTF-8, and control characters, as "\\xHH"; where it is longer
/// than 3,000 bytes, the middle is left out. Messages quote files and options, which may hold
/// anything: a terminal must survive them.
std::string readable(const std::string& text);
}  // namespace detail

/// The text of an error: concat(parts...), safe to print.
template <class... Parts>
std::string message_of(const Parts&... parts) {
  return detail::readable(concat(parts...));
}

namespace detail {
// Not inlined: a check in a hot loop is then a comparison and a jump.
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void throw_invalid(const Parts&... parts) {
  throw std::invalid_argument(message_of(parts...));
}
}  // namespace detail

/// Throws std::invalid_argument with the concatenated parts (see concat) when `condition` is false.
/// The message is made only then. What a part is computed from is evaluated before the call, as
/// any argument: pass references and plain values (`t.shape()`, `t.dtype()`, `path`) and not
/// strings made of them; put what costs more into a lambda.
template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]]
    detail::throw_invalid(parts...);
}

/// Throws std::runtime_error with the concatenated parts: a file, memory or driver failed us.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw std::runtime_error(message_of(parts...));
}

/// What is to be read is not there; apart from other errors, because programs that call us tell
/// them apart.
struct MissingFile : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// fail(parts...) of a file; MissingFile where `error`, an errno, says that it is not there.
template <class... Parts>
[[noreturn]] void fail_to_open(int error, const Parts&... parts) {
  if (error == ENOENT || error == ENOTDIR) throw MissingFile(message_of(parts...));
  fail(parts...);
}

/// A computation met NaN or infinity; kept apart from other runtime errors so that a caller can
/// restore its best parameters (cbq::Reconstructor) instead of giving up.
struct NonFiniteError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace cbq
