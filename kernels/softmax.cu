// Softmax and cross entropy: rows that are read once (launch.h).
#include "kernels/formulas/softmax.h"
#include "kernels/launch/check_device.h"
#include "kernels/launch/launch.h"
#include "kernels/launch/rows.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

using Formula = formulas::Softmax<formulas::NativeMath>;

template <class T>
struct Softmax {
  using Element = T;
  const T* x;
  T* y;
  int64_t n;
  bool vectorizes() const { return aligned(x, y); }
  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    using A = acc_t<T>;
    T* out = y + r * n;
    const auto in = row.read(x + r * n);
    const A largest = Formula::largest(row, in);
    const auto power = [largest](A x_j) { return Formula::power(x_j, largest); };
    const auto powers = row.keep_sum(out, power, in);
    const A inverse = A(1) / powers.sum;
    row.write(
        out, [inverse](A e) { return Formula::value(e, inverse); }, powers.values);
  }
};

template <class T>
struct SoftmaxBackward {
  using Element = T;
  const T* y;
  const T* dy;
  T* dx;
  int64_t n;
  bool vectorizes() const { return aligned(y, dy, dx); }
  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    using A = acc_t<T>;
    const auto p = row.read(y + r * n), g = row.read(dy + r * n);
    const A dot = row.sum([](A p_j, A g_j) { return p_j * g_j; }, p, g);
    row.write(
        dx + r * n, [dot](A p_j, A g_j) { return Formula::gradient(p_j, g_j, dot); }, p, g);
  }
};

template <class T>
struct CrossEntropy {
  using Element = T;
  const T* logits;
  const int32_t* target;
  acc_t<T>* nll;
  int64_t n;
  bool vectorizes() const { return aligned(logits); }
  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    using A = acc_t<T>;
    const auto in = row.read(logits + r * n);
    const A largest = Formula::largest(row, in);
    // In f64: most of a large vocabulary's terms are so small that an f32 sum loses them one by one
    // (1.5e-5 of the loss for 49,152 of them).
    const double total =
        row.sum([largest](A x_j) { return static_cast<double>(Formula::power(x_j, largest)); }, in);
    if (row.first()) {
      nll[r] = A(formulas::CrossEntropy::value(total, static_cast<double>(largest),
                                               static_cast<double>(A(logits[r * n + target[r]]))));
    }
  }
};

template <class T>
struct CrossEntropyBackward {
  using Element = T;
  const T* logits;
  const int32_t* target;
  const acc_t<T>* dnll;
  T* dlogits;
  int64_t n;
  bool vectorizes() const { return aligned(logits, dlogits); }
  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    using A = acc_t<T>;
    T* out = dlogits + r * n;
    const auto in = row.read(logits + r * n);
    const A largest = Formula::largest(row, in);
    const auto power = [largest](A x_j) { return Formula::power(x_j, largest); };
    const auto powers = row.keep_sum(out, power, in);
    const A inverse = A(1) / powers.sum, d = dnll[r];
    const int64_t t = target[r];
    const auto derivative = [=](A e, int64_t j) {
      return formulas::CrossEntropy::gradient(Formula::value(e, inverse), j == t, d);
    };
    row.write(out, derivative, powers.values, row.index());
  }
};

void check_targets(const char* op, const Tensor& logits, const Tensor& target) {
  check(logits.rank() == 2 && target.dtype() == Dtype::i32 && target.rank() == 1 &&
            target.size(0) == logits.size(0),
        op, ": logits ", logits.shape(), " need i32 targets [rows], got ", target.dtype(),
        target.shape());
  check_device(op, "target", target, logits.device());
  if (!is_host(target.device())) return;  // the model checks ids before they travel
  const int32_t* ids = target.data<int32_t>();
  for (int64_t r = 0; r < target.count(); ++r) {
    check(ids[r] >= 0 && ids[r] < logits.size(1), op, ": target ", ids[r], " at row ", r,
          " is outside the ", logits.size(1), " classes");
  }
}

}  // namespace

Tensor softmax(const Tensor& x) {
  const auto [rows, n] = row_shape("softmax", x);
  Tensor y(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), "softmax", [&]<class T>() {
    map_rows("softmax", x.device(), rows, n, Softmax<T>{x.data<T>(), y.data<T>(), n});
  });
  return y;
}

Tensor softmax_backward(const Tensor& y, const Tensor& dy) {
  check_same("softmax_backward", y, dy);
  const auto [rows, n] = row_shape("softmax_backward", y);
  Tensor dx(y.shape(), y.dtype(), y.device());
  dispatch_float(y.dtype(), "softmax_backward", [&]<class T>() {
    map_rows("softmax_backward", y.device(), rows, n,
             SoftmaxBackward<T>{y.data<T>(), dy.data<T>(), dx.data<T>(), n});
  });
  return dx;
}

Tensor cross_entropy(const Tensor& logits, const Tensor& target) {
  check_targets("cross_entropy", logits, target);
  const int64_t rows = logits.size(0), n = logits.size(1);
  Tensor nll({rows}, accumulation_dtype(logits.dtype()), logits.device());
  dispatch_float(logits.dtype(), "cross_entropy", [&]<class T>() {
    map_rows("cross_entropy", logits.device(), rows, n,
             CrossEntropy<T>{logits.data<T>(), target.data<int32_t>(), nll.data<acc_t<T>>(), n});
  });
  return nll;
}

Tensor cross_entropy_backward(const Tensor& logits, const Tensor& target, const Tensor& dnll) {
  constexpr const char* op = "cross_entropy_backward";
  check_targets(op, logits, target);
  check_shape(op, "gradient", dnll, {logits.size(0)});
  check(dnll.dtype() == accumulation_dtype(logits.dtype()), op, ": logits are ", logits.dtype(),
        ", gradient is ", dnll.dtype());
  check_device(op, "gradient", dnll, logits.device());
  Tensor dlogits(logits.shape(), logits.dtype(), logits.device());
  dispatch_float(logits.dtype(), op, [&]<class T>() {
    map_rows(op, logits.device(), logits.size(0), logits.size(1),
             CrossEntropyBackward<T>{logits.data<T>(), target.data<int32_t>(),
                                     dnll.data<acc_t<T>>(), dlogits.data<T>(), logits.size(1)});
  });
  return dlogits;
}

}  // namespace cbq::kernels
