#include "nn/json.h"

#include <cmath>
#include <unordered_set>
#include <vector>

#include "tensor/error.h"

namespace cbq {
namespace {

// The parser's callback: sees every bracket and key while the tree grows.
class Inspector {
 public:
  Inspector(const std::string& what, int max_depth) : what_(what), max_depth_(max_depth) {}

  bool operator()(int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      // `depth` counts the brackets that are open already.
      if (depth >= max_depth_) fail(what_, ": nested deeper than ", max_depth_, " levels");
      if (event == Event::object_start) keys_.emplace_back();
    } else if (event == Event::object_end) {
      keys_.pop_back();
    } else if (event == Event::key) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) fail(what_, ": duplicate key \"", key, "\"");
    }
    return true;
  }

 private:
  const std::string& what_;
  int max_depth_;
  std::vector<std::unordered_set<std::string>> keys_;  // of every open object
};

// The library prefixes its messages with "[json.exception.parse_error.101] ".
std::string without_tag(const std::string& message) {
  const size_t end = message.find("] ");
  return end == std::string::npos ? message : message.substr(end + 2);
}

[[noreturn]] void wrong_type(const nlohmann::json& value, const std::string& key,
                             const std::string& what, const std::string& expected) {
  const std::string came = value.is_primitive()
                               ? value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)
                               : std::string(value.type_name());
  fail(what, ": \"", key, "\" must be ", expected, ", is ", came.substr(0, 100));
}

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& what, int max_depth) {
  if (!is_utf8(text)) fail(what, ": not UTF-8 text");
  // The library's lexer takes a zero byte for the end of the text and ignores what follows.
  if (text.find('\0') != std::string_view::npos) fail(what, ": contains a zero byte");
  try {
    Inspector inspector(what, max_depth);
    return nlohmann::json::parse(text.begin(), text.end(), std::ref(inspector));
  } catch (const nlohmann::json::exception& error) {
    fail(what, ": not valid JSON: ", without_tag(error.what()));
  }
}

nlohmann::json read_json_file(const std::filesystem::path& path, size_t max_bytes) {
  return parse_json(read_text_file(path, max_bytes), path.string());
}

bool is_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i++]);
    if (lead < 0x80) continue;
    const int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    if (lead < 0xc2 || lead > 0xf4 || text.size() - i < static_cast<size_t>(more)) return false;
    uint32_t point = lead & (0x3fu >> more);
    for (int k = 0; k < more; ++k) {
      const auto next = static_cast<unsigned char>(text[i++]);
      if ((next & 0xc0u) != 0x80u) return false;
      point = point << 6 | (next & 0x3fu);
    }
    const uint32_t smallest = more == 1 ? 0x80u : more == 2 ? 0x800u : 0x10000u;
    if (point < smallest || point > 0x10ffffu || (point >= 0xd800u && point <= 0xdfffu)) {
      return false;
    }
  }
  return true;
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
