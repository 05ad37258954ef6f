// Activation functions and their derivatives, element by element (kernels/formulas/activation.h).
#include "kernels/formulas/activation.h"
#include "kernels/launch/launch.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

using formulas::ExactGelu;
using formulas::NativeMath;
using formulas::Relu;
using formulas::SoftCap;
using Gelu = formulas::Gelu<NativeMath>;
using SwiGlu = formulas::SwiGlu<NativeMath>;

/// The derivative of a formula of one element as a formula of two.
template <class Formula>
struct Gradient {
  Formula f = {};
  template <class A>
  CBQ_HD A value(A x, A g) const {
    return f.gradient(x, g);
  }
};

template <class Formula>
Tensor unary(const char* op, const Tensor& x, Formula f = {}) {
  Tensor y(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), op, [&]<class T>() {
    map(op, x.device(), x.count(), Unary<T, Formula>{x.data<T>(), y.data<T>(), f});
  });
  return y;
}

template <class Formula>
Tensor binary(const char* op, const Tensor& a, const Tensor& b, Formula f = {}) {
  check_same(op, a, b);
  Tensor y(a.shape(), a.dtype(), a.device());
  dispatch_float(a.dtype(), op, [&]<class T>() {
    map(op, a.device(), a.count(), Binary<T, Formula>{a.data<T>(), b.data<T>(), y.data<T>(), f});
  });
  return y;
}

template <class Formula>
std::pair<Tensor, Tensor> binary_backward(const char* op, const Tensor& a, const Tensor& b,
                                          const Tensor& dy) {
  check_same(op, a, b);
  check_same(op, a, dy);
  Tensor da(a.shape(), a.dtype(), a.device()), db(a.shape(), a.dtype(), a.device());
  dispatch_float(a.dtype(), op, [&]<class T>() {
    map(op, a.device(), a.count(),
        BinaryGradient<T, Formula>{a.data<T>(), b.data<T>(), dy.data<T>(), da.data<T>(),
                                   db.data<T>()});
  });
  return {da, db};
}

void check_cap(const char* op, double c) {
  check(c > 0 && std::isfinite(c), op, ": a cap must be positive and finite, got ", c);
}

}  // namespace

Tensor relu(const Tensor& x) { return unary<Relu>("relu", x); }
Tensor relu_backward(const Tensor& y, const Tensor& dy) {
  return binary<Gradient<Relu>>("relu_backward", y, dy);
}
Tensor gelu(const Tensor& x) { return unary<Gelu>("gelu", x); }
Tensor gelu_backward(const Tensor& x, const Tensor& dy) {
  return binary<Gradient<Gelu>>("gelu_backward", x, dy);
}
Tensor exact_gelu(const Tensor& x) { return unary<ExactGelu>("exact_gelu", x); }
Tensor exact_gelu_backward(const Tensor& x, const Tensor& dy) {
  return binary<Gradient<ExactGelu>>("exact_gelu_backward", x, dy);
}
Tensor soft_cap(const Tensor& x, double c) {
  check_cap("soft_cap", c);
  return unary("soft_cap", x, SoftCap{c});
}
Tensor soft_cap_backward(const Tensor& y, const Tensor& dy, double c) {
  check_cap("soft_cap_backward", c);
  return binary("soft_cap_backward", y, dy, Gradient<SoftCap>{{c}});
}
Tensor swiglu(const Tensor& gate, const Tensor& up) { return binary<SwiGlu>("swiglu", gate, up); }
std::pair<Tensor, Tensor> swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& dy) {
  return binary_backward<SwiGlu>("swiglu_backward", gate, up, dy);
}

}  // namespace cbq::kernels
