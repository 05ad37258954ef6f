// The whole rows of launch.h on the CPU: textbook loops, vectorized.
#pragma once

#include <cmath>
#include <type_traits>

#include "kernels/formulas/device_math.h"
#include "kernels/formulas/multi_reduce.h"

/// Everything that a loop over a row calls becomes part of it, whatever g++ thinks of the size:
/// a loop with a call left in it is not vectorized (ten times slower for GELU).
#if defined(__GNUC__) && !defined(__CUDACC__)
#define CBQ_FLATTEN [[gnu::flatten]]
#else
#define CBQ_FLATTEN
#endif

namespace cbq {

/// Operands on the CPU: element j.
template <class U>
struct SerialOperand {
  const U* p;
  CBQ_HD acc_t<U> operator[](int64_t j) const { return acc_t<U>(p[j]); }
};
template <class U>
struct SerialOptional {
  const U* p;  // or null
  acc_t<U> otherwise;
  CBQ_HD acc_t<U> operator[](int64_t j) const { return p != nullptr ? acc_t<U>(p[j]) : otherwise; }
};
template <class F, class In>
struct SerialComputed {
  F f;
  In in;
  CBQ_HD auto operator[](int64_t j) const { return f(in[j]); }
};
/// A row of T in memory, to be written and read again.
template <class T>
struct SerialPlace {
  T* p;
  CBQ_HD acc_t<T> operator[](int64_t j) const { return acc_t<T>(p[j]); }
  CBQ_HD void set(int64_t j, acc_t<T> x) const { p[j] = device_math::round_to<T>(x); }
};
struct SerialIndex {
  CBQ_HD int64_t operator[](int64_t j) const { return j; }
};

/// A row on the CPU: every operand is a place in memory, or is computed when it is asked for.
class SerialElements {
 public:
  static constexpr bool on_grid = false;

  CBQ_HD explicit SerialElements(int64_t n) : n_(n) {}

  /// True for the one worker that stores what belongs to the whole row.
  CBQ_HD bool first() const { return true; }

  template <class U>
  CBQ_HD SerialOperand<U> read(const U* p) const {
    return {p};
  }
  /// The row at p, which no register keeps.
  template <class U>
  CBQ_HD SerialOperand<U> uncached(const U* p) const {
    return {p};
  }
  /// `otherwise` for all j where p is null.
  template <class U>
  CBQ_HD SerialOptional<U> uncached_or(const U* p, acc_t<U> otherwise) const {
    return {p, otherwise};
  }
  /// j itself.
  CBQ_HD SerialIndex index() const { return {}; }
  /// f(x_j): kept where registers hold it, computed at every use elsewhere.
  template <class F, class In>
  CBQ_HD SerialComputed<F, In> keep(F f, In x) const {
    return {f, x};
  }
  /// The row of T at p: elements are written to it by put() and the like.
  template <class T>
  CBQ_HD SerialPlace<T> memory(T* p) const {
    return {p};
  }
  /// Room for a row of T that is written and read again: in registers, else at p.
  template <class T>
  CBQ_HD SerialPlace<T> place(T* p) const {
    return {p};
  }
  /// keep() and its sum. The values may wait in `room`, a row that a later write() fills.
  template <class T, class F, class In>
  CBQ_FLATTEN CBQ_HD auto keep_sum(T* room, F f, In x) const {
    using A = acc_t<T>;
    A s = 0;
    if constexpr (std::is_same_v<T, A>) {
#pragma omp simd reduction(+ : s)
      for (int64_t j = 0; j < n_; ++j) {
        const A value = f(x[j]);
        room[j] = value;
        s += value;
      }
      return Summed<SerialOperand<T>, A>{{room}, s};
    } else {
#pragma omp simd reduction(+ : s)
      for (int64_t j = 0; j < n_; ++j) s += f(x[j]);
      return Summed<SerialComputed<F, In>, A>{{f, x}, s};
    }
  }

  /// y_j = f(a_j, b_j, ...) rounded to T, and max_j of the two numbers of ends(y_j); a NaN is
  /// passed over. y waits in registers, else at `room`.
  template <class T, class F, class Ends, class... In>
  CBQ_FLATTEN CBQ_HD auto keep_max(T* room, F f, Ends ends, In... in) const {
    using A = acc_t<T>;
    const SerialPlace<T> y{room};
    A a = -INFINITY, b = -INFINITY;
#pragma omp simd reduction(max : a, b)
    for (int64_t j = 0; j < n_; ++j) {
      y.set(j, f(in[j]...));
      const MultiReduce<A, 2> v = ends(y[j]);
      a = v.at[0] > a ? v.at[0] : a;
      b = v.at[1] > b ? v.at[1] : b;
    }
    return Ranged<SerialPlace<T>, A>{y, {{a, b}}};
  }

