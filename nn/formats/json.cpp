#include "nn/formats/json.h"

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "nn/formats/unicode.h"
#include "tensor/error.h"
#include "tensor/runtime/notice.h"

namespace cbq {
namespace {

using nlohmann::json;

// The library prefixes its messages with "[json.exception.parse_error.101] ".
std::string without_tag(const std::string& message) {
  const size_t end = message.find("] ");
  return end == std::string::npos ? message : message.substr(end + 2);
}

/// A number that Python's json reads and JSON has no word for.
struct PythonLiteral {
  size_t string;  // how many strings, keys included, stand before it in the text
  double value;
};

// JSON has no word for NaN and infinity, and the library's lexer knows none. A literal outside of
// strings becomes a string of the same length, so that positions in errors stay right: NaN -> "N".
// Returns where these strings are.
std::vector<PythonLiteral> replace_python_literals(std::string& text) {
  struct Word {
    std::string_view name;
    double value;
  };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  static constexpr Word words[] = {{"NaN", std::numeric_limits<double>::quiet_NaN()},
                                   {"Infinity", infinity},
                                   {"-Infinity", -infinity}};
  std::vector<PythonLiteral> found;
  size_t strings = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') {
      for (++i; i < text.size() && text[i] != '"'; ++i) {
        if (text[i] == '\\') ++i;
      }
      ++strings;
      continue;
    }
    for (const Word& word : words) {
      if (text.compare(i, word.name.size(), word.name) != 0) continue;
      text[i] = '"';
      i += word.name.size() - 1;
      text[i] = '"';
      found.push_back({strings++, word.value});
      break;
    }
  }
  return found;
}

// Builds the tree from the parser's events. (The library's own way to watch a tree while it grows,
// its callback, looks through a whole container for every element that ends.)
class TreeBuilder : public nlohmann::json_sax<json> {
 public:
  /// `literals` names the strings, counted from 0 and keys included, that stand for a number of
  /// Python's (see python_literals).
  TreeBuilder(const std::string& what, JsonDialect dialect,
              const std::vector<PythonLiteral>& literals)
      : what_(what), dialect_(dialect), literals_(literals) {}

  json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override {
    if (const PythonLiteral* literal = next_literal()) return add(literal->value);
    return add(std::move(value));
  }
  bool binary(binary_t&) override { return false; }  // not in texts

  bool start_object(size_t) override { return open(json::object()); }
  bool start_array(size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& key) override {
    if (const PythonLiteral* literal = next_literal()) {
      fail(what_, ": not valid JSON: the number ", literal->value, " stands where a key must");
    }
    Level& level = open_.back();
    const auto [at, is_new] = level.container->get_ref<json::object_t&>().emplace(key, nullptr);
    if (!is_new && dialect_ == JsonDialect::strict) fail(what_, ": duplicate key \"", key, "\"");
    level.place = &at->second;
    level.key = key;
    level.earlier = is_new ? std::nullopt : std::optional<json>(std::move(at->second));
    return true;
  }

  bool parse_error(size_t, const std::string&, const json::exception& error) override {
    fail(what_, ": not valid JSON: ", without_tag(error.what()));
  }

 private:
  /// A container that has not ended.
  struct Level {
    json* container;
    json* place = nullptr;  // of the value behind the key just read
    std::string key;
    std::optional<json> earlier;  // the value that this key had before
  };

  const PythonLiteral* next_literal() {
    const size_t number = strings_++;
    if (literal_ == literals_.size() || literals_[literal_].string != number) return nullptr;
    return &literals_[literal_++];
  }

  /// Puts a value where the text has it.
  json* put(json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Level& level = open_.back();
    if (level.container->is_array()) {
      auto& list = level.container->get_ref<json::array_t&>();
      list.push_back(std::move(value));
      return &list.back();
    }
    *level.place = std::move(value);
    return level.place;
  }

  bool add(json value) {
    put(std::move(value));
    compare_with_earlier();
    return true;
  }

