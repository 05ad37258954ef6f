// References of the matrix products, and of attention from first principles.
#pragma once

#include "tests/reference/array.h"

namespace cbq::reference {

/// alpha op(a) op(b) + beta c for the last two axes; a leading axis is a batch.
inline Array gemm(const Array& a, bool ta, const Array& b, bool tb, const Array* c, double alpha,
                  double beta) {
  const int64_t m = a.size(ta ? -1 : -2), k = a.size(ta ? -2 : -1), n = b.size(tb ? -2 : -1);
  const int64_t batch = a.shape.size() == 3 ? a.size(0) : 1;
  Array y(a.shape.size() == 3 ? std::vector<int64_t>{batch, m, n} : std::vector<int64_t>{m, n});
  for (int64_t i = 0; i < batch; ++i) {
    for (int64_t row = 0; row < m; ++row) {
      for (int64_t column = 0; column < n; ++column) {
        double total = 0.0;
        for (int64_t l = 0; l < k; ++l) {
          const double u = a(i * m * k + (ta ? l * m + row : row * k + l));
          const double v = b(i * k * n + (tb ? column * k + l : l * n + column));
          total += u * v;
        }
        const int64_t at = (i * m + row) * n + column;
        y(at) = alpha * total + (c != nullptr ? beta * (*c)(at) : 0.0);
      }
    }
  }
  return y;
}
inline Array matmul(const Array& a, bool ta, const Array& b, bool tb, double alpha = 1.0) {
  return gemm(a, ta, b, tb, nullptr, alpha, 0.0);
}

/// Causal attention with grouped queries, one query at a time. `slopes`: ALiBi, by the distance of
/// query and key.
inline Array attention(const Array& q, const Array& k, const Array& v, int64_t batch, int64_t heads,
                       int64_t kv_heads, const Array* slopes = nullptr) {
  const int64_t tokens = q.size(0) / batch, dim = q.size(1) / heads;
  Array o(q.shape);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t g = h / (heads / kv_heads);
      for (int64_t t = 0; t < tokens; ++t) {
        std::vector<double> weight;
        double total = 0.0;
        for (int64_t u = 0; u <= t; ++u) {
          double score = 0.0;
          for (int64_t j = 0; j < dim; ++j) {
            score += q(b * tokens + t, h * dim + j) * k(b * tokens + u, g * dim + j);
          }
          score /= std::sqrt(static_cast<double>(dim));
          if (slopes != nullptr) score -= (*slopes)(h) * static_cast<double>(t - u);
          weight.push_back(std::exp(score));
          total += weight.back();
        }
        for (int64_t u = 0; u <= t; ++u) {
          for (int64_t j = 0; j < dim; ++j) {
            o(b * tokens + t, h * dim + j) +=
                weight[static_cast<size_t>(u)] / total * v(b * tokens + u, g * dim + j);
          }
        }
      }
    }
  }
  return o;
}

}  // namespace cbq::reference
