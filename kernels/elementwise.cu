// Elementwise ops: each is one functor of a flat index.
#include "kernels/launch/check_device.h"
#include "kernels/launch/launch.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

template <class T>
struct Fill {
  T* y;
  T value;
  CBQ_HD void operator()(int64_t i) const { y[i] = value; }
};

template <class From, class To>
struct Cast {
  const From* x;
  To* y;
  CBQ_HD void operator()(int64_t i) const {
    y[i] = device_math::round_to<To>(static_cast<acc_t<To>>(device_math::widen(x[i])));
  }
  CBQ_HD void vector(int64_t i) const {
    const Vector<From> in = load_vector(x + i);
    acc_t<To> out[vector_width];
    for (int j = 0; j < vector_width; ++j) {
      out[j] = static_cast<acc_t<To>>(in[j]);
    }
    store_vector(y + i, round_vector<To>(out));
  }
  bool vectorizes() const { return half_vectors(x, y); }
};

struct Plus {
  template <class A>
  CBQ_HD static A value(A a, A b) {
    return a + b;
  }
};
struct Minus {
  template <class A>
  CBQ_HD static A value(A a, A b) {
    return a - b;
  }
};
struct Times {
  template <class A>
  CBQ_HD static A value(A a, A b) {
    return a * b;
  }
};
struct Over {
  template <class A>
  CBQ_HD static A value(A a, A b) {
    return a / b;
  }
};

template <class T, class Op>
struct BinaryRow {  // one row of a with the same row b
  using Element = T;
  const T* a;
  const T* b;
  T* y;
  int64_t n;
  bool vectorizes() const { return aligned(a, b, y); }
  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    using A = acc_t<T>;
    const auto both = [](A a_j, A b_j) { return Op::value(a_j, b_j); };
    row.write(y + r * n, both, row.read(a + r * n), row.uncached(b));
  }
};

template <class T>
struct Scale {
  const T* x;
  T* y;
  acc_t<T> c;
  CBQ_HD void operator()(int64_t i) const {
    y[i] = device_math::round_to<T>(c * device_math::widen(x[i]));
  }
  CBQ_HD void vector(int64_t i) const {
    const Vector<T> in = load_vector(x + i);
    acc_t<T> out[vector_width];
    for (int j = 0; j < vector_width; ++j) out[j] = c * in[j];
    store_vector(y + i, round_vector<T>(out));
  }
  bool vectorizes() const { return half_vectors(x, y); }
};

template <class Op>
Tensor binary(const char* op, const Tensor& a, const Tensor& b) {
  check_same(op, a, b);
  Tensor y(a.shape(), a.dtype(), a.device());
  dispatch_float(a.dtype(), op, [&]<class T>() {
    map(op, a.device(), a.count(), Binary<T, Op>{a.data<T>(), b.data<T>(), y.data<T>()});
  });
  return y;
}

template <class Op>
Tensor binary_row(const char* op, const Tensor& x, const Tensor& b) {
  check(x.rank() >= 1 && b.rank() == 1 && b.size(0) == x.size(-1) && b.dtype() == x.dtype(), op,
        ": ", b.shape(), " does not fit the rows of ", x.shape());
  check_device(op, "the row", b, x.device());
  Tensor y(x.shape(), x.dtype(), x.device());
  const int64_t n = x.size(-1);
  dispatch_float(x.dtype(), op, [&]<class T>() {
    map_rows(op, x.device(), n > 0 ? x.count() / n : 0, n,
             BinaryRow<T, Op>{x.data<T>(), b.data<T>(), y.data<T>(), n});
  });
  return y;
}

}  // namespace

void fill(const Tensor& t, double value) {
  dispatch_float(t.dtype(), "fill", [&]<class T>() {
    map("fill", t.device(), t.count(), Fill<T>{t.data<T>(), T(static_cast<acc_t<T>>(value))});
  });
}

Tensor cast(const Tensor& x, Dtype dtype) {
  if (x.dtype() == dtype) return x;
  Tensor y(x.shape(), dtype, x.device());
  dispatch_float(x.dtype(), "cast", [&]<class From>() {
    dispatch_float(dtype, "cast", [&]<class To>() {
      map("cast", x.device(), x.count(), Cast<From, To>{x.data<From>(), y.data<To>()});
    });
  });
  return y;
}

Tensor add(const Tensor& a, const Tensor& b) { return binary<Plus>("add", a, b); }
Tensor sub(const Tensor& a, const Tensor& b) { return binary<Minus>("sub", a, b); }
Tensor mul(const Tensor& a, const Tensor& b) { return binary<Times>("mul", a, b); }
Tensor div(const Tensor& a, const Tensor& b) { return binary<Over>("div", a, b); }

void add_into(const Tensor& acc, const Tensor& x) {
  check_same("add_into", acc, x);
  dispatch_float(acc.dtype(), "add_into", [&]<class T>() {
    map("add_into", acc.device(), acc.count(),
        Binary<T, Plus>{acc.data<T>(), x.data<T>(), acc.data<T>()});
  });
}

Tensor scale(const Tensor& x, double c) {
  Tensor y(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), "scale", [&]<class T>() {
    map("scale", x.device(), x.count(),
        Scale<T>{x.data<T>(), y.data<T>(), static_cast<acc_t<T>>(c)});
  });
  return y;
}

Tensor add_row(const Tensor& x, const Tensor& b) { return binary_row<Plus>("add_row", x, b); }
Tensor mul_row(const Tensor& x, const Tensor& s) { return binary_row<Times>("mul_row", x, s); }

}  // namespace cbq::kernels
