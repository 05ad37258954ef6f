#include "nn/gguf/gguf_grid.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "tensor/dtype.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr int64_t small_block = 32, large_block = 256;

/// The values of one block.
struct BlockValues {
  const uint8_t* codes;
  const uint8_t* zero;  // of the row
  int64_t first, shared;
  uint8_t z(int64_t i) const { return zero[(first + i) / shared]; }
  /// q - z
  int level(int64_t i) const { return codes[first + i] - z(i); }
};

uint16_t half_bits(float x, const char* what) {
  const f16 half(x);
  check(static_cast<float>(half) == x, "GGUF: the ", what, " ", x,
        " is no number of half precision");
  return half.bits;
}

void put_half(uint8_t* to, uint16_t bits) { std::memcpy(to, &bits, sizeof bits); }

// ---- 32 values: value i goes to the lower half of byte i, value i + 16 to the upper half
// ---------

void put_nibbles(uint8_t* to, const std::array<int, 32>& values) {
  for (size_t i = 0; i < 16; ++i) {
    to[i] = static_cast<uint8_t>((values[i] & 15) | (values[i + 16] & 15) << 4);
  }
}

std::array<int, 32> levels_of(const BlockValues& v, int offset) {
  std::array<int, 32> levels{};
  for (int i = 0; i < 32; ++i) levels[static_cast<size_t>(i)] = v.level(i) + offset;
  return levels;
}

void q4_0(const BlockValues& v, float s, uint8_t* to) {
  put_half(to, half_bits(s, "scale"));
  put_nibbles(to + 2, levels_of(v, 8));
}
void q4_1(const BlockValues& v, float s, uint8_t* to) {
  put_half(to, half_bits(s, "scale"));
  put_half(to + 2, half_bits(-s * static_cast<float>(v.z(0)), "minimum"));
  put_nibbles(to + 4, levels_of(v, v.z(0)));
}
void q5_0(const BlockValues& v, float s, uint8_t* to) {
  const std::array<int, 32> levels = levels_of(v, 16);
  uint32_t fifth = 0;
  for (size_t i = 0; i < 32; ++i) fifth |= static_cast<uint32_t>(levels[i] >> 4 & 1) << i;
  put_half(to, half_bits(s, "scale"));
  std::memcpy(to + 2, &fifth, sizeof fifth);
  put_nibbles(to + 6, levels);
}
void q8_0(const BlockValues& v, float s, uint8_t* to) {
  put_half(to, half_bits(s, "scale"));
  for (int i = 0; i < 32; ++i) to[2 + i] = static_cast<uint8_t>(v.level(i));
}

// ---- 256 values ---------------------------------------------------------------------------------

/// Two bits of value i; byte 32 h + l holds the values 128 h + l, + 32, + 64 and + 96.
void put_two_bits(uint8_t* to, int64_t i, int value) {
  to[i / 128 * 32 + i % 32] |= static_cast<uint8_t>((value & 3) << (i % 128 / 32 * 2));
}
/// Four bits of value i; byte 32 h + l holds the values 64 h + l and 64 h + l + 32.
void put_four_bits(uint8_t* to, int64_t i, int value) {
  to[i / 64 * 32 + i % 32] |= static_cast<uint8_t>((value & 15) << (i % 64 / 32 * 4));
}

/// Scales of 1 and minima of z for 8 groups, six bits each: groups 0 to 3 in a byte each, the
/// others in the last four bytes and in the top two bits of the bytes before.
void put_scales_and_mins(uint8_t* to, int z) {
  for (int g = 0; g < 4; ++g) {
    to[g] = 1;
    to[4 + g] = static_cast<uint8_t>(z & 63);
    to[8 + g] = static_cast<uint8_t>(1 | (z & 15) << 4);
    to[4 + g] |= static_cast<uint8_t>(z >> 4 << 6);
  }
}

void q2_k(const BlockValues& v, float s, uint8_t* to) {
  std::memset(to, 0, 84);
  for (int g = 0; g < 16; ++g) to[g] = static_cast<uint8_t>(1 | v.z(0) << 4);
  for (int64_t i = 0; i < large_block; ++i) put_two_bits(to + 16, i, v.codes[v.first + i]);
  put_half(to + 80, half_bits(s, "scale"));
  put_half(to + 82, half_bits(s, "scale"));
}

void q3_k(const BlockValues& v, float s, uint8_t* to) {
  std::memset(to, 0, 110);
  for (int64_t i = 0; i < large_block; ++i) {
    const int value = v.level(i) + 4;
    put_two_bits(to + 32, i, value);
    to[i % 32] |= static_cast<uint8_t>((value >> 2) << (i / 32));
  }
  constexpr int one = 33;  // stored with 32 added
  for (int g = 0; g < 16; ++g) {
    to[96 + g % 8] |= static_cast<uint8_t>((one & 15) << (g / 8 * 4));
    to[104 + g % 4] |= static_cast<uint8_t>((one >> 4) << (g / 4 * 2));
  }
  put_half(to + 108, half_bits(s, "scale"));
}

