#include "nn/gguf/gguf_blocks.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "tensor/dtype.h"

namespace cbq {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF files are little-endian");

template <class T>
T read(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
float half(const uint8_t* at) { return detail::f16_bits_to_f32(read<uint16_t>(at)); }

// ---- one number per block ---------------------------------------------------------------------

void f32_block(const uint8_t* b, float* out) { *out = read<float>(b); }
void f16_block(const uint8_t* b, float* out) { *out = half(b); }
void bf16_block(const uint8_t* b, float* out) {
  *out = detail::float_of(static_cast<uint32_t>(read<uint16_t>(b)) << 16);
}

// ---- 32 values: value i is in the lower half of byte i, value i + 16 in the upper half ----------

uint8_t nibble(const uint8_t* q, int i) {
  return static_cast<uint8_t>(i < 16 ? q[i] & 15 : q[i - 16] >> 4);
}

void q4_0_block(const uint8_t* b, float* out) {
  const float d = half(b);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(nibble(b + 2, i) - 8);
}
void q4_1_block(const uint8_t* b, float* out) {
  const float d = half(b), m = half(b + 2);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(nibble(b + 4, i)) + m;
}
int five_bits(uint32_t high, const uint8_t* q, int i) {
  return nibble(q, i) | static_cast<int>((high >> i & 1) << 4);
}
void q5_0_block(const uint8_t* b, float* out) {
  const float d = half(b);
  const auto high = read<uint32_t>(b + 2);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(five_bits(high, b + 6, i) - 16);
}
void q5_1_block(const uint8_t* b, float* out) {
  const float d = half(b), m = half(b + 2);
  const auto high = read<uint32_t>(b + 4);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(five_bits(high, b + 8, i)) + m;
}
void q8_0_block(const uint8_t* b, float* out) {
  const float d = half(b);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<int8_t>(b[2 + i])) * d;
}

// ---- 256 values in groups of 16 or 32 ----------------------------------------------------------

/// Two bits of value i, stored as four values per byte: byte 32 h + l holds the values
/// 128 h + l, + 32, + 64 and + 96 from its lowest bits up.
int two_bits(const uint8_t* q, int i) { return q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3; }
/// Four bits of value i: byte 32 h + l holds 64 h + l and 64 h + l + 32.
int four_bits(const uint8_t* q, int i) { return q[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15; }

void q2_k_block(const uint8_t* b, float* out) {
  const uint8_t *scales = b, *q = b + 16;
  const float d = half(b + 80), m = half(b + 82);
  for (int i = 0; i < 256; ++i) {
    const uint8_t s = scales[i / 16];
    const float scale = d * static_cast<float>(s & 15), offset = m * static_cast<float>(s >> 4);
    out[i] = scale * static_cast<float>(two_bits(q, i)) - offset;
  }
}

void q3_k_block(const uint8_t* b, float* out) {
  const uint8_t *mask = b, *q = b + 32, *scales = b + 96;
  const float d = half(b + 108);
  for (int i = 0; i < 256; ++i) {
    const int g = i / 16;
    const int low = scales[g % 8] >> (g / 8 * 4) & 15, high = scales[8 + g % 4] >> (g / 4 * 2) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const int third_bit = mask[i % 32] >> (i / 32) & 1;
    out[i] = scale * static_cast<float>(two_bits(q, i) - (third_bit != 0 ? 0 : 4));
  }
}

struct ScaleAndMin {
  float scale, min;
};
/// Scale and minimum of group g < 8, six bits each. Groups 0 to 3 have a byte for either; the top
/// two bits of these bytes and the last four bytes hold those of groups 4 to 7.
ScaleAndMin scale_and_min(const uint8_t* s, int g) {
  if (g < 4) return {static_cast<float>(s[g] & 63), static_cast<float>(s[g + 4] & 63)};
  const int scale = (s[g + 4] & 15) | (s[g - 4] >> 6 << 4), min = s[g + 4] >> 4 | (s[g] >> 6 << 4);
  return {static_cast<float>(scale), static_cast<float>(min)};
}

void q4_k_block(const uint8_t* b, float* out) {
  const float d = half(b), m = half(b + 2);
  for (int i = 0; i < 256; ++i) {
    const auto [scale, min] = scale_and_min(b + 4, i / 32);
    out[i] = d * scale * static_cast<float>(four_bits(b + 16, i)) - m * min;
  }
}

void q5_k_block(const uint8_t* b, float* out) {
  const float d = half(b), m = half(b + 2);
  for (int i = 0; i < 256; ++i) {
    const auto [scale, min] = scale_and_min(b + 4, i / 32);
    const int fifth_bit = b[16 + i % 32] >> (i / 32) & 1;
    out[i] = d * scale * static_cast<float>(four_bits(b + 48, i) | fifth_bit << 4) - m * min;
  }
}

void q6_k_block(const uint8_t* b, float* out) {
  const uint8_t *low = b, *high = b + 128, *scales = b + 192;
  const float d = half(b + 208);
  for (int i = 0; i < 256; ++i) {
    // Byte 64 h + l of `low` holds 128 h + l and 128 h + l + 64.
    const int four = low[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
    const float scale = d * static_cast<float>(static_cast<int8_t>(scales[i / 16]));
    out[i] = scale * static_cast<float>((four | two_bits(high, i) << 4) - 32);
  }
}

// ---- the table ---------------------------------------------------------------------------------

template <void (*block)(const uint8_t*, float*), int64_t values, int64_t bytes>
void each(const std::byte* in, int64_t blocks, float* out) {
  const auto* at = reinterpret_cast<const uint8_t*>(in);
  for (int64_t b = 0; b < blocks; ++b) block(at + b * bytes, out + b * values);
}

template <void (*block)(const uint8_t*, float*), int64_t values, int64_t bytes>
constexpr GgufBlockFormat format(uint32_t id, const char* name) {
  return {id, name, values, bytes, each<block, values, bytes>};
}

constexpr GgufBlockFormat formats[] = {
    format<f32_block, 1, 4>(0, "F32"),        format<f16_block, 1, 2>(1, "F16"),
    format<bf16_block, 1, 2>(30, "BF16"),     format<q4_0_block, 32, 18>(2, "Q4_0"),
    format<q4_1_block, 32, 20>(3, "Q4_1"),    format<q5_0_block, 32, 22>(6, "Q5_0"),
    format<q5_1_block, 32, 24>(7, "Q5_1"),    format<q8_0_block, 32, 34>(8, "Q8_0"),
    format<q2_k_block, 256, 84>(10, "Q2_K"),  format<q3_k_block, 256, 110>(11, "Q3_K"),
    format<q4_k_block, 256, 144>(12, "Q4_K"), format<q5_k_block, 256, 176>(13, "Q5_K"),
    format<q6_k_block, 256, 210>(14, "Q6_K")};

/// Types of ggml that are not read here: each needs tables or kernels of its own.
constexpr std::pair<uint32_t, const char*> other_types[] = {
    {4, "Q4_2"},     {5, "Q4_3"},   {9, "Q8_1"},    {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"},
    {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"},
    {24, "I8"},      {25, "I16"},   {26, "I32"},    {27, "I64"},   {28, "F64"},     {29, "IQ1_M"},
    {34, "TQ1_0"},   {35, "TQ2_0"}, {39, "MXFP4"}};

}  // namespace

const GgufBlockFormat* find_gguf_format(uint32_t id) {
  const auto* at = std::find_if(std::begin(formats), std::end(formats),
                                [&](const GgufBlockFormat& f) { return f.id == id; });
  return at == std::end(formats) ? nullptr : at;
}

const GgufBlockFormat* find_gguf_format(const std::string& name) {
  const auto* at = std::find_if(std::begin(formats), std::end(formats),
                                [&](const GgufBlockFormat& f) { return f.name == name; });
  return at == std::end(formats) ? nullptr : at;
}

std::string gguf_type_name(uint32_t id) {
  if (const GgufBlockFormat* format = find_gguf_format(id)) return format->name;
  for (const auto& [other, name] : other_types) {
    if (other == id) return name;
  }
  return concat("type ", id);
}

std::string known_gguf_formats() {
  std::string names;
  for (const GgufBlockFormat& f : formats) names += concat(names.empty() ? "" : ", ", f.name);
  return names;
}

}  // namespace cbq
