// The whole rows of launch.h on CUDA: the threads of a block hold vectors of 16 bytes.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/formulas/multi_reduce.h"
#include "kernels/launch/device_grid.h"
#include "kernels/launch/vector.h"
#include "tensor/runtime/device_multiprocessors.h"

namespace cbq {

/// Vectors of a row in the registers of a thread: the more, the less often are addresses, sums over
/// the block and the row's own numbers computed per element.
constexpr int kept_vectors = 4;

/// How a block shares a row: in vectors of `width` elements, `vectors` of which each of its
/// `threads` keeps in registers; vectors = 0: as many as there are, read again for every pass.
struct RowLaunch {
  int width, vectors, threads;
};
/// A block keeps rows of up to 4096 vectors. Unmeasured.
inline RowLaunch row_launch(int64_t n, int width, bool vectors) {
  const auto threads = [](int64_t workers, int64_t most) {
    return static_cast<int>((std::min(workers, most) + 31) / 32 * 32);
  };
  if (!vectors || n % width != 0) return {1, 0, threads((n + 3) / 4, 512)};
  const int64_t count = n / width;
  if (count > kept_vectors * 1024) return {width, 0, 512};
  return {width, kept_vectors, threads((count + kept_vectors - 1) / kept_vectors, 1024)};
}

#ifdef CBQ_KERNELS

/// Operands on CUDA: values(k, i) are the thread's k-th vector, which is vector i of the row.
template <class U, int width, int vectors>
struct KeptOperand {
  using Element = U;
  device_math::Words<Vector<U, width>> at[vectors];
  __device__ Vector<U, width> values(int k, int64_t) const { return at[k].get(); }
  __device__ void store(int k, int64_t, const Vector<U, width>& x) { at[k].set(x); }
};
template <class U, int width>
struct UncachedOperand {
  const U* p;
  __device__ Vector<U, width> values(int, int64_t i) const {
    return load_vector<width>(p + i * width);
  }
};
template <class U, int width>
struct MemoryPlace {
  using Element = U;
  U* p;
  __device__ Vector<U, width> values(int, int64_t i) const {
    return load_vector<width>(static_cast<const U*>(p) + i * width);
  }
  __device__ void store(int, int64_t i, const Vector<U, width>& x) {
    store_vector(p + i * width, x);
  }
};
template <class U, int width>
struct OptionalOperand {
  const U* p;  // or null
  acc_t<U> otherwise;
  __device__ Vector<U, width> values(int, int64_t i) const {
    if (p != nullptr) return load_vector<width>(p + i * width);
    Vector<U, width> filled;
    CBQ_UNROLL
    for (int j = 0; j < width; ++j) filled.x[j] = device_math::round_to<U>(otherwise);
    return filled;
  }
};
template <class A, int width, class F, class In>
struct ComputedOperand {
  F f;
  In in;
  __device__ Vector<A, width> values(int k, int64_t i) const {
    const auto x = in.values(k, i);
    Vector<A, width> y;
    CBQ_UNROLL
    for (int j = 0; j < width; ++j) y.x[j] = f(x[j]);
    return y;
  }
};
template <int width>
struct IndexOperand {
  struct Values {
    int64_t first;
    __device__ int64_t operator[](int j) const { return first + j; }
  };
  __device__ Values values(int, int64_t i) const { return {i * width}; }
};

/// A row on CUDA: the threads of a block take vectors in turn.
template <int width, int vectors>
class BlockElements {
 public:
  static constexpr int most_threads = vectors > 0 ? 1024 : 512;
  static constexpr bool on_grid = true;

  __device__ explicit BlockElements(int64_t n) : count_(n / width) {}

  __device__ bool first() const { return threadIdx.x == 0; }

  template <class U>
  __device__ auto read(const U* p) const {
    if constexpr (vectors == 0) {
      return uncached(p);
    } else {
      return keep_values<U>(uncached(p));
    }
  }
  template <class U>
  __device__ UncachedOperand<U, width> uncached(const U* p) const {
    return {p};
  }
  template <class U>
  __device__ OptionalOperand<U, width> uncached_or(const U* p, acc_t<U> otherwise) const {
    return {p, otherwise};
  }
  __device__ IndexOperand<width> index() const { return {}; }

