// Neighbouring elements that are loaded, rounded and stored together.
//
// Memory is fastest when every thread of CUDA asks for 16 bytes; one bf16 is two. A functor for
// map() that also has
//
//   void pack(int64_t i) const;   the elements i .. i + 8 at once: load_pack, work, store_pack
//   bool packs() const;           whether its operands allow that: half_packs(pointers...)
//
// is called through map_packs() for packs and what remains. The CPU takes element by element, which
// vectorizes, and so do f32 and f64, which ask for enough on CUDA. Rows have packs of their own:
// launch_rows.h.
#pragma once

#include <type_traits>

#include "kernels/device_math.h"
#include "kernels/launch.h"

namespace cbq {

/// Elements that a lane of CUDA treats at once: 16 bytes of a half type, or 32 of f32.
constexpr int pack_width = 8;

template <class T, int n = pack_width>
struct alignas(sizeof(T) * n < 16 ? sizeof(T) * n : 16) Pack {
  T x[n];
  /// Element j as the number that arithmetic takes.
  CBQ_HD acc_t<T> operator[](int j) const { return device_math::widen_at(x, j); }
};

template <int n = pack_width, class T>
CBQ_HD Pack<T, n> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, n>*>(p);
}
template <class T, int n>
CBQ_HD void store_pack(T* p, const Pack<T, n>& x) {
  *reinterpret_cast<Pack<T, n>*>(p) = x;
}

/// The same elements rounded to T.
template <class T, int n>
CBQ_HD Pack<T, n> round_pack(const acc_t<T> (&x)[n]) {
  Pack<T, n> y;
  if constexpr (n % 2 == 0) {
    CBQ_UNROLL
    for (int j = 0; j < n; j += 2) device_math::round_pair(x[j], x[j + 1], y.x + j);
  } else {
    CBQ_UNROLL
    for (int j = 0; j < n; ++j) y.x[j] = device_math::round_to<T>(x[j]);
  }
  return y;
}

/// True if all begin at a multiple of 16 bytes: a tensor does, a slice of its rows need not.
template <class... T>
bool aligned(const T*... p) {
  return ((reinterpret_cast<uintptr_t>(p) % 16 == 0) && ...);
}

/// True if an operand is of a half type and all are aligned.
template <class... T>
bool half_packs(const T*... p) {
  return ((sizeof(T) == 2) || ...) && aligned(p...);
}

/// y_i = Formula::apply(x_i).
template <class T, class Formula>
struct Unary {
  const T* x;
  T* y;
  CBQ_HD void operator()(int64_t i) const {
    y[i] = device_math::round_to<T>(Formula::apply(device_math::widen(x[i])));
  }
  CBQ_HD void pack(int64_t i) const {
    const Pack<T> in = load_pack(x + i);
    acc_t<T> out[pack_width];
    for (int j = 0; j < pack_width; ++j) out[j] = Formula::apply(in[j]);
    store_pack(y + i, round_pack<T>(out));
  }
  bool packs() const { return half_packs(x, y); }
};

/// y_i = Formula::apply(a_i, b_i).
template <class T, class Formula>
struct Binary {
  const T* a;
  const T* b;
  T* y;
  CBQ_HD void operator()(int64_t i) const {
    y[i] = device_math::round_to<T>(
        Formula::apply(device_math::widen(a[i]), device_math::widen(b[i])));
  }
  CBQ_HD void pack(int64_t i) const {
    const Pack<T> u = load_pack(a + i), v = load_pack(b + i);
    acc_t<T> out[pack_width];
    for (int j = 0; j < pack_width; ++j) {
      out[j] = Formula::apply(u[j], v[j]);
    }
    store_pack(y + i, round_pack<T>(out));
  }
  bool packs() const { return half_packs(a, b, y); }
};

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
  if (runs_on_grid(device) && f.packs()) {
    map(op, device, (n + pack_width - 1) / pack_width, Packed<F>{f, n});
  } else {
    map(op, device, n, f);
  }
}

}  // namespace cbq
