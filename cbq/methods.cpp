#include "cbq/methods.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <initializer_list>
#include <map>

#include "nn/formats/json.h"
#include "tensor/error.h"

namespace cbq {
namespace {

using nlohmann::json;

constexpr size_t max_bytes = size_t{1} << 20;

void check_keys(const json& object, std::initializer_list<const char*> known,
                const std::string& what) {
  if (!object.is_object()) fail(what, ": expected a JSON object");
  for (const auto& [key, value] : object.items()) {
    std::string list;
    bool found = false;
    for (const char* name : known) {
      found = found || key == name;
      list += (list.empty() ? "" : ", ") + std::string(name);
    }
    if (!found) fail(what, ": unknown key \"", key, "\"; known: ", list);
  }
}

bool is_possible(int bits) {
  return std::count(possible_bits().begin(), possible_bits().end(), bits) > 0;
}

/// 4, "<=3", ">=5", "5-8".
BitRange parse_range(const json& value, const std::string& key, const std::string& what) {
  const auto expect = [&](bool ok) {
    if (ok) return;
    fail(what, ": \"", key, "\": ", value.dump(-1, ' ', true, json::error_handler_t::replace),
         "; expected bits from 1 to 8 or ", float_bits,
         ", or a range of them: 4, \"<=3\", \">=5\", \"5-8\"");
  };
  if (value.is_number_integer()) {
    const bool fits = value >= 1 && value <= float_bits;
    expect(fits && is_possible(value.get<int>()));
    return {value.get<int>(), value.get<int>()};
  }
  expect(value.is_string());
  const std::string text = value.get<std::string>();
  const auto number = [&](size_t begin, size_t end) {
    int bits = 0;
    const auto [rest, error] = std::from_chars(text.data() + begin, text.data() + end, bits);
    expect(error == std::errc() && rest == text.data() + end && is_possible(bits));
    return bits;
  };
  if (text.starts_with("<=")) return {1, number(2, text.size())};
  if (text.starts_with(">=")) return {number(2, text.size()), float_bits};
  const size_t dash = text.find('-');
  expect(dash != std::string::npos);
  const BitRange range = {number(0, dash), number(dash + 1, text.size())};
  expect(range.low <= range.high);
  return range;
}

void read_ranges(const json& object, BitRange& wbits, BitRange& abits, const std::string& what) {
  if (object.contains("wbits")) wbits = parse_range(object["wbits"], "wbits", what);
  if (object.contains("abits")) abits = parse_range(object["abits"], "abits", what);
}

/// "settings" of `object`: names and types; the values are looked at later, all together.
json read_settings(const json& object, const std::string& what) {
  const json& settings = json_at(object, "settings", what);
  if (!settings.is_object()) fail(what, ": \"settings\" must be an object");
  for (const char* name : {"method", "wbits", "abits"}) {
    if (settings.contains(name)) {
      fail(what, ": \"settings\": a method does not set \"", name,
           "\"; bits are the user's choice, and by_bits says what follows from them");
    }
  }
  Settings trial;
  try {
    apply_json(trial, settings);
  } catch (const std::invalid_argument& error) {
    fail(what, ": \"settings\": ", error.what());
  }
  return settings;
}

std::vector<std::string> read_texts(const json& object, const std::string& key,
                                    const std::string& what) {
  std::vector<std::string> texts;
  const json& list = json_find(object, key, what);
  if (list.is_null()) return texts;
  if (!list.is_array()) fail(what, ": \"", key, "\" must be a list of texts");
  for (const json& text : list) texts.push_back(json_string(text, key, what));
  return texts;
}

void check_values(const MethodFile& method, const std::string& what) {
  int tried = 0, failed = 0;
  std::string bits, message;  // of the first failure
  for (const int wbits : possible_bits()) {
    for (const int abits : possible_bits()) {
      if (!method.obstacle(wbits, abits).empty()) continue;
      ++tried;
      try {
        validate_values(method.at(wbits, abits));
      } catch (const std::invalid_argument& error) {
        if (failed++ > 0) continue;
        bits = concat("at W", wbits, "A", abits, ": ");
        message = error.what();
      }
    }
  }
  if (failed == 0) return;
  fail(what, ": ", failed < tried ? bits : "", message);  // bits that have no part in it: unsaid
}

/// Without a look at the values, which the tests have had at the embedded files.
MethodFile read_method(const json& object, const std::string& name, const std::string& what) {
  check_keys(object,
             {"title", "source", "notes", "formerly", "otherwise", "serves", "settings", "by_bits"},
             what);
  MethodFile method;
  method.name = name;
  method.title = json_string(json_at(object, "title", what), "title", what);
  method.source = json_string(json_at(object, "source", what), "source", what);
  method.notes = read_texts(object, "notes", what);
  method.formerly = read_texts(object, "formerly", what);
  if (object.contains("otherwise")) {
    method.otherwise = json_string(object["otherwise"], "otherwise", what);
  }
  if (object.contains("serves")) {
    const std::string where = what + ": \"serves\"";
    check_keys(object["serves"], {"wbits", "abits"}, where);
    read_ranges(object["serves"], method.wbits, method.abits, where);
  }
  method.settings = read_settings(object, what);
  const json& by_bits = json_find(object, "by_bits", what);
  if (!by_bits.is_null() && !by_bits.is_array()) fail(what, ": \"by_bits\" must be a list");
  for (size_t i = 0; i < by_bits.size(); ++i) {
    const std::string where = concat(what, ": \"by_bits\", entry ", i + 1);
    check_keys(by_bits[i], {"wbits", "abits", "settings"}, where);
    MethodFile::ByBits& entry = method.by_bits.emplace_back();
    read_ranges(by_bits[i], entry.wbits, entry.abits, where);
    entry.settings = read_settings(by_bits[i], where);
  }
  return method;
}

/// The embedded files, each read once.
const std::map<std::string, MethodFile>& known_methods() {
  static const std::map<std::string, MethodFile> methods = [] {
    std::map<std::string, MethodFile> all;
    for (const EmbeddedMethod& file : embedded_methods()) {
      const std::string name(file.name), what = concat("cbq/methods/", name, ".json");
      all.emplace(name, read_method(parse_json(file.text, what), name, what));
    }
    return all;
  }();
  return methods;
}

std::string joined_names() {
  std::string list;
  for (const auto& [name, method] : known_methods()) list += (list.empty() ? "" : ", ") + name;
  return list;
}

/// The method that once had this name; nullptr if none had.
const MethodFile* renamed(const std::string& former) {
  for (const auto& [name, method] : known_methods()) {
    if (std::count(method.formerly.begin(), method.formerly.end(), former) > 0) return &method;
  }
  return nullptr;
}

/// A chain of such methods would have to be followed by the reader, too.
void check_otherwise(const MethodFile& method, const std::string& what) {
  if (method.otherwise.empty()) return;
  const auto found = known_methods().find(method.otherwise);
  if (found == known_methods().end()) {
    fail(what, ": \"otherwise\": there is no method '", method.otherwise,
         "'; known: ", joined_names());
  }
  if (!found->second.otherwise.empty()) {
    fail(what, ": \"otherwise\": '", method.otherwise, "' has an \"otherwise\" of its own");
  }
}

std::string in_words(const BitRange& range) {
  if (range.low == range.high) return std::to_string(range.low);
  if (range.high == float_bits) return concat("at least ", range.low);
  return range.low == 1 ? concat("at most ", range.high)
                        : concat("from ", range.low, " to ", range.high);
}

}  // namespace

const std::vector<int>& possible_bits() {
  static const std::vector<int> bits = {1, 2, 3, 4, 5, 6, 7, 8, float_bits};
  return bits;
}

std::string MethodFile::obstacle(int weight_bits, int activation_bits) const {
  if (weight_bits >= float_bits && activation_bits >= float_bits) return "";
  if (!wbits.contains(weight_bits)) {
    return concat("method ", name, " is for wbits ", in_words(wbits), ", not ", weight_bits,
                  "; choose other bits or another method (cbq methods)");
  }
  if (!abits.contains(activation_bits)) {
    return concat("method ", name, " is for abits ", in_words(abits), ", not ", activation_bits,
                  "; choose other bits or another method (cbq methods)");
  }
  return "";
}

Settings MethodFile::at(int weight_bits, int activation_bits) const {
  const std::string reason = obstacle(weight_bits, activation_bits);
  check(reason.empty(), reason);
  Settings s;
  apply_json(s, settings);
  for (const ByBits& entry : by_bits) {
    const bool fits = entry.wbits.contains(weight_bits) && entry.abits.contains(activation_bits);
    if (fits) apply_json(s, entry.settings);
  }
  s.method = name;
  s.wbits = weight_bits;
  s.abits = activation_bits;
  return s;
}

MethodFile parse_method(const json& object, const std::string& name, const std::string& what) {
  MethodFile method = read_method(object, name, what);
  check_otherwise(method, what);
  check_values(method, what);
  return method;
}

std::vector<std::string> method_names() {
  std::vector<std::string> names;
  for (const auto& [name, method] : known_methods()) names.push_back(name);
  return names;
}

MethodFile find_method(const std::string& name) {
  if (name.ends_with(".json")) {
    check(std::filesystem::exists(name), "method: there is no file ", name,
          "; cbq methods lists the methods that need none");
    return parse_method(read_json_file(name, max_bytes), name, name);
  }
  if (const auto known = known_methods().find(name); known != known_methods().end()) {
    return known->second;
  }
  if (const MethodFile* now = renamed(name)) {
    throw std::invalid_argument(message_of("method '", name, "' is called '", now->name, "' now"));
  }
  throw std::invalid_argument(
      message_of("unknown method '", name, "'; known: ", joined_names(), "; or a file, PATH.json"));
}

Settings method_settings(const std::string& name, int wbits, int abits) {
  return find_method(name).at(wbits, abits);
}

std::string new_name_of_method(const json& former) {
  const MethodFile* now = former.is_string() ? renamed(former.get<std::string>()) : nullptr;
  return now ? concat(", and '", former.get<std::string>(), "' is '", now->name, "'") : "";
}

void refuse_profile_option(const std::string& value) {
  const MethodFile* now = renamed(value);
  throw std::invalid_argument(message_of("--profile ", value, ": the option is --method now",
                                         now ? concat("; write --method ", now->name) : ""));
}

}  // namespace cbq
