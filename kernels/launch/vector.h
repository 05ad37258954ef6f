// Neighbouring elements that are loaded, rounded and stored together.
//
// Memory is fastest when every thread of CUDA asks for 16 bytes; one bf16 is two. A functor for
// map() (launch.h) that also has
//
//   void vector(int64_t i) const;   the elements i .. i + 8 at once: load_vector, work,
//                                   store_vector
//   bool vectorizes() const;        whether its operands allow that: half_vectors(pointers...)
//
// is called for vectors and what remains. The CPU takes element by element, which vectorizes, and
// so do f32 and f64, which ask for enough on CUDA. Rows have vectors of their own:
// launch_rows_cuda.h.
#pragma once

#include <type_traits>

#include "kernels/formulas/device_math.h"

namespace cbq {

/// Elements that a lane of CUDA treats at once: 16 bytes of a half type, or 32 of f32.
constexpr int vector_width = 8;

template <class T, int n = vector_width>
struct alignas(sizeof(T) * n < 16 ? sizeof(T) * n : 16) Vector {
  T x[n];
  /// Element j as the number that arithmetic takes.
  CBQ_HD acc_t<T> operator[](int j) const { return device_math::widen_at(x, j); }
};

template <int n = vector_width, class T>
CBQ_HD Vector<T, n> load_vector(const T* p) {
  return *reinterpret_cast<const Vector<T, n>*>(p);
}
template <class T, int n>
CBQ_HD void store_vector(T* p, const Vector<T, n>& x) {
  *reinterpret_cast<Vector<T, n>*>(p) = x;
}

/// The same elements rounded to T.
template <class T, int n>
CBQ_HD Vector<T, n> round_vector(const acc_t<T> (&x)[n]) {
  Vector<T, n> y;
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
bool half_vectors(const T*... p) {
  return ((sizeof(T) == 2) || ...) && aligned(p...);
}

/// y_i = Formula::value(x_i). A formula that has constants comes as an object.
template <class T, class Formula>
struct Unary {
  const T* x;
  T* y;
  Formula f = {};
  CBQ_HD void operator()(int64_t i) const {
    y[i] = device_math::round_to<T>(f.value(device_math::widen(x[i])));
  }
  CBQ_HD void vector(int64_t i) const {
    const Vector<T> in = load_vector(x + i);
    acc_t<T> out[vector_width];
    for (int j = 0; j < vector_width; ++j) out[j] = f.value(in[j]);
    store_vector(y + i, round_vector<T>(out));
  }
  bool vectorizes() const { return half_vectors(x, y); }
};

/// y_i = Formula::value(a_i, b_i), likewise.
template <class T, class Formula>
struct Binary {
  const T* a;
  const T* b;
  T* y;
  Formula f = {};
  CBQ_HD void operator()(int64_t i) const {
    y[i] = device_math::round_to<T>(f.value(device_math::widen(a[i]), device_math::widen(b[i])));
  }
  CBQ_HD void vector(int64_t i) const {
    const Vector<T> u = load_vector(a + i), v = load_vector(b + i);
    acc_t<T> out[vector_width];
    for (int j = 0; j < vector_width; ++j) {
      out[j] = f.value(u[j], v[j]);
    }
    store_vector(y + i, round_vector<T>(out));
  }
  bool vectorizes() const { return half_vectors(a, b, y); }
};

/// (da_i, db_i) = Formula::gradient(a_i, b_i, dy_i), {a, b}.
template <class T, class Formula>
struct BinaryGradient {
  const T* a;
  const T* b;
  const T* dy;
  T* da;
  T* db;
  CBQ_HD void operator()(int64_t i) const {
    const auto d = Formula::gradient(device_math::widen(a[i]), device_math::widen(b[i]),
                                     device_math::widen(dy[i]));
    da[i] = device_math::round_to<T>(d.a);
    db[i] = device_math::round_to<T>(d.b);
  }
  CBQ_HD void vector(int64_t i) const {
    const Vector<T> u = load_vector(a + i), v = load_vector(b + i), g = load_vector(dy + i);
    acc_t<T> du[vector_width], dv[vector_width];
    for (int j = 0; j < vector_width; ++j) {
      const auto d = Formula::gradient(u[j], v[j], g[j]);
      du[j] = d.a;
      dv[j] = d.b;
    }
    store_vector(da + i, round_vector<T>(du));
    store_vector(db + i, round_vector<T>(dv));
  }
  bool vectorizes() const { return half_vectors(a, b, dy, da, db); }
};

/// Element i of this functor is vector i of f.
template <class F>
struct VectorMap {
  F f;
  int64_t n;
  CBQ_HD void operator()(int64_t i) const {
    const int64_t begin = i * vector_width;
    if (begin + vector_width <= n) {
      f.vector(begin);
    } else {
      for (int64_t j = begin; j < n; ++j) f(j);
    }
  }
};

}  // namespace cbq
