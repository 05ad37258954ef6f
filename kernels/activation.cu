// Activation functions and their derivatives, element by element.
#include "kernels/launch/vector.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

struct Relu {
  template <class A>
  CBQ_HD static A apply(A x) {
    return x < A(0) ? A(0) : x;  // NaN stays
  }
};

struct ReluBackward {
  template <class A>
  CBQ_HD static A apply(A y, A dy) {
    return y > A(0) ? dy : A(0);
  }
};

// (1 + tanh z) / 2 = sigmoid(2 z): one exponential, and no cancellation where tanh is near -1.
constexpr double gelu_slope = 0.79788456080286535588;  // sqrt(2 / pi)
constexpr double gelu_cubic = 0.044715;

struct Gelu {
  template <class A>
  CBQ_HD static A apply(A x) {
    const A z = A(2 * gelu_slope) * x * (A(1) + A(gelu_cubic) * x * x);
    return x * device_math::sigmoid(z);
  }
};

struct GeluBackward {
  template <class A>
  CBQ_HD static A apply(A x, A dy) {
    const A z = A(2 * gelu_slope) * x * (A(1) + A(gelu_cubic) * x * x);
    const A dz = A(2 * gelu_slope) * (A(1) + A(3 * gelu_cubic) * x * x);
    const A s = device_math::sigmoid(z);
    return dy * (s + x * s * (A(1) - s) * dz);
  }
};

template <class Formula>
Tensor unary(const char* op, const Tensor& x) {
  Tensor y(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), op, [&]<class T>() {
    map_vectors(op, x.device(), x.count(), Unary<T, Formula>{x.data<T>(), y.data<T>()});
  });
  return y;
}

template <class Formula>
Tensor unary_backward(const char* op, const Tensor& x, const Tensor& dy) {
  check_same(op, x, dy);
  Tensor dx(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), op, [&]<class T>() {
    map_vectors(op, x.device(), x.count(),
                Binary<T, Formula>{x.data<T>(), dy.data<T>(), dx.data<T>()});
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
