// The two makes of f32_product.h, each with the memory that it works in: `room` floats, 64-byte
// aligned.
#pragma once

#include <cstdint>

#include "kernels/matmul/f32_product.h"

namespace cbq::kernels {

extern const int64_t f32_product_room_avx512, f32_product_room_avx2;
void f32_product_avx512(const F32Product& product, float* room);
void f32_product_avx2(const F32Product& product, float* room);

}  // namespace cbq::kernels
