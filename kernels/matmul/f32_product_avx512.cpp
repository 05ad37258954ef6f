// Compiled for AVX-512 (cmake/Sources.cmake): called only where the processor has it.
#include "kernels/matmul/f32_product_room.h"

#ifdef __AVX512F__
#include "kernels/matmul/f32_product_tiles.h"

namespace cbq::kernels {

namespace {

struct Avx512 {
  typedef float Vector __attribute__((vector_size(64)));
  typedef float Anywhere __attribute__((vector_size(64), aligned(4)));
  typedef int Lanes __attribute__((vector_size(64)));
  static Vector load(const float* from) { return *reinterpret_cast<const Anywhere*>(from); }
  static void store(float* to, Vector x) { *reinterpret_cast<Anywhere*>(to) = x; }
  static constexpr int width = 16, rows = 12, vectors = 2;  // 24 of 32 registers hold sums
};

}  // namespace

const int64_t f32_product_room_avx512 = F32Tiles<Avx512>::room;
void f32_product_avx512(const F32Product& product, float* room) {
  F32Tiles<Avx512>::run(product, room);
}

}  // namespace cbq::kernels
#endif
