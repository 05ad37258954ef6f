#include "autograd/functions.h"

namespace cbq::ag {

using kernels::Trans;

namespace {
/// The value of x if the vjp reads it, else an undefined tensor. A closure keeps all that it
/// captures in memory, so it captures no value that it does not read.
Tensor kept(const Var& x, bool read) { return read ? x.value() : Tensor(); }
}  // namespace

Var add(const Var& a, const Var& b) {
  return differentiable(kernels::add(a.value(), b.value()), {&a, &b},
                        [a = a.gradient(), b = b.gradient()](const Tensor& dy) {
                          // Nobody reads dy later, so one input may keep it without a copy.
                          if (a.wanted() && b.wanted()) a.accumulate_copy(dy);
                          if (b.wanted()) {
                            b.accumulate(dy);
                          } else if (a.wanted()) {
                            a.accumulate(dy);
                          }
                        });
}

Var add_row(const Var& x, const Var& b) {
  return differentiable(kernels::add_row(x.value(), b.value()), {&x, &b},
                        [x = x.gradient(), b = b.gradient()](const Tensor& dy) {
                          if (b.wanted()) b.accumulate(kernels::column_sums(dy));
                          if (x.wanted()) x.accumulate(dy);
                        });
}

Var rescale(const Var& x, const Var& row, const Var& column) {
  const auto value_of = [](const Var& v) { return v.defined() ? v.value() : Tensor(); };
  const Tensor r = value_of(row), c = value_of(column);
  return differentiable(
      kernels::rescale(x.value(), r, c), {&x, &row, &column},
      [x, r, c, row = row.gradient(), column = column.gradient()](const Tensor& dy) {
        const kernels::RescaleGradient d =
            kernels::rescale_backward(x.value(), r, c, dy, row.wanted(), column.wanted());
        if (row.wanted()) row.accumulate(d.row);
        if (column.wanted()) column.accumulate(d.column);
        if (x.requires_grad()) x.accumulate(kernels::rescale(dy, r, c));
      });
}

// dy/da = 1 / b, dy/db = -y / b.
Var div(const Var& a, const Var& b) {
  const Tensor y = kernels::div(a.value(), b.value());
  return differentiable(y, {&a, &b},
                        [a = a.gradient(), b = b.gradient(), y = b.requires_grad() ? y : Tensor(),
                         divisor = b.value()](const Tensor& dy) {
                          const Tensor da = kernels::div(dy, divisor);
                          if (b.wanted()) b.accumulate(kernels::scale(kernels::mul(da, y), -1.0));
                          if (a.wanted()) a.accumulate(da);
                        });
}

Var cast(const Var& x, Dtype dtype) {
  if (x.dtype() == dtype) return x;
  return differentiable(kernels::cast(x.value(), dtype), {&x},
                        [x = x.gradient(), from = x.dtype()](const Tensor& dy) {
                          x.accumulate(kernels::cast(dy, from));
                        });
}

Var reshape(const Var& x, Shape shape) {
  return differentiable(
      x.value().reshape(std::move(shape)), {&x},
      [x = x.gradient()](const Tensor& dy) { x.accumulate(dy.reshape(x.shape())); });
}

namespace {
/// Adds op(a) op(b) to v's gradient. If there is a gradient already, the product adds to it itself.
void accumulate_product(const Gradient& v, const Tensor& a, Trans ta, const Tensor& b, Trans tb) {
  if (v.sum().defined()) {
    kernels::gemm(a, ta, b, tb, v.sum(), 1.0, 1.0);
  } else {
    v.accumulate(kernels::matmul(a, ta, b, tb));
  }
}
}  // namespace

// y = A B with A = op(a), B = op(b): dA = dy B^T, dB = A^T dy. Where op transposes a, da = dA^T.
Var matmul(const Var& a, Trans ta, const Var& b, Trans tb) {
  const Tensor left = kept(a, b.requires_grad()), right = kept(b, a.requires_grad());
  return differentiable(
      kernels::matmul(a.value(), ta, b.value(), tb), {&a, &b},
      [a = a.gradient(), ta, b = b.gradient(), tb, left, right](const Tensor& dy) {
        const Trans not_ta = ta == Trans::yes ? Trans::no : Trans::yes;
        const Trans not_tb = tb == Trans::yes ? Trans::no : Trans::yes;
        if (a.wanted()) {
          ta == Trans::no ? accumulate_product(a, dy, Trans::no, right, not_tb)
                          : accumulate_product(a, right, tb, dy, Trans::yes);
        }
        if (b.wanted()) {
          tb == Trans::no ? accumulate_product(b, left, not_ta, dy, Trans::no)
                          : accumulate_product(b, dy, Trans::yes, left, ta);
        }
      });
}

Var linear(const Var& x, const Var& w, const Var& b) {
  check(x.shape().size() == 2 && w.shape().size() == 2 && x.size(1) == w.size(1) &&
            (!b.defined() || b.shape() == Shape{w.size(0)}),
        "linear: x ", x.shape(), ", w ", w.shape(), ", b ",
        [&] { return b.defined() ? to_string(b.shape()) : "undefined"; });
  const Var y = matmul(x, Trans::no, w, Trans::yes);
  return b.defined() ? add_row(y, b) : y;
}

Var rms_norm(const Var& x, const Var& w, double eps) {
  const kernels::RmsNormResult norm = kernels::rms_norm(x.value(), w.value(), eps);
  return differentiable(norm.y, {&x, &w}, [x, w, inverse = norm.inverse_rms](const Tensor& dy) {
    auto [dx, dw] =
        kernels::rms_norm_backward(x.value(), w.value(), inverse, dy, w.requires_grad());
    if (x.requires_grad()) x.accumulate(dx);
    if (w.requires_grad()) w.accumulate(dw);
  });
}

Var layer_norm(const Var& x, const Var& w, const Var& b, double eps) {
  const Tensor weight = w.defined() ? w.value() : Tensor();
  const Tensor bias = b.defined() ? b.value() : Tensor();
  const kernels::LayerNormResult norm = kernels::layer_norm(x.value(), weight, bias, eps);
  return differentiable(norm.y, {&x, &w, &b},
                        [x, w = w.gradient(), b = b.gradient(), weight, mean = norm.mean,
                         inverse = norm.inverse_deviation](const Tensor& dy) {
                          auto [dx, dw] = kernels::layer_norm_backward(x.value(), weight, mean,
                                                                       inverse, dy, w.wanted());
                          if (x.requires_grad()) x.accumulate(dx);
                          if (w.wanted()) w.accumulate(dw);
                          if (b.wanted()) b.accumulate(kernels::column_sums(dy));
                        });
}

Var swiglu(const Var& gate, const Var& up) {
  return differentiable(
      kernels::swiglu(gate.value(), up.value()), {&gate, &up}, [gate, up](const Tensor& dy) {
        auto [dgate, dup] = kernels::swiglu_backward(gate.value(), up.value(), dy);
        if (gate.requires_grad()) gate.accumulate(dgate);
        if (up.requires_grad()) up.accumulate(dup);
      });
}

Var relu(const Var& x) {
  const Tensor y = kernels::relu(x.value());
  return differentiable(y, {&x}, [x = x.gradient(), y](const Tensor& dy) {
    x.accumulate(kernels::relu_backward(y, dy));
  });
}

Var gelu(const Var& x) {
  return differentiable(kernels::gelu(x.value()), {&x}, [x](const Tensor& dy) {
    x.accumulate(kernels::gelu_backward(x.value(), dy));
  });
}

Var exact_gelu(const Var& x) {
  return differentiable(kernels::exact_gelu(x.value()), {&x}, [x](const Tensor& dy) {
    x.accumulate(kernels::exact_gelu_backward(x.value(), dy));
  });
}

Var soft_cap(const Var& x, double c) {
  const Tensor y = kernels::soft_cap(x.value(), c);
  return differentiable(y, {&x}, [x = x.gradient(), y, c](const Tensor& dy) {
    x.accumulate(kernels::soft_cap_backward(y, dy, c));
  });
}

Var rope(const Var& x, const Tensor& cosine, const Tensor& sine, int64_t tokens, int64_t dim) {
  return differentiable(kernels::rope(x.value(), cosine, sine, tokens, dim, false), {&x},
                        [x = x.gradient(), cosine, sine, tokens, dim](const Tensor& dy) {
                          x.accumulate(kernels::rope(dy, cosine, sine, tokens, dim, true));
                        });
}

// The matrix is orthogonal, so its vjp is its transpose.
Var hadamard(const Var& x, const Tensor& matrix, bool transposed) {
  return differentiable(kernels::hadamard(x.value(), matrix, transposed), {&x},
                        [x = x.gradient(), matrix, transposed](const Tensor& dy) {
                          x.accumulate(kernels::hadamard(dy, matrix, !transposed));
                        });
}

Var take_part(const Var& x, int64_t parts, int64_t part, int64_t dim) {
  return differentiable(kernels::take_part(x.value(), parts, part, dim), {&x},
                        [x = x.gradient(), parts, part, dim](const Tensor& dy) {
                          x.accumulate(kernels::put_part(dy, parts, part, dim));
                        });
}

Var take_columns(const Var& x, int64_t first, int64_t count) {
  const int64_t width = x.value().size(1);
  return differentiable(kernels::take_columns(x.value(), first, count), {&x},
                        [x = x.gradient(), first, width](const Tensor& dy) {
                          x.accumulate(kernels::put_columns(dy, first, width));
                        });
}

Var embedding(const Tensor& ids, const Var& table) {
  return differentiable(kernels::embedding(ids, table.value()), {&table},
                        [ids, table = table.gradient()](const Tensor& dy) {
                          table.accumulate(kernels::embedding_backward(ids, dy, table.shape()[0]));
                        });
}

Var attention(const Var& q, const Var& k, const Var& v, int64_t batch, int64_t heads,
              int64_t kv_heads, const kernels::AttentionScores& scores) {
  const kernels::AttentionHeads divided{batch, heads, kv_heads};
  const kernels::AttentionResult forward =
      kernels::attention(q.value(), k.value(), v.value(), divided, scores);
  return differentiable(forward.o, {&q, &k, &v},
                        [q, k, v, forward, divided, scores](const Tensor& dy) {
                          const auto [dq, dk, dv] = kernels::attention_backward(
                              q.value(), k.value(), v.value(), forward, dy, divided, scores);
                          if (q.requires_grad()) q.accumulate(dq);
                          if (k.requires_grad()) k.accumulate(dk);
                          if (v.requires_grad()) v.accumulate(dv);
                        });
}

Var cross_entropy(const Var& logits, const Tensor& target) {
  const Tensor nll = kernels::cross_entropy(logits.value(), target);
  check(nll.count() > 0, "cross_entropy: no rows to take the mean of");
  const double weight = 1.0 / static_cast<double>(nll.count());
  Tensor mean = kernels::scale(kernels::sum(nll), weight);
  return differentiable(mean, {&logits}, [logits, target, weight](const Tensor& dy) {
    Tensor dnll({logits.size(0)}, dy.dtype(), dy.device());
    kernels::fill(dnll, dy.item() * weight);
    logits.accumulate(kernels::cross_entropy_backward(logits.value(), target, dnll));
  });
}

Var mul(const Var& a, const Var& b) {
  const Tensor left = kept(a, b.requires_grad()), right = kept(b, a.requires_grad());
  return differentiable(kernels::mul(a.value(), b.value()), {&a, &b},
                        [a = a.gradient(), b = b.gradient(), left, right](const Tensor& dy) {
                          if (a.wanted()) a.accumulate(kernels::mul(dy, right));
                          if (b.wanted()) b.accumulate(kernels::mul(dy, left));
                        });
}

Var scale(const Var& x, double c) {
  return differentiable(
      kernels::scale(x.value(), c), {&x},
      [x = x.gradient(), c](const Tensor& dy) { x.accumulate(kernels::scale(dy, c)); });
}

Var softmax(const Var& x) {
  const Tensor y = kernels::softmax(x.value());
  return differentiable(y, {&x}, [x = x.gradient(), y](const Tensor& dy) {
    x.accumulate(kernels::softmax_backward(y, dy));
  });
}

Var sum(const Var& x) {
  return differentiable(kernels::sum(x.value()), {&x},
                        [x = x.gradient(), dtype = x.dtype()](const Tensor& dy) {
                          Tensor dx(x.shape(), dtype, dy.device());
                          kernels::fill(dx, dy.item());
                          x.accumulate(dx);
                        });
}

Var row_error(const Var& prediction, const Tensor& target, double l2_weight, kernels::L2Form l2,
              double kl_weight) {
  const bool record = should_record({&prediction});
  const kernels::RowErrorResult error =
      kernels::row_error(prediction.value(), target, l2_weight, l2, kl_weight, record);
  check(error.loss.count() > 0, "row_error: no rows to take the mean of");
  const double weight = 1.0 / static_cast<double>(error.loss.count());
  return differentiable(
      kernels::scale(kernels::sum(error.loss), weight), {&prediction},
      [prediction = prediction.gradient(), gradient = error.gradient, weight](const Tensor& dy) {
        prediction.accumulate(kernels::scale(gradient, dy.item() * weight));
      });
}

}  // namespace cbq::ag
