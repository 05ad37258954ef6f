// Weights on an integer grid in the block formats of GGUF, without a loss.
//
// A weight is s (q - z) with codes q and zero points z of b bits and a scale s that neighbouring
// inputs share. Four kinds of formats hold it exactly where s is a number of half precision
// (nn/gguf/gguf_blocks.h has what they compute):
//
//   Q4_0, Q5_0, Q8_0   d = s, and the signed integer q - z of 4, 5 or 8 bits
//   Q4_1               d = s, m = -s z, where that is a number of half precision, too
//   Q3_K, Q6_K         d = s, one for 256 values, the scales of all groups 1, and q - z
//   Q2_K, Q4_K, Q5_K   d = m = s, one for 256 values, the scales of all groups 1, their minima z
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "nn/gguf/gguf_blocks.h"

namespace cbq {

/// What is known of a weight's grid before there are codes.
struct GgufGrid {
  int bits = 0;
  bool symmetric = false;       // z = 2^(b-1)
  int64_t row_values = 0;       // inputs
  int64_t shared = 0;           // neighbouring inputs that share a scale; row_values: all
  bool exact_products = false;  // s z is a number of half precision for every z of 4 bits
};

/// The format with the fewest bytes that holds every weight on such a grid; null: none does.
const GgufBlockFormat* gguf_format_of(const GgufGrid& grid);
/// Why there is none, as a part of a sentence: "its rows of 172 inputs are no multiple of 32".
std::string gguf_grid_obstacle(const GgufGrid& grid);

/// One row of a weight: value j is scale[j / shared] (codes[j] - zero[j / shared]).
struct GgufGridRow {
  const uint8_t* codes;
  const float* scale;
  const uint8_t* zero;
};
/// Writes the row's blocks in `format`, which gguf_format_of(grid) gave.
/// Throws std::invalid_argument for a scale that half precision does not hold.
void encode_gguf_row(const GgufBlockFormat& format, const GgufGrid& grid, const GgufGridRow& row,
                     std::byte* out);

}  // namespace cbq
