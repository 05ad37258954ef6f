#include "kernels/matmul/f32_product.h"

#include <cstdlib>
#include <memory>
#include <new>

#include "kernels/matmul/f32_product_room.h"
#include "tensor/runtime/environment.h"

namespace cbq::kernels {
namespace {

struct Make {
  const char* vectors = nullptr;
  void (*run)(const F32Product&, float*) = nullptr;
  int64_t room = 0;
};

Make make_for_this_processor() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f")) {
    return {"AVX-512", f32_product_avx512, f32_product_room_avx512};
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {"AVX2", f32_product_avx2, f32_product_room_avx2};
  }
#endif
  return {};
}

const Make& make() {
  static const Make made = make_for_this_processor();
  return made;
}

struct Free {
  void operator()(float* p) const { std::free(p); }
};

/// A thread's working memory, kept until the thread ends.
float* room() {
  thread_local std::unique_ptr<float, Free> kept;
  if (!kept) {
    constexpr size_t line = 64;
    const size_t bytes = static_cast<size_t>(make().room) * sizeof(float);
    kept.reset(static_cast<float*>(std::aligned_alloc(line, (bytes + line - 1) / line * line)));
    if (!kept) throw std::bad_alloc();
  }
  return kept.get();
}

}  // namespace

const char* f32_product_vectors() { return make().vectors; }

bool f32_product_takes(int64_t m, int64_t n, int64_t k, bool transpose_b) {
  constexpr int64_t fewest_rows = 4, small = int64_t{64} * 64 * 64;
  // Of the process, not tuned::enabled() of a thread: tests compare fused kernels with reference
  // kernels to the last bit, and both are to have the same products.
  static const bool wanted = environment_value("CBQ_FAST") == "1";
  return wanted && m >= fewest_rows && (transpose_b || m * n * k > small) &&
         f32_product_vectors() != nullptr;
}

void f32_product(const F32Product& product) { make().run(product, room()); }

}  // namespace cbq::kernels
