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

/// The scores of query t of head h: with every key up to t. `slopes`: ALiBi, by position of the
/// key; `cap`: c tanh(s / c), or 0.
inline std::vector<double> attention_scores(const Array& q, const Array& k, int64_t batch,
                                            int64_t heads, int64_t kv_heads, const Array* slopes,
                                            double cap, int64_t b, int64_t h, int64_t t) {
  const int64_t tokens = q.size(0) / batch, dim = q.size(1) / heads, g = h / (heads / kv_heads);
  std::vector<double> scores;
  for (int64_t u = 0; u <= t; ++u) {
    double score = 0.0;
    for (int64_t j = 0; j < dim; ++j) {
      score += q(b * tokens + t, h * dim + j) * k(b * tokens + u, g * dim + j);
    }
    score /= std::sqrt(static_cast<double>(dim));
    if (cap > 0.0) score = cap * std::tanh(score / cap);
    if (slopes != nullptr) score += (*slopes)(h) * static_cast<double>(u);
    scores.push_back(score);
  }
  return scores;
}
inline double log_sum_exp(const std::vector<double>& x) {
  double total = 0.0;
  for (double value : x) total += std::exp(value);
  return std::log(total);
}

/// {o, log_sum}: causal attention with grouped queries, one query at a time.
inline Arrays attention(const Array& q, const Array& k, const Array& v, int64_t batch,
                        int64_t heads, int64_t kv_heads, const Array* slopes = nullptr,
                        double cap = 0.0) {
  const int64_t tokens = q.size(0) / batch, dim = q.size(1) / heads;
  Array o(q.shape), log_sum({batch * heads, tokens});
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t g = h / (heads / kv_heads);
      for (int64_t t = 0; t < tokens; ++t) {
        const std::vector<double> scores =
            attention_scores(q, k, batch, heads, kv_heads, slopes, cap, b, h, t);
        log_sum(b * heads + h, t) = log_sum_exp(scores);
        for (int64_t u = 0; u <= t; ++u) {
          const double p = std::exp(scores[static_cast<size_t>(u)] - log_sum(b * heads + h, t));
          for (int64_t j = 0; j < dim; ++j) {
            o(b * tokens + t, h * dim + j) += p * v(b * tokens + u, g * dim + j);
          }
        }
      }
    }
  }
  return {o, log_sum};
}

/// {dq, dk, dv} for the output gradient d_o: the softmax by its full Jacobian, p_u (1_uw - p_w).
inline Arrays attention_backward(const Array& q, const Array& k, const Array& v, const Array& d_o,
                                 int64_t batch, int64_t heads, int64_t kv_heads,
                                 const Array* slopes = nullptr, double cap = 0.0) {
  const int64_t tokens = q.size(0) / batch, dim = q.size(1) / heads;
  const double factor = 1.0 / std::sqrt(static_cast<double>(dim));
  Array dq(q.shape), dk(k.shape), dv(v.shape);
  for (int64_t row = 0; row < batch * heads * tokens; ++row) {
    const int64_t b = row / tokens / heads, h = row / tokens % heads, t = row % tokens;
    const int64_t g = h / (heads / kv_heads), at = b * tokens + t;
    const std::vector<double> s =
        attention_scores(q, k, batch, heads, kv_heads, slopes, cap, b, h, t);
    const double log_sum = log_sum_exp(s);
    std::vector<double> p = s, dp;
    for (int64_t u = 0; u <= t; ++u) {
      const auto i = static_cast<size_t>(u);
      p[i] = std::exp(p[i] - log_sum);
      dp.push_back(0.0);
      for (int64_t j = 0; j < dim; ++j) {
        dp[i] += d_o(at, h * dim + j) * v(b * tokens + u, g * dim + j);
        dv(b * tokens + u, g * dim + j) += p[i] * d_o(at, h * dim + j);
      }
    }
    for (int64_t u = 0; u <= t; ++u) {
      double ds = 0.0;
      for (int64_t w = 0; w <= t; ++w) {
        const auto i = static_cast<size_t>(u), l = static_cast<size_t>(w);
        ds += p[i] * ((u == w ? 1.0 : 0.0) - p[l]) * dp[l];
      }
      if (cap > 0.0) {  // by the score before the cap, with the derivative 1 / cosh^2
        double raw = 0.0;
        for (int64_t j = 0; j < dim; ++j) {
          raw += factor * q(at, h * dim + j) * k(b * tokens + u, g * dim + j);
        }
        ds /= std::cosh(raw / cap) * std::cosh(raw / cap);
      }
      for (int64_t j = 0; j < dim; ++j) {
        dq(at, h * dim + j) += factor * ds * k(b * tokens + u, g * dim + j);
        dk(b * tokens + u, g * dim + j) += factor * ds * q(at, h * dim + j);
      }
    }
  }
  return {dq, dk, dv};
}

}  // namespace cbq::reference
