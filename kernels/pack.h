// Elementwise functors of half types, eight elements at a time.
//
// Memory is fastest when every thread of CUDA asks for 16 bytes; one bf16 is two. A functor for
// map() that also has
//
//   void pack(int64_t i) const;   the elements i .. i + 8 at once: load_pack, work, store_pack
//   bool packs() const;           whether its operands allow that: half_packs(pointers...)
//
// is called through map_packs() for packs and what remains. Both devices take the same way, so that
// the CPU's tests see it; f32 and f64 are called element by element, which vectorizes on the CPU
// and asks for enough on CUDA.
#pragma once

#include <type_traits>

#include "kernels/launch.h"

namespace cbq {

constexpr int64_t pack_width = 8;

template <class T>
struct alignas(16) Pack {
  T at[pack_width];
};

template <class T>
CBQ_HD Pack<T> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T>*>(p);
}
template <class T>
CBQ_HD void store_pack(T* p, const Pack<T>& x) {
  *reinterpret_cast<Pack<T>*>(p) = x;
}

/// True if an operand is of a half type and all begin at a multiple of 16 bytes: a tensor does, a
/// slice of its rows need not.
template <class... T>
bool half_packs(const T*... p) {
  return ((sizeof(T) == 2) || ...) && ((reinterpret_cast<uintptr_t>(p) % 16 == 0) && ...);
}

/// Element i of this functor is pack i of f.
template <class F>
struct Packed {
  F f;
  int64_t n;
  CBQ_HD void operator()(int64_t i) const {
    const int64_t begin = i * pack_width;
    if (begin + pack_width <= n) {
      f.pack(begin);
    } else {
      for (int64_t j = begin; j < n; ++j) f(j);
    }
  }
};

template <class F>
void map_packs(const char* op, Device device, int64_t n, const F& f) {
  if (f.packs()) {
    map(op, device, (n + pack_width - 1) / pack_width, Packed<F>{f, n});
  } else {
    map(op, device, n, f);
  }
}

}  // namespace cbq
