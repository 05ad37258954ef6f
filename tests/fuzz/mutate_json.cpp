// Mutations of JSON. The text is only cut into tokens, not parsed, so that what is broken already
// can be changed further; several documents in a row (JSON lines) are as good as one.
#include <algorithm>
#include <map>

#include "tests/fuzz/fuzz.h"

namespace cbq::fuzz {
namespace {

struct Token {
  char kind;  // one of {}[]:, or 's': string, 'w': number or word
  size_t begin, end;
  size_t depth;  // brackets that are open around it
};

std::vector<Token> tokens_of(const std::string& text) {
  std::vector<Token> tokens;
  size_t depth = 0;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    const size_t begin = at++;
    if (std::string_view(" \t\r\n").find(c) != std::string_view::npos) continue;
    if ((c == '}' || c == ']') && depth > 0) --depth;
    char kind = c;
    if (c == '"') {
      kind = 's';
      while (at < text.size() && text[at] != '"') at += text[at] == '\\' ? 2 : 1;
      at = std::min(at + 1, text.size());
    } else if (std::string_view("{}[]:,").find(c) == std::string_view::npos) {
      kind = 'w';
      at = std::min(text.find_first_of(" \t\r\n{}[]:,\"", at), text.size());
    }
    tokens.push_back({kind, begin, at, depth});
    if (c == '{' || c == '[') ++depth;
  }
  return tokens;
}

bool starts_value(const std::vector<Token>& tokens, size_t i) {
  const char kind = tokens[i].kind;
  const bool is_key = kind == 's' && i + 1 < tokens.size() && tokens[i + 1].kind == ':';
  return (kind == 's' || kind == 'w' || kind == '{' || kind == '[') && !is_key;
}

/// Token behind the value that begins at token i.
size_t behind_value(const std::vector<Token>& tokens, size_t i) {
  if (tokens[i].kind != '{' && tokens[i].kind != '[') return i + 1;
  size_t end = i + 1;
  while (end < tokens.size() && tokens[end].depth > tokens[i].depth) ++end;
  return std::min(end + 1, tokens.size());
}

/// One of `candidates`, which are tokens. Half of the time a depth is chosen first: a vocabulary
/// has thousands of values, and the few around it matter as much.
size_t any_token(const std::vector<Token>& tokens, const std::vector<size_t>& candidates,
                 Random& random) {
  if (random.one_in(2)) return random.of(candidates);
  std::map<size_t, std::vector<size_t>> by_depth;
  for (const size_t i : candidates) by_depth[tokens[i].depth].push_back(i);
  auto at = by_depth.begin();
  std::advance(at, random.below(by_depth.size()));
  return random.of(at->second);
}

std::string repeated(const std::string& part, size_t times) {
  std::string text;
  text.reserve(part.size() * times);
  for (size_t i = 0; i < times; ++i) text += part;
  return text;
}

std::string odd_number(Random& random) {
  static const std::vector<std::string> numbers = {"0",
                                                   "1",
                                                   "-1",
                                                   "2",
                                                   "3",
                                                   "7",
                                                   "16",
                                                   "17",
                                                   "-0",
                                                   "0.0",
                                                   "0.5",
                                                   "3.5",
                                                   "-1.5",
                                                   "1e3",
                                                   "1e-400",
                                                   "1e308",
                                                   "1e999",
                                                   "-1e999",
                                                   "4294967295",
                                                   "4294967296",
                                                   "2147483647",
                                                   "2147483648",
                                                   "-2147483648",
                                                   "-2147483649",
                                                   "67108864",
                                                   "9223372036854775807",
                                                   "9223372036854775808",
                                                   "-9223372036854775808",
                                                   "-9223372036854775809",
                                                   "18446744073709551615",
                                                   "18446744073709551616",
                                                   "1152921504606846976",
                                                   "NaN",
                                                   "Infinity",
                                                   "-Infinity",
                                                   "007",
                                                   "1.",
                                                   "+1",
                                                   "0x10",
                                                   "1e",
                                                   "--1"};
  if (random.one_in(8)) return repeated("9", random.any_size(5000));
  return random.of(numbers);
}

std::string odd_string(Random& random) {
  static const std::vector<std::string> strings = {"",
                                                   "\\ud800",
                                                   "\\udc00",
                                                   "\\ud800\\ud800",
                                                   "\\ud83d\\ude00",
                                                   "\\u0000",
                                                   "\\u2028",
                                                   "\\ufeff",
                                                   "\\n",
                                                   "\\r\\n",
                                                   "\\t",
                                                   " ",
                                                   ".",
                                                   "..",
                                                   "/",
                                                   "../../etc/passwd",
                                                   "-5",
                                                   "abc",
                                                   "3.7",
                                                   "5 ",
                                                   " 5",
                                                   "+5",
                                                   "1e3",
                                                   "0x10",
                                                   "nan",
                                                   "inf",
                                                   "99999999999999999999",
                                                   "-9223372036854775808",
                                                   "%s%n%d",
                                                   "$",
                                                   "^",
                                                   "(",
                                                   "[",
                                                   "(?:",
                                                   "\\\\",
                                                   "\\\\p{L}",
                                                   "\\\\p{Foo}",
                                                   "a|b",
                                                   "(a*)*b",
                                                   "[[:alpha:]]",
                                                   "\\\\u12",
                                                   "\\\\x{110000}",
                                                   "(?<=a+)b",
                                                   "a{99999}",
                                                   "\xed\xa0\x80",
                                                   "\xff",
                                                   "\xc3",
                                                   "\xf4\x90\x80\x80"};
  if (random.one_in(6)) {
    static const std::vector<std::string> parts = {
        "a", "[", "(", "(?:", "\\u00e9", "\\ud83d\\ude00", "[^", "a|", ".*", "(a+)+", " ", "\\\\"};
    return '"' + repeated(random.of(parts), random.any_size(100000)) + '"';
  }
  return '"' + random.of(strings) + '"';
}

std::string odd_value(Random& random) {
  static const std::vector<std::string> values = {
      "null", "true", "false", "{}", "[]", "[[]]", "[{}]", "[null]", "nul", "", "{\"a\": {}}"};
  switch (random.below(4)) {
    case 0:
      return odd_number(random);
    case 1:
      return odd_string(random);
    case 2: {
      static const std::vector<std::string> items = {"[],", "{},", "[1],", "\"a\",", "0,", "[[]],"};
      return '[' + repeated(random.of(items), random.any_size(20000)) + "0]";
    }
    default:
      return random.of(values);
  }
}

std::string nested(const std::string& value, Random& random) {
  static const std::vector<size_t> depths = {1, 2, 30, 62, 63, 64, 65, 1000, 100000};
  const size_t depth = random.of(depths);
  const bool array = random.one_in(2);
  return repeated(array ? "[" : "{\"a\":", depth) + value + repeated(array ? "]" : "}", depth);
}

}  // namespace

