// Compiled for AVX2 and FMA (cmake/Sources.cmake): called only where the processor has them.
#include "kernels/matmul/f32_product_room.h"

#ifdef __AVX2__
#include "kernels/matmul/f32_product_tiles.h"

namespace cbq::kernels {

namespace {

struct Avx2 {
  typedef float Vector __attribute__((vector_size(32)));
  typedef float Anywhere __attribute__((vector_size(32), aligned(4)));
  typedef int Lanes __attribute__((vector_size(32)));
  static Vector load(const float* from) { return *reinterpret_cast<const Anywhere*>(from); }
  static void store(float* to, Vector x) { *reinterpret_cast<Anywhere*>(to) = x; }
  static constexpr int width = 8, rows = 6, vectors = 2;  // 12 of 16 registers hold sums
};

}  // namespace

const int64_t f32_product_room_avx2 = F32Tiles<Avx2>::room;
void f32_product_avx2(const F32Product& product, float* room) {
  F32Tiles<Avx2>::run(product, room);
}

}  // namespace cbq::kernels
#endif
