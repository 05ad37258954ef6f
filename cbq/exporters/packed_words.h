// Codes in 32-bit words, as the formats of PyTorch programs have them.
#pragma once

#include "quant/bit_packed.h"

namespace cbq {

/// Words of 32 bits that hold so many codes.
inline int64_t words_for(int64_t codes, int bits) { return (codes * bits + 31) / 32; }

/// Bytes of packed rows u8 [rows, bytes] -> I32 [rows, words], the rest of the last word zero.
Tensor words_of(const Tensor& rows, int64_t words);

/// The inverse: the first ceil(codes bits / 8) bytes of each row of I32 [rows, words].
Tensor bytes_of_words(const Tensor& words, int64_t codes, int bits);

/// Rows in which no code crosses the end of a word: floor(32 / bits) codes per word, first code in
/// the lowest bits. I32 [rows, ceil(codes / floor(32 / bits))] -> codes u8 [rows, codes].
Tensor codes_in_whole_words(const Tensor& words, int64_t codes, int bits);

/// [rows, columns] -> [columns, rows], on the host. u8, i32 or f32.
Tensor transposed_on_host(const Tensor& x);

/// The scales f32, or zero points u8, of a weight [out, groups] on the host; one of the whole
/// tensor becomes one per output.
Tensor scales_per_output(const PackedWeight& weight);
Tensor zeros_per_output(const PackedWeight& weight);

/// Throws std::invalid_argument, naming `path`, unless all zero points are the middle code.
void check_symmetric(const PackedWeight& weight, const std::string& path);

}  // namespace cbq
