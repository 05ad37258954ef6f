// References of norms, softmax, cross entropy and the reconstruction error. Backward passes are
// written as full Jacobian products where that is affordable, not in the simplified form the
// kernels use.
#pragma once

#include "kernels/ops.h"
#include "tests/reference/array.h"

namespace cbq::reference {

/// {y, inverse_rms}.
inline Arrays rms_norm(const Array& x, const Array& w, double eps) {
  Array y(x.shape), inverse({x.rows()});
  for (int64_t r = 0; r < x.rows(); ++r) {
    double squares = 0.0;
    for (int64_t j = 0; j < x.width(); ++j) squares += x(r, j) * x(r, j);
    inverse(r) = 1.0 / std::sqrt(squares / static_cast<double>(x.width()) + eps);
    for (int64_t j = 0; j < x.width(); ++j) y(r, j) = x(r, j) * inverse(r) * w(j);
  }
  return {y, inverse};
}

/// {dx, dw}: dy_i / dx_j = w_i (inv [i = j] - x_i x_j inv^3 / n).
inline Arrays rms_norm_backward(const Array& x, const Array& w, const Array& inverse,
                                const Array& dy) {
  const int64_t n = x.width();
  Array dx(x.shape), dw({n});
  for (int64_t r = 0; r < x.rows(); ++r) {
    const double inv = inverse(r);
    for (int64_t i = 0; i < n; ++i) {
      dw(i) += dy(r, i) * x(r, i) * inv;
      for (int64_t j = 0; j < n; ++j) {
        const double off = -x(r, i) * x(r, j) * inv * inv * inv / static_cast<double>(n);
        dx(r, j) += dy(r, i) * w(i) * (off + (i == j ? inv : 0.0));
      }
    }
  }
  return {dx, dw};
}

/// {y, mean, inverse deviation}; `w` and `b` null: ones and zeros.
inline Arrays layer_norm(const Array& x, const Array* w, const Array* b, double eps) {
  Array y(x.shape), mean({x.rows()}), inverse({x.rows()});
  const double n = static_cast<double>(x.width());
  for (int64_t r = 0; r < x.rows(); ++r) {
    double variance = 0.0;
    for (int64_t j = 0; j < x.width(); ++j) mean(r) += x(r, j) / n;
    for (int64_t j = 0; j < x.width(); ++j) variance += std::pow(x(r, j) - mean(r), 2.0) / n;
    inverse(r) = 1.0 / std::sqrt(variance + eps);
    for (int64_t j = 0; j < x.width(); ++j) {
      const double normalized = (x(r, j) - mean(r)) * inverse(r);
      y(r, j) = w != nullptr ? normalized * (*w)(j) + (*b)(j) : normalized;
    }
  }
  return {y, mean, inverse};
}

/// {dx, dw}: dy_i / dx_j = w_i inv ([i = j] - 1/n - x^_i x^_j / n), x^ = (x - mean) inv.
inline Arrays layer_norm_backward(const Array& x, const Array* w, const Array& mean,
                                  const Array& inverse, const Array& dy) {
  Array dx(x.shape), dw({x.width()});
  const double n = static_cast<double>(x.width());
  for (int64_t r = 0; r < x.rows(); ++r) {
    const auto normalized = [&](int64_t j) { return (x(r, j) - mean(r)) * inverse(r); };
    for (int64_t i = 0; i < x.width(); ++i) {
      dw(i) += dy(r, i) * normalized(i);
      const double through = dy(r, i) * (w != nullptr ? (*w)(i) : 1.0) * inverse(r);
      for (int64_t j = 0; j < x.width(); ++j) {
        dx(r, j) += through * ((i == j ? 1.0 : 0.0) - (1.0 + normalized(i) * normalized(j)) / n);
      }
    }
  }
  return {dx, dw};
}

inline Array softmax(const Array& x) {
  Array y(x.shape);
  for (int64_t r = 0; r < x.rows(); ++r) {
    double largest = -INFINITY, total = 0.0;
    for (int64_t j = 0; j < x.width(); ++j) largest = std::fmax(largest, x(r, j));
    for (int64_t j = 0; j < x.width(); ++j) total += std::exp(x(r, j) - largest);
    for (int64_t j = 0; j < x.width(); ++j) y(r, j) = std::exp(x(r, j) - largest) / total;
  }
  return y;
}

/// dx_j = sum_i dy_i (y_i [i = j] - y_i y_j).
inline Array softmax_backward(const Array& y, const Array& dy) {
  Array dx(y.shape);
  for (int64_t r = 0; r < y.rows(); ++r) {
    for (int64_t j = 0; j < y.width(); ++j) {
      double total = 0.0;
      for (int64_t i = 0; i < y.width(); ++i) {
        total += dy(r, i) * y(r, i) * ((i == j ? 1.0 : 0.0) - y(r, j));
      }
      dx(r, j) = total;
    }
  }
  return dx;
}

/// log sum_j e^(x_j) of row r.
inline double log_sum_exp(const Array& x, int64_t r) {
  double largest = -INFINITY, total = 0.0;
  for (int64_t j = 0; j < x.width(); ++j) largest = std::fmax(largest, x(r, j));
  for (int64_t j = 0; j < x.width(); ++j) total += std::exp(x(r, j) - largest);
  return largest + std::log(total);
}

inline Array cross_entropy(const Array& logits, const Array& target) {
  Array nll({logits.size(0)});
  for (int64_t r = 0; r < logits.rows(); ++r) {
    nll(r) = log_sum_exp(logits, r) - logits(r, static_cast<int64_t>(target(r)));
  }
  return nll;
}

inline Array cross_entropy_backward(const Array& logits, const Array& target, const Array& dnll) {
  Array d(logits.shape);
  for (int64_t r = 0; r < logits.rows(); ++r) {
    for (int64_t j = 0; j < logits.width(); ++j) {
      const double p = std::exp(logits(r, j) - log_sum_exp(logits, r));
      d(r, j) = dnll(r) * (p - (j == static_cast<int64_t>(target(r)) ? 1.0 : 0.0));
    }
  }
  return d;
}

/// {kl, agrees} of kernels::divergence.
inline Arrays divergence(const Array& logits, const Array& reference) {
  Array kl({logits.rows()}), agrees({logits.rows()});
  for (int64_t r = 0; r < logits.rows(); ++r) {
    const double zp = log_sum_exp(logits, r), zt = log_sum_exp(reference, r);
    double best_p = logits(r, 0), best_t = reference(r, 0);
    for (int64_t j = 0; j < logits.width(); ++j) {
      const double log_q = logits(r, j) - zp, log_y = reference(r, j) - zt;
      kl(r) += std::exp(log_y) * (log_y - log_q);
      best_p = std::max(best_p, logits(r, j));
      best_t = std::max(best_t, reference(r, j));
    }
    for (int64_t j = 0; j < logits.width(); ++j) {
      if (logits(r, j) == best_p && reference(r, j) == best_t) agrees(r) = 1.0;
    }
  }
  return {kl, agrees};
}

/// {loss, d sum(loss) / dp} of kernels::row_error.
inline Arrays row_error(const Array& p, const Array& t, double l2, kernels::L2Form form,
                        double kl) {
  const bool norm = form == kernels::L2Form::norm;
  Array loss({p.rows()}), gradient(p.shape);
  for (int64_t r = 0; r < p.rows(); ++r) {
    const double zp = log_sum_exp(p, r), zt = log_sum_exp(t, r);
    double squares = 0.0, divergence = 0.0, size = 0.0;
    for (int64_t j = 0; j < p.width(); ++j) {
      const double d = p(r, j) - t(r, j), log_q = p(r, j) - zp, log_y = t(r, j) - zt;
      squares += d * d;
      size += t(r, j) * t(r, j);
      divergence += std::exp(log_y) * (log_y - log_q);
      gradient(r, j) = kl * (std::exp(log_q) - std::exp(log_y));
    }
    const bool relative = form == kernels::L2Form::relative;
    const double weight =
        l2 * (relative ? (size > 0.0 ? static_cast<double>(p.width()) / size : 0.0) : 1.0);
    loss(r) = weight * (norm ? std::sqrt(squares) : squares) + kl * divergence;
    for (int64_t j = 0; j < p.width(); ++j) {
      const double d = p(r, j) - t(r, j);
      const double direction = squares > 0.0 ? d / std::sqrt(squares) : 0.0;
      gradient(r, j) += weight * (norm ? direction : 2.0 * d);
    }
  }
  return {loss, gradient};
}

}  // namespace cbq::reference
