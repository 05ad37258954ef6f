// References of kernels/copy: ops that move data.
#pragma once

#include "tests/reference/array.h"

namespace cbq::reference {

/// [rows, groups, parts, dim] -> [rows, groups, dim] at `part`, all but rows flattened.
inline Array take_part(const Array& x, int64_t parts, int64_t part, int64_t dim) {
  const int64_t groups = x.size(1) / (parts * dim);
  Array y({x.size(0), groups * dim});
  for (int64_t r = 0; r < x.size(0); ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t j = 0; j < dim; ++j) y(r, g * dim + j) = x(r, (g * parts + part) * dim + j);
    }
  }
  return y;
}
inline Array put_part(const Array& y, int64_t parts, int64_t part, int64_t dim) {
  const int64_t groups = y.size(1) / dim;
  Array x({y.size(0), groups * parts * dim});
  for (int64_t r = 0; r < y.size(0); ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t j = 0; j < dim; ++j) x(r, (g * parts + part) * dim + j) = y(r, g * dim + j);
    }
  }
  return x;
}

inline Array take_columns(const Array& x, int64_t first, int64_t count) {
  Array y({x.size(0), count});
  for (int64_t r = 0; r < x.size(0); ++r) {
    for (int64_t j = 0; j < count; ++j) y(r, j) = x(r, first + j);
  }
  return y;
}
inline Array put_columns(const Array& y, int64_t first, int64_t width) {
  Array x({y.size(0), width});
  for (int64_t r = 0; r < y.size(0); ++r) {
    for (int64_t j = 0; j < y.size(1); ++j) x(r, first + j) = y(r, j);
  }
  return x;
}

inline Array transpose(const Array& x) {
  Array y({x.size(1), x.size(0)});
  for (int64_t i = 0; i < x.size(0); ++i) {
    for (int64_t j = 0; j < x.size(1); ++j) y(j, i) = x(i, j);
  }
  return y;
}

/// (H (x) S) x / sqrt(n) of every row, H `matrix` [order, order] or its transpose, S_ij =
/// (-1)^(ones of i & j).
inline Array hadamard(const Array& x, const Array& matrix, bool transposed) {
  const int64_t n = x.width(), p = n / matrix.width();
  Array y(x.shape);
  for (int64_t r = 0; r < x.rows(); ++r) {
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0.0;
      for (int64_t j = 0; j < n; ++j) {
        int sign = 1;
        for (int64_t both = (i % p) & (j % p); both > 0; both /= 2)
          sign = both % 2 == 1 ? -sign : sign;
        sum += sign * (transposed ? matrix(j / p, i / p) : matrix(i / p, j / p)) * x(r, j);
      }
      y(r, i) = sum / std::sqrt(static_cast<double>(n));
    }
  }
  return y;
}

inline Array embedding(const Array& ids, const Array& table) {
  Array y({ids.count(), table.width()});
  for (int64_t t = 0; t < ids.count(); ++t) {
    for (int64_t j = 0; j < table.width(); ++j) y(t, j) = table(static_cast<int64_t>(ids(t)), j);
  }
  return y;
}

inline Array embedding_backward(const Array& ids, const Array& dy, int64_t vocabulary) {
  Array d({vocabulary, dy.width()});
  for (int64_t t = 0; t < ids.count(); ++t) {
    for (int64_t j = 0; j < dy.width(); ++j) d(static_cast<int64_t>(ids(t)), j) += dy(t, j);
  }
  return d;
}

inline Array gather_rows(const Array& x, const std::vector<int64_t>& indices) {
  std::vector<int64_t> shape = x.shape;
  shape[0] = static_cast<int64_t>(indices.size());
  Array y(shape);
  const int64_t row = x.size(0) > 0 ? x.count() / x.size(0) : 0;
  for (size_t r = 0; r < indices.size(); ++r) {
    for (int64_t j = 0; j < row; ++j)
      y(static_cast<int64_t>(r) * row + j) = x(indices[r] * row + j);
  }
  return y;
}

/// Rotates the pairs (x_j, x_{j + dim/2}) of every head by the angle of (token, j).
inline Array rope(const Array& x, const Array& cosine, const Array& sine, int64_t tokens,
                  int64_t dim, bool inverse) {
  Array y = x;
  const int64_t half = cosine.width();
  for (int64_t r = 0; r < x.size(0); ++r) {
    for (int64_t h = 0; h < x.width() / dim; ++h) {
      for (int64_t j = 0; j < half; ++j) {
        const double c = cosine(r % tokens, j), s = sine(r % tokens, j) * (inverse ? -1.0 : 1.0);
        const double a = x(r, h * dim + j), b = x(r, h * dim + half + j);
        y(r, h * dim + j) = a * c - b * s;
        y(r, h * dim + half + j) = a * s + b * c;
      }
    }
  }
  return y;
}

}  // namespace cbq::reference
