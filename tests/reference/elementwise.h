// References of kernels/elementwise.
#pragma once

#include "tests/reference/array.h"

namespace cbq::reference {

template <class F>
Array zip(const Array& a, const Array& b, F f) {
  Array y(a.shape);
  for (int64_t i = 0; i < y.count(); ++i) y(i) = f(a(i), b(i));
  return y;
}

template <class F>
Array zip_row(const Array& x, const Array& row, F f) {
  Array y(x.shape);
  for (int64_t r = 0; r < x.rows(); ++r) {
    for (int64_t j = 0; j < x.width(); ++j) y(r, j) = f(x(r, j), row(j));
  }
  return y;
}

inline Array add(const Array& a, const Array& b) {
  return zip(a, b, [](double u, double v) { return u + v; });
}
inline Array sub(const Array& a, const Array& b) {
  return zip(a, b, [](double u, double v) { return u - v; });
}
inline Array mul(const Array& a, const Array& b) {
  return zip(a, b, [](double u, double v) { return u * v; });
}
inline Array div(const Array& a, const Array& b) {
  return zip(a, b, [](double u, double v) { return u / v; });
}
/// row_i x_ij column_j.
inline Array rescale(const Array& x, const Array& row, const Array& column) {
  Array y(x.shape);
  for (int64_t r = 0; r < x.size(0); ++r) {
    for (int64_t j = 0; j < x.size(1); ++j) y(r, j) = row(r) * x(r, j) * column(j);
  }
  return y;
}
/// {d row, d column} of rescale.
inline Arrays rescale_backward(const Array& x, const Array& row, const Array& column,
                               const Array& dy) {
  Array d_row({x.size(0)}), d_column({x.size(1)});
  for (int64_t r = 0; r < x.size(0); ++r) {
    for (int64_t j = 0; j < x.size(1); ++j) {
      d_row(r) += dy(r, j) * x(r, j) * column(j);
      d_column(j) += dy(r, j) * x(r, j) * row(r);
    }
  }
  return {d_row, d_column};
}
inline Array add_row(const Array& x, const Array& b) {
  return zip_row(x, b, [](double u, double v) { return u + v; });
}
inline Array mul_row(const Array& x, const Array& s) {
  return zip_row(x, s, [](double u, double v) { return u * v; });
}
inline Array scale(const Array& x, double c) {
  return zip(x, x, [c](double u, double) { return c * u; });
}
inline Array constant(const Array& like, double value) {
  return zip(like, like, [value](double, double) { return value; });
}
inline Array swiglu(const Array& gate, const Array& up) {
  return zip(gate, up, [](double g, double u) { return g / (1.0 + std::exp(-g)) * u; });
}

/// d(g sigmoid(g)) / dg written out with e = e^-g: (1 + e + g e) / (1 + e)^2.
inline Arrays swiglu_backward(const Array& gate, const Array& up, const Array& dy) {
  Array dgate(gate.shape), dup(gate.shape);
  for (int64_t i = 0; i < gate.count(); ++i) {
    const double g = gate(i), e = std::exp(-g);
    dup(i) = dy(i) * g / (1.0 + e);
    dgate(i) = dy(i) * up(i) * (1.0 + e + g * e) / ((1.0 + e) * (1.0 + e));
  }
  return {dgate, dup};
}

inline Array relu(const Array& x) {
  return zip(x, x, [](double v, double) { return std::fmax(v, 0.0); });
}
inline Array relu_backward(const Array& y, const Array& dy) {
  return zip(y, dy, [](double v, double d) { return v > 0.0 ? d : 0.0; });
}

/// tanh(sqrt(2/pi) (x + 0.044715 x^3)).
inline double gelu_tanh(double x) {
  return std::tanh(std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x));
}
inline Array gelu(const Array& x) {
  return zip(x, x, [](double v, double) { return 0.5 * v * (1.0 + gelu_tanh(v)); });
}
/// d tanh z / dx = (1 - tanh^2 z) dz/dx.
inline Array gelu_backward(const Array& x, const Array& dy) {
  return zip(x, dy, [](double v, double d) {
    const double t = gelu_tanh(v);
    const double dz = std::sqrt(2.0 / std::acos(-1.0)) * (1.0 + 3.0 * 0.044715 * v * v);
    return d * (0.5 * (1.0 + t) + 0.5 * v * (1.0 - t * t) * dz);
  });
}

/// The normal distribution and its density.
inline double normal_share(double x) { return 0.5 * (1.0 + std::erf(x / std::sqrt(2.0))); }
inline double normal_density(double x) {
  return std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::acos(-1.0));
}
inline Array exact_gelu(const Array& x) {
  return zip(x, x, [](double v, double) { return v * normal_share(v); });
}
inline Array exact_gelu_backward(const Array& x, const Array& dy) {
  return zip(x, dy,
             [](double v, double d) { return d * (normal_share(v) + v * normal_density(v)); });
}

/// c tanh(x / c), and its gradient as a function of y.
inline Array soft_cap(const Array& x, double c) {
  return zip(x, x, [c](double v, double) { return c * std::tanh(v / c); });
}
inline Array soft_cap_backward(const Array& y, const Array& dy, double c) {
  return zip(y, dy, [c](double v, double d) { return d * (1.0 - v * v / (c * c)); });
}

}  // namespace cbq::reference
