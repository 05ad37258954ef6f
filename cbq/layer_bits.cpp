#include "cbq/layer_bits.h"

#include <algorithm>
#include <string_view>

#include "quant/config.h"
#include "tensor/error.h"

namespace cbq {
namespace {

/// '*' any characters, '?' any one; whole text.
bool glob_match(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = std::string_view::npos, retry = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      retry = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++retry;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace

bool layer_matches(const std::string& pattern, const std::string& layer) {
  if (pattern.find_first_of("*?") == std::string::npos) {
    return layer.find(pattern) != std::string::npos;
  }
  return glob_match(pattern, layer);
}

std::vector<LayerBits> parse_layer_bits(const std::string& text) {
  std::vector<LayerBits> all;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, end - begin);
    const size_t equals = item.rfind('=');
    const std::string digits = equals == std::string::npos ? "" : item.substr(equals + 1);
    const bool numeric = !digits.empty() && digits.size() <= 2 &&
                         digits.find_first_not_of("0123456789") == std::string::npos;
    check(numeric && equals > 0, "layer_bits: '", item, "' in '", text,
          "'; expected pattern=bits, as in down_proj=4");
    const int bits = std::stoi(digits);
    check(bits >= 1 && (bits <= 8 || bits == float_bits), "layer_bits: ", bits, " bits in '", item,
          "'; expected 1 to 8, or ", float_bits, " for floating point");
    all.push_back({item.substr(0, equals), bits});
    begin = end + 1;
  }
  return all;
}

}  // namespace cbq