  template <class F, class In>
  __device__ auto keep(F f, const In& x) const {
    using A = decltype(f(x.values(0, 0)[0]));
    const ComputedOperand<A, width, F, In> computed{f, x};
    // Wider than the elements themselves, several of them would not find room.
    if constexpr (vectors > 0 && vectors * width * sizeof(A) <= 64) {
      return keep_values<A>(computed);
    } else {
      return computed;
    }
  }
  template <class T, class F, class In>
  __device__ auto keep_sum(T* room, F f, const In& x) const {
    using A = acc_t<T>;
    const ComputedOperand<A, width, F, In> computed{f, x};
    if constexpr (vectors > 0) {
      return summed<A>(keep_values<A>(computed));
    } else if constexpr (std::is_same_v<T, A>) {
      write(room, f, x);  // every thread finds its own elements there again
      return summed<A>(uncached(static_cast<const T*>(room)));
    } else {
      return summed<A>(computed);
    }
  }

  template <class T>
  __device__ MemoryPlace<T, width> memory(T* p) const {
    return {p};
  }
  template <class T>
  __device__ auto place([[maybe_unused]] T* p) const {
    if constexpr (vectors > 0) {
      return KeptOperand<T, width, vectors>{};
    } else {
      return memory(p);
    }
  }
  template <class T, class F, class Ends, class... In>
  __device__ auto keep_max(T* room, F f, Ends ends, const In&... in) const {
    using A = acc_t<T>;
    auto y = place(room);
    each([&](int k, int64_t i) { y.store(k, i, rounded<T>(f, in.values(k, i)...)); });
    return Ranged<decltype(y), A>{y, max(ends, y)};
  }

  template <class F, class... In>
  __device__ auto sum(F f, const In&... in) const {
    using Folded = detail::Fold<decltype(f(in.values(0, 0)[0]...))>;
    using A = typename Folded::Value;
    A all[Folded::count] = {};
    each_element(
        [&](const auto& v) {
          CBQ_UNROLL
          for (int i = 0; i < Folded::count; ++i) all[i] += Folded::get(v, i);
        },
        f, in...);
    CBQ_UNROLL
    for (int i = 0; i < Folded::count; ++i) all[i] = BlockRow::sum(all[i]);
    return Folded::result(all);
  }
  template <class F, class... In>
  __device__ auto max(F f, const In&... in) const {
    using Folded = detail::Fold<decltype(f(in.values(0, 0)[0]...))>;
    using A = typename Folded::Value;
    A all[Folded::count];
    for (A& one : all) one = A(-INFINITY);
    each_element(
        [&](const auto& v) {
          CBQ_UNROLL
          for (int i = 0; i < Folded::count; ++i) {
            all[i] = Folded::get(v, i) > all[i] ? Folded::get(v, i) : all[i];
          }
        },
        f, in...);
    CBQ_UNROLL
    for (int i = 0; i < Folded::count; ++i) all[i] = BlockRow::max(all[i]);
    return Folded::result(all);
  }
  template <class Y, class F, class... In>
  __device__ void write(Y* y, F f, const In&... in) const {
    each([&](int k, int64_t i) { store_vector(y + i * width, rounded<Y>(f, in.values(k, i)...)); });
  }
  template <class To, class F, class... In>
  __device__ void put(To& to, F f, const In&... in) const {
    each([&](int k, int64_t i) { put_vector(k, i, f, to, in.values(k, i)...); });
  }
  template <class To, class Other, class F, class... In>
  __device__ void put2(To& to, Other& other, F f, const In&... in) const {
    each([&](int k, int64_t i) { put_vectors(k, i, f, to, other, in.values(k, i)...); });
  }
  template <class To, class F, class... In>
  __device__ auto put_sum(To& to, F f, const In&... in) const {
    decltype(f(in.values(0, 0)[0]...).term) all = 0;
    each([&](int k, int64_t i) { all += put_vector(k, i, f, to, in.values(k, i)...); });
    return BlockRow::sum(all);
  }
  template <class To, class Other, class F, class... In>
  __device__ auto put_sum2(To& to, Other& other, F f, const In&... in) const {
    decltype(f(in.values(0, 0)[0]...).term) all = 0;
    each([&](int k, int64_t i) { all += put_vectors(k, i, f, to, other, in.values(k, i)...); });
    return BlockRow::sum(all);
  }

