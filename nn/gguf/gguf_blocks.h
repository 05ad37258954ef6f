// The block formats of GGUF: how each tensor type stores its values, and what the values are.
//
// A row of a tensor is a sequence of blocks of `values` values in `bytes` bytes. All formats are
// those of ggml (ggml-common.h and ggml-quants.c of llama.cpp). d, m: scales stored in half
// precision; q: an unsigned integer of the format's bits; values are
//
//   F32, F16, BF16   the number itself
//   Q4_0, Q5_0       d (q - 8), d (q - 16)                      32 values
//   Q4_1, Q5_1       d q + m                                    32 values
//   Q8_0             d q, q signed                              32 values
//   Q2_K             (d s) q - (m t), s, t: 4 bits each per 16  256 values
//   Q3_K             (d (s - 32)) (q - 4), s: 6 bits per 16     256 values
//   Q4_K, Q5_K       (d s) q - (m t), s, t: 6 bits each per 32  256 values
//   Q6_K             (d s) (q - 32), s: signed 8 bits per 16    256 values
//
// The products are formed in f32 in this order, so that the results equal those of the Python
// package `gguf` bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace cbq {

struct GgufBlockFormat {
  uint32_t id;  // ggml_type, as files store it
  const char* name;
  int64_t values;  // per block
  int64_t bytes;   // per block
  /// Writes the `blocks * values` numbers of `blocks` blocks.
  void (*dequantize)(const std::byte* bytes, int64_t blocks, float* out);
};

/// The format of a stored type; null for one that is not supported.
const GgufBlockFormat* find_gguf_format(uint32_t id);
/// The format of this name ("Q4_0"); null for one that is not supported.
const GgufBlockFormat* find_gguf_format(const std::string& name);
/// "IQ4_NL" for a type that ggml has, "type 99" for one that it has not.
std::string gguf_type_name(uint32_t id);
/// "F32, F16, ...": the supported formats.
std::string known_gguf_formats();

}  // namespace cbq
