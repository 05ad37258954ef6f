// The only place that knows how a functor becomes a loop (CPU) or a grid (CUDA). Which launcher to
// take:
//
//   the work                       launcher       the functor
//   ----------------------------   ------------   -----------------------------------------
//   one element at a time          map            f(i)
//     eights of a half type          and          f.vector(i), f.vectorizes()
//   rows: sums, maxima             map_rows       f(row, r); Row& row: one worker of the row
//     rows read as a whole           and          F::Element, f.vectorizes(); const Row& row
//   a CUDA kernel of its own,      launch_blocks  f(), F::threads, F::resident_blocks
//     beside a reference kernel      (tuned.h)
//
// Functors are small named structs with a `CBQ_HD void operator()`.
//
// A worker's row: worker `row.lane()` of `row.lanes()` takes the elements lane, lane + lanes, ...,
// and row.sum(x) / row.max(x) combine one value per worker and give the result to all. On the CPU a
// row has one worker, so the functor *is* the textbook loop; on CUDA a thread block shares the row,
// and the combination runs in a fixed order (warp shuffles, no float atomics), so results repeat.
//
// A whole row: it reads and writes its n elements itself, and the functor says what becomes of one:
//
//   const auto x_r = row.read(x + r * n);
//   const A squares = row.sum([](A a) { return a * a; }, x_r);               // sum_j x_j^2
//   row.write(y + r * n, [=](A a, A b) { return a * s * b; }, x_r, row.uncached(w));  // x_j s w_j
//
// On the CPU read() gives a pointer, and sum, max and write are the textbook loops, vectorized. On
// CUDA a thread loads 16 bytes of F::Element at a time and keeps them in registers, so that several
// passes over a row ask memory once; a row too long for the registers of a block is read again, and
// one that does not begin at multiples of 16 bytes, which f.vectorizes() says, is read element by
// element. What all rows share (weights) is uncached: no register keeps it, and it is read where it
// is used. All sums run in a fixed order. What a row can do: launch_rows_cpu.h.
//
// Files that call these are named .cu: nvcc compiles them for both devices, and without CUDA the
// host compiler takes them as plain C++.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/launch/device_grid.h"
#include "kernels/launch/launch_rows_cpu.h"
#include "kernels/launch/launch_rows_cuda.h"
#include "kernels/launch/vector.h"
#include "tensor/runtime/cpu_recording.h"
#include "tensor/runtime/device_multiprocessors.h"
#include "tensor/runtime/device_profile.h"

namespace cbq {

namespace detail {

// Below this many elements a parallel region costs more than it saves.
constexpr int64_t parallel_threshold = 16384;

template <class F>
constexpr bool has_vectors = requires(const F& f, int64_t i) {
  f.vector(i);
  f.vectorizes();
};
template <class F>
constexpr bool takes_whole_rows = requires(const F& f) {
  typename F::Element;
  f.vectorizes();
};

/// f(i) for every i in [0, n) on the CPU.
template <class F>
struct ElementLoop {
  const char* op;
  int64_t n;
  F f;
  void operator()() const {
    const OpTimer timer(op, Device::cpu());
#pragma omp parallel if (n >= parallel_threshold)
    {
      // This copy of the functor is private to a thread, so its members cannot alias what it
      // writes, and `simd` states what map() means anyway: the calls are independent. Both let the
      // loop vectorize.
      const F local = f;
#pragma omp for simd schedule(static)
      for (int64_t i = 0; i < n; ++i) local(i);
    }
  }
};

/// f(row, r) for every r in [0, rows) on the CPU.
template <class F>
struct RowLoop {
  const char* op;
  int64_t rows, width;
  F f;
  void operator()() const {
    const OpTimer timer(op, Device::cpu());
#pragma omp parallel if (rows > 1 && rows * width >= parallel_threshold)
    {
      const F local = f;
#pragma omp for schedule(static)
      for (int64_t r = 0; r < rows; ++r) {
        if constexpr (takes_whole_rows<F>) {
          local(SerialElements(width), r);
        } else {
          SerialRow row;
          local(row, r);
        }
      }
    }
  }
};

/// Runs or records what is left to the CPU.
template <class Loop>
void on_the_cpu(Device device, const Loop& loop) {
  if (device.is_cuda()) fail(loop.op, ": this binary was built without CUDA");
  run_or_record(loop);
}

#ifdef CBQ_KERNELS
template <class F>
void launch_elements(const char* op, Device device, int64_t n, const F& f) {
  const OpTimer timer(op, device);
  const int block = 256;
  const int64_t grid =
      std::min<int64_t>((n + block - 1) / block, multiprocessor_count(device) * 64);
  CBQ_LAUNCH(map_kernel, grid, block, 0, n, f);
  after_launch(device, op);
}

template <class F>
void launch_rows(const char* op, Device device, int64_t rows, int64_t width, const F& f) {
  const OpTimer timer(op, device);
  if constexpr (takes_whole_rows<F>) {
    using T = typename F::Element;
    launch_row_elements<T>(device,
                           row_launch(width, static_cast<int>(16 / sizeof(T)), f.vectorizes()),
                           rows, width, f);
  } else {
    // A worker takes at least four elements; whole warps, because row.sum shuffles in warps.
    int block = 32;
    while (block < 512 && block * 4 < width) block *= 2;
    const int64_t grid = std::min<int64_t>(rows, multiprocessor_count(device) * 32);
    CBQ_LAUNCH(map_rows_kernel, grid, block, 0, rows, f);
  }
  after_launch(device, op);
}
#endif

}  // namespace detail

/// f(i) for every i in [0, n). Where f has vectors and all operands are aligned, a thread of CUDA
/// takes eight neighbours as f.vector(i).
template <class F>
void map(const char* op, Device device, int64_t n, const F& f) {
  if (n == 0) return;
#ifdef CBQ_KERNELS
  if (runs_on_grid(device)) {
    if constexpr (detail::has_vectors<F>) {
      if (f.vectorizes()) {
        const int64_t vectors = (n + vector_width - 1) / vector_width;
        return detail::launch_elements(op, device, vectors, VectorMap<F>{f, n});
      }
    }
    return detail::launch_elements(op, device, n, f);
  }
#endif
  detail::on_the_cpu(device, detail::ElementLoop<F>{op, n, f});
}

/// f(row, r) for every r in [0, rows). `width` is the length of a row: of a whole row exactly (its
/// elements are f's `Element`s); of a worker's row it only decides how many workers share it and
/// whether threads pay.
template <class F>
void map_rows(const char* op, Device device, int64_t rows, int64_t width, const F& f) {
  if (rows == 0) return;
#ifdef CBQ_KERNELS
  if (runs_on_grid(device)) return detail::launch_rows(op, device, rows, width, f);
#endif
  detail::on_the_cpu(device, detail::RowLoop<F>{op, rows, width, f});
}

}  // namespace cbq
