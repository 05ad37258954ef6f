// Elementwise ops: each is one functor of a flat index.
#include "kernels/launch.h"
#include "kernels/math.h"
#include "kernels/ops.h"
#include "kernels/pack.h"

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
    y[i] = static_cast<To>(static_cast<acc_t<From>>(x[i]));
  }
  CBQ_HD void pack(int64_t i) const {
    const Pack<From> in = load_pack(x + i);
    Pack<To> out;
    for (int64_t j = 0; j < pack_width; ++j) Cast{in.at, out.at}(j);
    store_pack(y + i, out);
  }
  bool packs() const { return half_packs(x, y); }
};

struct Plus {
  template <class A>
  CBQ_HD static A apply(A a, A b) {
    return a + b;
  }
};
struct Minus {
  template <class A>
  CBQ_HD static A apply(A a, A b) {
    return a - b;
  }
};
struct Times {
  template <class A>
  CBQ_HD static A apply(A a, A b) {
    return a * b;
  }
};

template <class T, class Op>
struct Binary {
  const T* a;
  const T* b;
  T* y;
  CBQ_HD void operator()(int64_t i) const { y[i] = T(Op::apply(acc_t<T>(a[i]), acc_t<T>(b[i]))); }
  CBQ_HD void pack(int64_t i) const {
    const Pack<T> u = load_pack(a + i), v = load_pack(b + i);
    Pack<T> out;
    for (int64_t j = 0; j < pack_width; ++j) Binary{u.at, v.at, out.at}(j);
    store_pack(y + i, out);
  }
  bool packs() const { return half_packs(a, b, y); }
};

template <class T, class Op>
struct BinaryRow {  // one row of a with the same row b
  const T* a;
  const T* b;
  T* y;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const T* in = a + r * n;
    T* out = y + r * n;
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      out[j] = T(Op::apply(acc_t<T>(in[j]), acc_t<T>(b[j])));
    }
  }
};

template <class T>
struct Scale {
  const T* x;
  T* y;
  acc_t<T> c;
  CBQ_HD void operator()(int64_t i) const { y[i] = T(c * acc_t<T>(x[i])); }
  CBQ_HD void pack(int64_t i) const {
    const Pack<T> in = load_pack(x + i);
    Pack<T> out;
    for (int64_t j = 0; j < pack_width; ++j) Scale{in.at, out.at, c}(j);
    store_pack(y + i, out);
  }
  bool packs() const { return half_packs(x, y); }
};

template <class T>
struct SwiGlu {
  const T* gate;
  const T* up;
  T* y;
  CBQ_HD void operator()(int64_t i) const {
    const acc_t<T> g = gate[i];
    y[i] = T(g * math::sigmoid(g) * acc_t<T>(up[i]));
  }
  CBQ_HD void pack(int64_t i) const {
    const Pack<T> g = load_pack(gate + i), u = load_pack(up + i);
    Pack<T> out;
    for (int64_t j = 0; j < pack_width; ++j) SwiGlu{g.at, u.at, out.at}(j);
    store_pack(y + i, out);
  }
  bool packs() const { return half_packs(gate, up, y); }
};

template <class T>
struct SwiGluBackward {
  const T* gate;
  const T* up;
  const T* dy;
  T* dgate;
  T* dup;
  CBQ_HD void operator()(int64_t i) const {
    const acc_t<T> g = gate[i], d = dy[i], u = up[i];
    const acc_t<T> s = math::sigmoid(g);
    dup[i] = T(d * g * s);
    dgate[i] = T(d * u * s * (acc_t<T>(1) + g * (acc_t<T>(1) - s)));
  }
  CBQ_HD void pack(int64_t i) const {
    const Pack<T> g = load_pack(gate + i), u = load_pack(up + i), d = load_pack(dy + i);
    Pack<T> dg, du;
    for (int64_t j = 0; j < pack_width; ++j) {
      SwiGluBackward{g.at, u.at, d.at, dg.at, du.at}(j);
    }
    store_pack(dgate + i, dg);
    store_pack(dup + i, du);
  }
  bool packs() const { return half_packs(gate, up, dy, dgate, dup); }
};

template <class Op>
Tensor binary(const char* op, const Tensor& a, const Tensor& b) {
  check_same(op, a, b);
  Tensor y(a.shape(), a.dtype(), a.device());
  dispatch_float(a.dtype(), op, [&]<class T>() {
    map_packs(op, a.device(), a.count(), Binary<T, Op>{a.data<T>(), b.data<T>(), y.data<T>()});
  });
  return y;
}

template <class Op>
Tensor binary_row(const char* op, const Tensor& x, const Tensor& b) {
  check(x.rank() >= 1 && b.rank() == 1 && b.size(0) == x.size(-1) && b.dtype() == x.dtype(), op,
        ": ", to_string(b.shape()), " does not fit the rows of ", to_string(x.shape()));
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
      map_packs("cast", x.device(), x.count(), Cast<From, To>{x.data<From>(), y.data<To>()});
    });
  });
  return y;
}

Tensor add(const Tensor& a, const Tensor& b) { return binary<Plus>("add", a, b); }
Tensor sub(const Tensor& a, const Tensor& b) { return binary<Minus>("sub", a, b); }
Tensor mul(const Tensor& a, const Tensor& b) { return binary<Times>("mul", a, b); }

void add_into(const Tensor& acc, const Tensor& x) {
  check_same("add_into", acc, x);
  dispatch_float(acc.dtype(), "add_into", [&]<class T>() {
    map_packs("add_into", acc.device(), acc.count(),
              Binary<T, Plus>{acc.data<T>(), x.data<T>(), acc.data<T>()});
  });
}

Tensor scale(const Tensor& x, double c) {
  Tensor y(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), "scale", [&]<class T>() {
    map_packs("scale", x.device(), x.count(),
              Scale<T>{x.data<T>(), y.data<T>(), static_cast<acc_t<T>>(c)});
  });
  return y;
}

Tensor add_row(const Tensor& x, const Tensor& b) { return binary_row<Plus>("add_row", x, b); }
Tensor mul_row(const Tensor& x, const Tensor& s) { return binary_row<Times>("mul_row", x, s); }

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  check_same("swiglu", gate, up);
  Tensor y(gate.shape(), gate.dtype(), gate.device());
  dispatch_float(gate.dtype(), "swiglu", [&]<class T>() {
    map_packs("swiglu", gate.device(), gate.count(),
              SwiGlu<T>{gate.data<T>(), up.data<T>(), y.data<T>()});
  });
  return y;
}

std::pair<Tensor, Tensor> swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& dy) {
  check_same("swiglu_backward", gate, up);
  check_same("swiglu_backward", gate, dy);
  Tensor dgate(gate.shape(), gate.dtype(), gate.device());
  Tensor dup(gate.shape(), gate.dtype(), gate.device());
  dispatch_float(gate.dtype(), "swiglu_backward", [&]<class T>() {
    map_packs("swiglu_backward", gate.device(), gate.count(),
              SwiGluBackward<T>{gate.data<T>(), up.data<T>(), dy.data<T>(), dgate.data<T>(),
                                dup.data<T>()});
  });
  return {dgate, dup};
}

}  // namespace cbq::kernels