 private:
  /// visit(k, i) for the thread's vectors, the k-th of which is vector i of the row.
  template <class Visit>
  __device__ void each(const Visit& visit) const {
    if constexpr (vectors == 0) {
      for (int64_t i = threadIdx.x; i < count_; i += blockDim.x) visit(0, i);
    } else {
      CBQ_UNROLL
      for (int k = 0; k < vectors; ++k) {
        const int64_t i = threadIdx.x + k * blockDim.x;
        if (i < count_) visit(k, i);
      }
    }
  }
  /// take(f(a_j, b_j, ...)) for the thread's elements.
  template <class Take, class F, class... In>
  __device__ void each_element(const Take& take, F f, const In&... in) const {
    each([&](int k, int64_t i) { take_vector(take, f, in.values(k, i)...); });
  }
  template <class Take, class F, class... Values>
  __device__ static void take_vector(const Take& take, F f, const Values&... values) {
    CBQ_UNROLL
    for (int j = 0; j < width; ++j) take(f(values[j]...));
  }
  template <class Y, class F, class... Values>
  __device__ static Vector<Y, width> rounded(F f, const Values&... values) {
    acc_t<Y> y[width];
    CBQ_UNROLL
    for (int j = 0; j < width; ++j) y[j] = f(values[j]...);
    return round_vector<Y>(y);
  }
  /// Stores a vector in one place, or in two; the sum of its terms.
  template <class F, class To, class... Values>
  __device__ static auto put_vector(int k, int64_t i, F f, To& to, const Values&... values) {
    using T = typename To::Element;
    acc_t<T> y[width], sum = 0;
    CBQ_UNROLL
    for (int j = 0; j < width; ++j) {
      const auto v = f(values[j]...);
      y[j] = v.value[0];
      sum += v.term;
    }
    to.store(k, i, round_vector<T>(y));
    return sum;
  }
  template <class F, class To, class Other, class... Values>
  __device__ static auto put_vectors(int k, int64_t i, F f, To& to, Other& other,
                                     const Values&... values) {
    using T = typename To::Element;
    acc_t<T> y[width], z[width], sum = 0;
    CBQ_UNROLL
    for (int j = 0; j < width; ++j) {
      const auto v = f(values[j]...);
      y[j] = v.value[0];
      z[j] = v.value[1];
      sum += v.term;
    }
    to.store(k, i, round_vector<T>(y));
    other.store(k, i, round_vector<T>(z));
    return sum;
  }
  template <class A, class Values>
  __device__ Summed<Values, A> summed(const Values& values) const {
    return {values, sum([](A value) { return value; }, values)};
  }
  template <class U, class In>
  __device__ KeptOperand<U, width, vectors> keep_values(const In& in) const {
    KeptOperand<U, width, vectors> kept;
    each([&](int k, int64_t i) { kept.at[k].set(in.values(k, i)); });
    return kept;
  }

  int64_t count_;
};

template <int width, int vectors, class F>
__global__ void __launch_bounds__(BlockElements<width, vectors>::most_threads)
    row_elements_kernel(int64_t rows, int64_t n, F f) {
  const BlockElements<width, vectors> row(n);
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) f(row, r);
}

template <class T, class F>
void launch_row_elements(Device device, const RowLaunch& share, int64_t rows, int64_t n,
                         const F& f) {
  constexpr int width = static_cast<int>(16 / sizeof(T));
  const int64_t grid = std::min<int64_t>(rows, multiprocessor_count(device) * 32);
  if (share.width == 1) {
    CBQ_LAUNCH((row_elements_kernel<1, 0, F>), grid, share.threads, 0, rows, n, f);
  } else if (share.vectors > 0) {
    CBQ_LAUNCH((row_elements_kernel<width, kept_vectors, F>), grid, share.threads, 0, rows, n, f);
  } else {
    CBQ_LAUNCH((row_elements_kernel<width, 0, F>), grid, share.threads, 0, rows, n, f);
  }
}

#endif  // CBQ_KERNELS

}  // namespace cbq
