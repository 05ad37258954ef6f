// References of kernels/reduce.
#pragma once

#include "tests/reference/array.h"

namespace cbq::reference {

inline Array sum(const Array& x) {
  Array y({1});
  for (double value : x.values) y(0) += value;
  return y;
}

inline Array sum_of_squares(const Array& x) {
  Array y({1});
  for (double value : x.values) y(0) += value * value;
  return y;
}

inline Array mean(const Array& x) {
  Array y = sum(x);
  y(0) /= static_cast<double>(x.count());
  return y;
}

inline Array column_sums(const Array& x) {
  Array y({x.width()});
  for (int64_t r = 0; r < x.rows(); ++r) {
    for (int64_t j = 0; j < x.width(); ++j) y(j) += x(r, j);
  }
  return y;
}

inline Arrays min_max_rows(const Array& x) {
  Array low({x.rows()}), high({x.rows()});
  for (int64_t r = 0; r < x.rows(); ++r) {
    low(r) = high(r) = x(r, 0);
    for (int64_t j = 1; j < x.width(); ++j) {
      low(r) = std::fmin(low(r), x(r, j));
      high(r) = std::fmax(high(r), x(r, j));
    }
  }
  return {low, high};
}

inline Array abs_max_columns(const Array& x) {
  Array y({x.width()});
  for (int64_t r = 0; r < x.rows(); ++r) {
    for (int64_t j = 0; j < x.width(); ++j) y(j) = std::fmax(y(j), std::fabs(x(r, j)));
  }
  return y;
}

}  // namespace cbq::reference
