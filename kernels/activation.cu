// Activation functions: each is one functor of a flat index.
#include "kernels/launch.h"
#include "kernels/math.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

template <class T>
struct Relu {
  const T* x;
  T* y;
  CBQ_HD void operator()(int64_t i) const {
    const acc_t<T> v = x[i];
    y[i] = T(v < acc_t<T>(0) ? acc_t<T>(0) : v);  // NaN stays
  }
};

template <class T>
struct ReluBackward {
  const T* y;
  const T* dy;
  T* dx;
  CBQ_HD void operator()(int64_t i) const {
    dx[i] = T(acc_t<T>(y[i]) > acc_t<T>(0) ? acc_t<T>(dy[i]) : acc_t<T>(0));
  }
};

// (1 + tanh z) / 2 = sigmoid(2 z): one exponential, and no cancellation where tanh is near -1.
constexpr double gelu_slope = 0.79788456080286535588;  // sqrt(2 / pi)
constexpr double gelu_cubic = 0.044715;

template <class T>
struct Gelu {
  const T* x;
  T* y;
  CBQ_HD void operator()(int64_t i) const {
    using A = acc_t<T>;
    const A v = x[i];
    const A z = A(2 * gelu_slope) * v * (A(1) + A(gelu_cubic) * v * v);
    y[i] = T(v * math::sigmoid(z));
  }
};

template <class T>
struct GeluBackward {
  const T* x;
  const T* dy;
  T* dx;
  CBQ_HD void operator()(int64_t i) const {
    using A = acc_t<T>;
    const A v = x[i];
    const A z = A(2 * gelu_slope) * v * (A(1) + A(gelu_cubic) * v * v);
    const A dz = A(2 * gelu_slope) * (A(1) + A(3 * gelu_cubic) * v * v);
    const A s = math::sigmoid(z);
    dx[i] = T(A(dy[i]) * (s + v * s * (A(1) - s) * dz));
  }
};

template <template <class> class F>
Tensor unary(const char* op, const Tensor& x) {
  Tensor y(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), op, [&]<class T>() {
    map(op, x.device(), x.count(), F<T>{x.data<T>(), y.data<T>()});
  });
  return y;
}

template <template <class> class F>
Tensor unary_backward(const char* op, const Tensor& x, const Tensor& dy) {
  check_same(op, x, dy);
  Tensor dx(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), op, [&]<class T>() {
    map(op, x.device(), x.count(), F<T>{x.data<T>(), dy.data<T>(), dx.data<T>()});
  });
  return dx;
}

}  // namespace

Tensor relu(const Tensor& x) { return unary<Relu>("relu", x); }
Tensor relu_backward(const Tensor& y, const Tensor& dy) {
  return unary_backward<ReluBackward>("relu_backward", y, dy);
}
Tensor gelu(const Tensor& x) { return unary<Gelu>("gelu", x); }
Tensor gelu_backward(const Tensor& x, const Tensor& dy) {
  return unary_backward<GeluBackward>("gelu_backward", x, dy);
}

}  // namespace cbq::kernels
