// Published methods as data. A file in cbq/methods/ is a method: which part it takes for each slot,
// its rates, by bits where they differ. Files are compiled into the programs (cmake/Methods.cmake);
// a file of one's own is given by its path (docs/add-a-method.md).
//
//   {"title": ..., "source": ..., "notes": [...],
//    "serves": {"wbits": ">=2", "abits": 16},
//    "otherwise": "cbq_windows",
//    "settings": {setting: value, ...},
//    "by_bits": [{"wbits": "<=3", "abits": "5-8", "settings": {...}}, ...]}
//
// "title", "source" and "settings" must be there. Settings are those of cbq/settings.h; what a file
// does not name has the default. Entries of "by_bits" are applied in order where both ranges hold
// the bits, so that a later one wins. A range is a number, "<=3", ">=5" or "5-8". "otherwise" names
// the method that runs where the model or the machine cannot take this one (cbq/method_fit.h).
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cbq/settings.h"

namespace cbq {

/// Bits from `low` to `high`; float_bits is a number of bits as well.
struct BitRange {
  int low = 1, high = float_bits;
  bool contains(int bits) const { return low <= bits && bits <= high; }
};

struct MethodFile {
  struct ByBits {
    BitRange wbits, abits;
    nlohmann::json settings;
  };

  std::string name;  // "cbq", or the path of a user's file
  std::string title, source;
  std::vector<std::string> notes;     // where it deviates from its source
  std::vector<std::string> formerly;  // names that are refused with a hint at this one
  std::string otherwise;              // the method in its place where it cannot run; "": none
  BitRange wbits, abits;              // that the method serves
  nlohmann::json settings = nlohmann::json::object();
  std::vector<ByBits> by_bits;

  /// Why the method does not serve these bits, and what to do; "" if it does. Without any
  /// quantization (W16A16) every method serves.
  std::string obstacle(int wbits, int abits) const;
  /// The settings at these bits, with `method` set to `name`. Throws std::invalid_argument where
  /// there is an obstacle.
  Settings at(int wbits, int abits) const;
};

/// Bits that weights and activations can have: 1 to 8, and float_bits.
const std::vector<int>& possible_bits();

/// Reads the format above. `what` names the file in every error. Throws std::runtime_error, naming
/// the file and the key, for unknown or missing keys, wrong types, settings that do not exist, and
/// values that validate_values() refuses at any bits that the method serves.
MethodFile parse_method(const nlohmann::json& json, const std::string& name,
                        const std::string& what);

/// Names of the methods that are part of the program, sorted.
std::vector<std::string> method_names();

/// The method of this name, or of the file where `name` ends in ".json". Throws
/// std::invalid_argument for an unknown name (with the known ones), std::runtime_error for a file
/// that cannot be read.
MethodFile find_method(const std::string& name);

/// find_method(name).at(wbits, abits).
Settings method_settings(const std::string& name, int wbits, int abits);

/// Of a value that a settings file gave to 'profile', the former word for 'method': ", and
/// "tuned" is "cbq"", or "" for a name that never was one.
std::string new_name_of_method(const nlohmann::json& former);
/// Throws std::invalid_argument: "--profile tuned: the option is --method now, as in --method cbq".
[[noreturn]] void refuse_profile_option(const std::string& value);

/// A file of cbq/methods/ as the build found it.
struct EmbeddedMethod {
  std::string_view name, text;
};
/// Sorted by name. The build writes this function (cmake/WriteMethods.cmake).
std::span<const EmbeddedMethod> embedded_methods();

}  // namespace cbq
