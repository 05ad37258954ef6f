// JSON from outside, read with suspicion.
//
// By itself nlohmann-json accepts duplicate keys silently (the last one wins), builds trees so deep
// that copying them overflows the stack, wraps negative numbers into unsigned ones and truncates
// 3.5 to 3. The functions here refuse all of that and say where. They take time proportional to the
// length of the text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "nn/formats/atomic_file.h"

namespace cbq {

/// What a text may contain.
enum class JsonDialect {
  /// JSON (RFC 8259). A duplicate key is an error.
  strict,
  /// What Python's json.loads reads, and so what transformers takes for a config.json: also the
  /// numbers NaN, Infinity and -Infinity; of duplicate keys the last one counts. A notice names a
  /// duplicate key whose values differ.
  python,
};

/// The deepest nesting of objects and lists that is read.
inline constexpr int max_json_depth = 64;

/// Parses `text`. `what` names its origin (a path) in every error.
/// Throws std::runtime_error with line and column for malformed text; also for text that is not
/// UTF-8, a duplicate key (strict), and nesting deeper than max_json_depth.
nlohmann::json parse_json(std::string_view text, const std::string& what,
                          JsonDialect dialect = JsonDialect::strict);

/// parse_json of a file of at most `max_bytes`.
nlohmann::json read_json_file(const std::filesystem::path& path,
                              size_t max_bytes = size_t{256} << 20,
                              JsonDialect dialect = JsonDialect::strict);

// Checked access. `what` names the file; every error names the key, what was expected, what came.

/// `object[key]`; null when it is absent. Throws std::runtime_error if `object` is not an object.
const nlohmann::json& json_find(const nlohmann::json& object, const std::string& key,
                                const std::string& what);
/// As json_find, and throws when the key is absent.
const nlohmann::json& json_at(const nlohmann::json& object, const std::string& key,
                              const std::string& what);
/// An integer within [low, high]; a number with a fraction or an exponent is refused.
int64_t json_int(const nlohmann::json& value, const std::string& key, const std::string& what,
                 int64_t low = std::numeric_limits<int64_t>::min(),
                 int64_t high = std::numeric_limits<int64_t>::max());
/// A finite number.
double json_double(const nlohmann::json& value, const std::string& key, const std::string& what);
bool json_bool(const nlohmann::json& value, const std::string& key, const std::string& what);
std::string json_string(const nlohmann::json& value, const std::string& key,
                        const std::string& what);

}  // namespace cbq
