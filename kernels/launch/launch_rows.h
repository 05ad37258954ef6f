// Rows whose elements are read once.
//
//   map_row_elements<T>(op, device, rows, n, f)    calls f(row, r) for every r in [0, rows)
//
// like map_rows (launch.h), but the row reads and writes its n elements itself, and the functor
// says what becomes of one:
//
//   const auto x_r = row.read(x + r * n);
//   const A squares = row.sum([](A a) { return a * a; }, x_r);               // sum_j x_j^2
//   row.write(y + r * n, [=](A a, A b) { return a * s * b; }, x_r, row.view(w));  // x_j s w_j
//
// On the CPU read() gives a pointer, and sum, max and write are the textbook loops, vectorized. On
// CUDA a thread loads 16 bytes of T at a time and keeps them in registers, so that several passes
// over a row ask memory once; a row too long for the registers of a block is read again, and one
// that does not begin at multiples of 16 bytes, which F::vectorizes() says, is read element by
// element. What all rows share (weights) is viewed: it comes from the cache when it is used. All
// sums run in a fixed order.
#pragma once

#include <type_traits>

#include "kernels/launch/launch_rows_cpu.h"
#include "kernels/launch/launch_rows_cuda.h"

namespace cbq {

namespace detail {
/// f as a functor of map_rows, on the CPU.
template <class F>
struct SerialElementsOf {
  F f;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row&, int64_t r) const {
    if constexpr (std::is_same_v<Row, SerialRow>) f(SerialElements(n), r);
  }
};
}  // namespace detail

/// F has `bool vectorizes() const`: whether all rows that it reads or writes are `aligned`
/// (pack.h).
template <class T, class F>
void map_row_elements(const char* op, Device device, int64_t rows, int64_t n, const F& f) {
#ifdef CBQ_KERNELS
  if (runs_on_grid(device)) {
    if (rows == 0) return;
    const OpTimer timer(op, device);
    launch_row_elements<T>(row_launch(n, static_cast<int>(16 / sizeof(T)), f.vectorizes()), rows, n,
                           f);
    after_launch(device, op);
    return;
  }
#endif
  map_rows(op, device, rows, n, detail::SerialElementsOf<F>{f, n});
}

}  // namespace cbq
