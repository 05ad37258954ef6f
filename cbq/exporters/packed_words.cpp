#include "cbq/exporters/packed_words.h"

#include <algorithm>
#include <cstring>

#include "kernels/ops.h"
#include "tensor/error.h"

namespace cbq {
namespace {

template <class T>
Tensor transposed(const Tensor& x) {
  const Tensor host = x.to(Device::cpu());
  const int64_t rows = host.size(0), columns = host.size(1);
  const Tensor result({columns, rows}, host.dtype(), Device::cpu());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      result.data<T>()[c * rows + r] = host.data<T>()[r * columns + c];
    }
  }
  return result;
}

template <class T>
Tensor per_output(const Tensor& x, int64_t out) {
  const Tensor host = x.to(Device::cpu());
  if (host.count() != 1) return host;
  const Tensor result({out, 1}, host.dtype(), Device::cpu());
  std::fill_n(result.data<T>(), out, host.data<T>()[0]);
  return result;
}

}  // namespace

Tensor words_of(const Tensor& rows, int64_t words) {
  const Tensor host = rows.to(Device::cpu());
  const Tensor result = Tensor::zeros({host.size(0), words}, Dtype::i32);
  const auto bytes = static_cast<size_t>(host.size(1));
  for (int64_t r = 0; r < host.size(0); ++r) {
    std::memcpy(result.data<int32_t>() + r * words, host.data<uint8_t>() + r * host.size(1), bytes);
  }
  return result;
}

Tensor bytes_of_words(const Tensor& words, int64_t codes, int bits) {
  const int64_t rows = words.size(0), bytes = (codes * bits + 7) / 8;
  const Tensor result({rows, bytes}, Dtype::u8, Device::cpu());
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(result.data<uint8_t>() + r * bytes, words.data<int32_t>() + r * words.size(1),
                static_cast<size_t>(bytes));
  }
  return result;
}

Tensor codes_in_whole_words(const Tensor& words, int64_t codes, int bits) {
  const int64_t rows = words.size(0), per_word = 32 / bits;
  const Tensor result({rows, codes}, Dtype::u8, Device::cpu());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < codes; ++j) {
      const int32_t word = words.data<int32_t>()[r * words.size(1) + j / per_word];
      const uint32_t code = static_cast<uint32_t>(word) >> (j % per_word * bits);
      result.data<uint8_t>()[r * codes + j] = static_cast<uint8_t>(code & ((1u << bits) - 1u));
    }
  }
  return result;
}

Tensor transposed_on_host(const Tensor& x) {
  if (x.dtype() == Dtype::u8) return transposed<uint8_t>(x);
  if (x.dtype() == Dtype::i32) return transposed<int32_t>(x);
  return transposed<float>(x);
}

Tensor scales_per_output(const PackedWeight& weight) {
  return per_output<float>(kernels::cast(weight.scale, Dtype::f32), weight.out);
}
Tensor zeros_per_output(const PackedWeight& weight) {
  return per_output<uint8_t>(weight.zero_point, weight.out);
}

void check_symmetric(const PackedWeight& weight, const std::string& path) {
  const auto middle = static_cast<uint8_t>(1 << (weight.bits - 1));
  const std::vector<uint8_t> zero = weight.zero_point.to_vector<uint8_t>();
  const bool is_symmetric =
      std::all_of(zero.begin(), zero.end(), [&](uint8_t z) { return z == middle; });
  check(is_symmetric, "export: ", path, ": a zero point of the symmetric grid is not ",
        static_cast<int>(middle), "; the result is damaged, quantize again");
}

}  // namespace cbq