std::string mutated_json(const std::string& text, Random& random) {
  const std::vector<Token> tokens = tokens_of(text);
  std::vector<size_t> values, keys;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (starts_value(tokens, i)) values.push_back(i);
    if (tokens[i].kind == 's' && !starts_value(tokens, i)) keys.push_back(i);
  }
  if (values.empty()) return mutated_bytes(text, "", random);
  const size_t value = any_token(tokens, values, random);
  const auto span_of = [&](size_t i) {
    const size_t begin = tokens[i].begin;
    return std::make_pair(begin, tokens[behind_value(tokens, i) - 1].end - begin);
  };
  const auto [begin, size] = span_of(value);
  std::string result = text;
  const std::string old = text.substr(begin, size);
  switch (random.below(keys.empty() ? 6 : 10)) {
    case 0:
    case 1:
      return result.replace(begin, size, odd_value(random));
    case 2: {  // of the same kind
      const bool is_text = tokens[value].kind == 's';
      return result.replace(begin, size, is_text ? odd_string(random) : odd_number(random));
    }
    case 3:
      return result.replace(begin, size, nested(old, random));
    case 4: {  // another value of the same text
      const auto [other, other_size] = span_of(any_token(tokens, values, random));
      return result.replace(begin, size, text.substr(other, other_size));
    }
    case 5: {  // more of the same
      const size_t copies =
          std::min(random.any_size(20000), (size_t{1} << 20) / (old.size() + 1) + 1);
      return result.insert(begin, repeated(old + ",", copies));
    }
    default:
      break;
  }
  const size_t key = any_token(tokens, keys, random);
  const size_t first = key + 2;  // of the key's value, behind the colon
  const size_t key_begin = tokens[key].begin, key_size = tokens[key].end - key_begin;
  const bool has_value = first < tokens.size() && starts_value(tokens, first);
  const size_t last = has_value ? behind_value(tokens, first) - 1 : key;
  const size_t pair_size = tokens[last].end - key_begin;
  const std::string pair = text.substr(key_begin, pair_size);
  switch (random.below(4)) {
    case 0: {  // left out, with the comma behind it
      const bool comma = last + 1 < tokens.size() && tokens[last + 1].kind == ',';
      return result.erase(key_begin, (comma ? tokens[last + 1].end : tokens[last].end) - key_begin);
    }
    case 1:  // twice, the same or with another value
      if (random.one_in(2)) return result.insert(key_begin, pair + ", ");
      return result.insert(key_begin,
                           text.substr(key_begin, key_size) + ": " + odd_value(random) + ", ");
    case 2: {  // another name
      const size_t other = any_token(tokens, keys, random);
      return result.replace(
          key_begin, key_size,
          random.one_in(2)
              ? odd_string(random)
              : text.substr(tokens[other].begin, tokens[other].end - tokens[other].begin));
    }
    default:
      return has_value ? result.replace(tokens[first].begin, tokens[last].end - tokens[first].begin,
                                        odd_value(random))
                       : result;
  }
}

}  // namespace cbq::fuzz
