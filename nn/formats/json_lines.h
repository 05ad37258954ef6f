// The rows of JSON-lines files.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "nn/formats/unicode.h"

namespace cbq {

/// Calls f(line, number) for each line of `text` that is not blank, without its line end. Lines end
/// in "\n", "\r\n" or a lone "\r", which within JSON can only be white space between rows; blank is
/// what Python's str.strip() empties. `number`: of the line, from 1; blank lines count. Takes time
/// proportional to the length of the text.
template <class F>
void for_each_json_line(std::string_view text, F&& f) {
  // Each kind of line end is searched on its own, because a text may have none of the other kind.
  size_t newline = text.find('\n'), carriage_return = text.find('\r');
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    if (newline < begin) newline = text.find('\n', begin);
    if (carriage_return < begin) carriage_return = text.find('\r', begin);
    const size_t end = std::min({newline, carriage_return, text.size()});
    const std::string_view line = text.substr(begin, end - begin);
    ++number;
    if (!is_python_blank(line)) f(line, number);
    begin = end + (text.substr(end, 2) == "\r\n" ? 2 : 1);
  }
}

}  // namespace cbq