void q4_k(const BlockValues& v, float s, uint8_t* to) {
  std::memset(to, 0, 144);
  put_half(to, half_bits(s, "scale"));
  put_half(to + 2, half_bits(s, "scale"));
  put_scales_and_mins(to + 4, v.z(0));
  for (int64_t i = 0; i < large_block; ++i) put_four_bits(to + 16, i, v.codes[v.first + i]);
}

void q5_k(const BlockValues& v, float s, uint8_t* to) {
  std::memset(to, 0, 176);
  put_half(to, half_bits(s, "scale"));
  put_half(to + 2, half_bits(s, "scale"));
  put_scales_and_mins(to + 4, v.z(0));
  for (int64_t i = 0; i < large_block; ++i) {
    const int code = v.codes[v.first + i];
    to[16 + i % 32] |= static_cast<uint8_t>((code >> 4) << (i / 32));
    put_four_bits(to + 48, i, code);
  }
}

void q6_k(const BlockValues& v, float s, uint8_t* to) {
  std::memset(to, 0, 210);
  for (int64_t i = 0; i < large_block; ++i) {
    const int value = v.level(i) + 32;
    to[i / 128 * 64 + i % 64] |= static_cast<uint8_t>((value & 15) << (i % 128 / 64 * 4));
    put_two_bits(to + 128, i, value >> 4);
  }
  for (int g = 0; g < 16; ++g) to[192 + g] = 1;
  put_half(to + 208, half_bits(s, "scale"));
}

// ---- which format -------------------------------------------------------------------------------

struct Levels {
  int low, high;  // of q - z
  bool within(int lowest, int highest) const { return low >= lowest && high <= highest; }
};
Levels levels_of(const GgufGrid& grid) {
  const int codes = 1 << grid.bits;
  return grid.symmetric ? Levels{-codes / 2, codes / 2 - 1} : Levels{1 - codes, codes - 1};
}
bool shares(const GgufGrid& grid, int64_t block) {
  return grid.row_values % block == 0 && grid.shared % block == 0;
}

struct GridFormat {
  const char* name;
  bool (*holds)(const GgufGrid&);
  void (*encode)(const BlockValues&, float, uint8_t*);
};
template <int low, int high, int64_t block>
bool holds_levels(const GgufGrid& grid) {
  return levels_of(grid).within(low, high) && shares(grid, block);
}
template <int bits>
bool holds_codes(const GgufGrid& grid) {
  return grid.bits <= bits && shares(grid, large_block);
}
bool holds_products(const GgufGrid& grid) {
  return grid.bits <= 4 && grid.exact_products && shares(grid, small_block);
}

/// By bytes per value, fewest first.
constexpr GridFormat grid_formats[] = {{"Q2_K", holds_codes<2>, q2_k},
                                       {"Q3_K", holds_levels<-4, 3, large_block>, q3_k},
                                       {"Q4_0", holds_levels<-8, 7, small_block>, q4_0},
                                       {"Q4_K", holds_codes<4>, q4_k},
                                       {"Q4_1", holds_products, q4_1},
                                       {"Q5_0", holds_levels<-16, 15, small_block>, q5_0},
                                       {"Q5_K", holds_codes<5>, q5_k},
                                       {"Q6_K", holds_levels<-32, 31, large_block>, q6_k},
                                       {"Q8_0", holds_levels<-128, 127, small_block>, q8_0}};

}  // namespace

const GgufBlockFormat* gguf_format_of(const GgufGrid& grid) {
  const auto* at = std::find_if(std::begin(grid_formats), std::end(grid_formats),
                                [&](const GridFormat& f) { return f.holds(grid); });
  return at == std::end(grid_formats) ? nullptr : find_gguf_format(std::string(at->name));
}

std::string gguf_grid_obstacle(const GgufGrid& grid) {
  if (gguf_format_of(grid) != nullptr) return "";
  if (grid.row_values % small_block != 0) {
    return concat("its rows of ", grid.row_values, " inputs are no multiple of ", small_block);
  }
  if (grid.shared % small_block != 0) {
    return concat("groups of ", grid.shared, " inputs are no multiple of ", small_block);
  }
  return concat("no block format holds codes of ", grid.bits, " bits with zero points");
}

void encode_gguf_row(const GgufBlockFormat& format, const GgufGrid& grid, const GgufGridRow& row,
                     std::byte* out) {
  const auto* at =
      std::find_if(std::begin(grid_formats), std::end(grid_formats),
                   [&](const GridFormat& f) { return f.name == std::string(format.name); });
  check(at != std::end(grid_formats) && at->holds(grid), "GGUF: ", format.name,
        " does not hold such weights");
  auto* to = reinterpret_cast<uint8_t*>(out);
  for (int64_t first = 0; first < grid.row_values; first += format.values, to += format.bytes) {
    at->encode({row.codes, row.zero, first, grid.shared}, row.scale[first / grid.shared], to);
  }
}

}  // namespace cbq