  bool open(json container) {
    if (static_cast<int>(open_.size()) >= max_json_depth) {
      fail(what_, ": nested deeper than ", max_json_depth, " levels");
    }
    open_.push_back({put(std::move(container))});
    return true;
  }

  bool close() {
    open_.pop_back();
    compare_with_earlier();
    return true;
  }

  /// After a value of an object is complete.
  void compare_with_earlier() {
    if (open_.empty() || !open_.back().earlier) return;
    Level& level = open_.back();
    if (*level.earlier != *level.place) {
      notice_once(concat("warning: ", what_, ": the key \"", level.key,
                         "\" is there twice with different values; the last one counts"));
    }
    level.earlier.reset();
  }

  const std::string& what_;
  JsonDialect dialect_;
  const std::vector<PythonLiteral>& literals_;
  size_t literal_ = 0;  // the next of them
  size_t strings_ = 0;  // read so far
  json root_;
  std::vector<Level> open_;
};

[[noreturn]] void wrong_type(const nlohmann::json& value, const std::string& key,
                             const std::string& what, const std::string& expected) {
  const std::string came = value.is_primitive()
                               ? value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)
                               : std::string(value.type_name());
  fail(what, ": \"", key, "\" must be ", expected, ", is ", came.substr(0, 100));
}

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& what, JsonDialect dialect) {
  if (!is_utf8(text)) fail(what, ": not UTF-8 text");
  // The library's lexer takes a zero byte for the end of the text and ignores what follows.
  if (text.find('\0') != std::string_view::npos) fail(what, ": contains a zero byte");
  std::string replaced;
  std::vector<PythonLiteral> literals;
  if (dialect == JsonDialect::python && (text.find("NaN") != std::string_view::npos ||
                                         text.find("Infinity") != std::string_view::npos)) {
    replaced = text;
    literals = replace_python_literals(replaced);
    text = replaced;
  }
  TreeBuilder builder(what, dialect, literals);
  json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

nlohmann::json read_json_file(const std::filesystem::path& path, size_t max_bytes,
                              JsonDialect dialect) {
  return parse_json(read_text_file(path, max_bytes), path.string(), dialect);
}

const nlohmann::json& json_find(const nlohmann::json& object, const std::string& key,
                                const std::string& what) {
  static const nlohmann::json null;
  if (!object.is_object()) {
    fail(what, ": expected an object with \"", key, "\", found ", object.type_name());
  }
  const auto at = object.find(key);
  return at == object.end() ? null : *at;
}

const nlohmann::json& json_at(const nlohmann::json& object, const std::string& key,
                              const std::string& what) {
  const nlohmann::json& value = json_find(object, key, what);
  if (!object.contains(key)) fail(what, ": \"", key, "\" is missing");
  return value;
}

int64_t json_int(const nlohmann::json& value, const std::string& key, const std::string& what,
                 int64_t low, int64_t high) {
  if (!value.is_number_integer()) wrong_type(value, key, what, "an integer");
  const bool beyond = value.is_number_unsigned() &&
                      value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()};
  if (beyond || value.get<int64_t>() < low || value.get<int64_t>() > high) {
    wrong_type(value, key, what, concat("an integer within [", low, ", ", high, "]"));
  }
  return value.get<int64_t>();
}

double json_double(const nlohmann::json& value, const std::string& key, const std::string& what) {
  if (!value.is_number()) wrong_type(value, key, what, "a number");
  const double number = value.get<double>();
  if (!std::isfinite(number)) wrong_type(value, key, what, "a finite number");
  return number;
}

bool json_bool(const nlohmann::json& value, const std::string& key, const std::string& what) {
  if (!value.is_boolean()) wrong_type(value, key, what, "true or false");
  return value.get<bool>();
}

std::string json_string(const nlohmann::json& value, const std::string& key,
                        const std::string& what) {
  if (!value.is_string()) wrong_type(value, key, what, "a string");
  return value.get<std::string>();
}

}  // namespace cbq