  /// sum_j f(a_j, b_j, ...); of a MultiReduce, each of them. (The loops are written out because g++
  /// keeps to the order of the elements, without vectors, where one reduction variable is not
  /// used.)
  template <class F, class... In>
  CBQ_FLATTEN CBQ_HD auto sum(F f, In... in) const {
    using V = decltype(f(in[0]...));
    using A = typename detail::Fold<V>::Value;
    A a = 0, b = 0;
    if constexpr (std::is_same_v<V, A>) {
#pragma omp simd reduction(+ : a)
      for (int64_t j = 0; j < n_; ++j) a += f(in[j]...);
      return a;
    } else {
#pragma omp simd reduction(+ : a, b)
      for (int64_t j = 0; j < n_; ++j) {
        const MultiReduce<A, 2> v = f(in[j]...);
        a += v.at[0];
        b += v.at[1];
      }
      return MultiReduce<A, 2>{{a, b}};
    }
  }
  /// max_j f(a_j, b_j, ...); a NaN is passed over.
  template <class F, class... In>
  CBQ_FLATTEN CBQ_HD auto max(F f, In... in) const {
    using V = decltype(f(in[0]...));
    using A = typename detail::Fold<V>::Value;
    A a = -INFINITY, b = -INFINITY, c = -INFINITY;
    if constexpr (std::is_same_v<V, A>) {
#pragma omp simd reduction(max : a)
      for (int64_t j = 0; j < n_; ++j) {
        const A v = f(in[j]...);
        a = v > a ? v : a;
      }
      return a;
    } else if constexpr (detail::Fold<V>::count == 2) {
#pragma omp simd reduction(max : a, b)
      for (int64_t j = 0; j < n_; ++j) {
        const MultiReduce<A, 2> v = f(in[j]...);
        a = v.at[0] > a ? v.at[0] : a;
        b = v.at[1] > b ? v.at[1] : b;
      }
      return MultiReduce<A, 2>{{a, b}};
    } else {
#pragma omp simd reduction(max : a, b, c)
      for (int64_t j = 0; j < n_; ++j) {
        const MultiReduce<A, 3> v = f(in[j]...);
        a = v.at[0] > a ? v.at[0] : a;
        b = v.at[1] > b ? v.at[1] : b;
        c = v.at[2] > c ? v.at[2] : c;
      }
      return MultiReduce<A, 3>{{a, b, c}};
    }
  }
  /// y_j = f(a_j, b_j, ...), rounded to y's type.
  template <class Y, class F, class... In>
  CBQ_FLATTEN CBQ_HD void write(Y* y, F f, In... in) const {
#pragma omp simd
    for (int64_t j = 0; j < n_; ++j) y[j] = device_math::round_to<Y>(f(in[j]...));
  }
  /// The value of f(a_j, b_j, ...), a Stored, in the place `to`, which may be among the operands.
  template <class To, class F, class... In>
  CBQ_FLATTEN CBQ_HD void put(To& to, F f, In... in) const {
#pragma omp simd
    for (int64_t j = 0; j < n_; ++j) to.set(j, f(in[j]...).value[0]);
  }
  /// Both values in two places.
  template <class To, class Other, class F, class... In>
  CBQ_FLATTEN CBQ_HD void put2(To& to, Other& other, F f, In... in) const {
#pragma omp simd
    for (int64_t j = 0; j < n_; ++j) {
      const auto v = f(in[j]...);
      other.set(j, v.value[1]);
      to.set(j, v.value[0]);
    }
  }
  /// put(), and the sum of the terms.
  template <class To, class F, class... In>
  CBQ_FLATTEN CBQ_HD auto put_sum(To& to, F f, In... in) const {
    decltype(f(in[0]...).term) s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t j = 0; j < n_; ++j) {
      const auto v = f(in[j]...);
      to.set(j, v.value[0]);
      s += v.term;
    }
    return s;
  }
  /// put2(), and the sum of the terms.
  template <class To, class Other, class F, class... In>
  CBQ_FLATTEN CBQ_HD auto put_sum2(To& to, Other& other, F f, In... in) const {
    decltype(f(in[0]...).term) s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t j = 0; j < n_; ++j) {
      const auto v = f(in[j]...);
      other.set(j, v.value[1]);
      to.set(j, v.value[0]);
      s += v.term;
    }
    return s;
  }

 private:
  int64_t n_;
};

}  // namespace cbq
