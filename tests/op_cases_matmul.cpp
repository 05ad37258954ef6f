// Cases of the matrix products, and of attention.
#include "kernels/ops.h"
#include "tests/op_case.h"
#include "tests/reference/matmul.h"

namespace cbq::test {
namespace {

using kernels::Trans;

struct Flags {
  Trans ta, tb;
  bool a() const { return ta == Trans::yes; }
  bool b() const { return tb == Trans::yes; }
  std::string text() const { return concat(a() ? "A^T " : "A ", b() ? "B^T" : "B"); }
};

/// Shapes of a and b for op(a) [m, k], op(b) [k, n]; `batch` < 0: matrices.
Shapes operands(Flags f, int64_t m, int64_t k, int64_t n, int64_t batch = -1) {
  Shape a = f.a() ? Shape{k, m} : Shape{m, k}, b = f.b() ? Shape{n, k} : Shape{k, n};
  if (batch >= 0) {
    a.insert(a.begin(), batch);
    b.insert(b.begin(), batch);
  }
  return {a, b};
}
Shapes with_result(Shapes ab, int64_t m, int64_t n) {
  ab.push_back({m, n});
  return ab;
}

OpCase matmul_case(Flags f) {
  return {
      .name = "kernels::matmul",
      .variant = f.text(),
      .sizes = {operands(f, 3, 37, 5), operands(f, 1, 1, 1), operands(f, 0, 3, 2),
                operands(f, 2, 0, 3), operands(f, 2, 3, 0), operands(f, 65, 130, 67),
                operands(f, 300, 65, 35)},
      .run = [=](const Tensors& in) { return Tensors{kernels::matmul(in[0], f.ta, in[1], f.tb)}; },
      .expected =
          [=](const Arrays& in) { return Arrays{reference::matmul(in[0], f.a(), in[1], f.b())}; },
      .wrong = {{operands(f, 3, 4, 5)[0], operands(f, 3, 6, 5)[1]},
                {{6}, operands(f, 3, 4, 5)[1]},
                {{2, 3, 4}, {2, 4, 3}}},
      .wrong_calls = {[=] {
        kernels::matmul(Tensor({3, 3}, Dtype::f32), f.ta, Tensor({3, 3}, Dtype::f64), f.tb);
      }},
      .bench = {operands(f, 1024, 1024, 1024)},
      .flops = [](const Shapes& s) { return 2.0 * 1024 * double(s[0][0]) * double(s[0][1]); }};
}

OpCase gemm_case(Flags f, double alpha, double beta) {
  const auto shapes = [=](int64_t m, int64_t k, int64_t n) {
    return with_result(operands(f, m, k, n), m, n);
  };
  return {.name = "kernels::gemm",
          .variant = concat(f.text(), ", alpha ", alpha, ", beta ", beta),
          .sizes = {shapes(3, 37, 5), shapes(1, 1, 1), shapes(0, 3, 2), shapes(2, 0, 3),
                    shapes(65, 130, 67), shapes(300, 65, 35)},
          .run =
              [=](const Tensors& in) {
                kernels::gemm(in[0], f.ta, in[1], f.tb, in[2], alpha, beta);
                return Tensors{in[2]};
              },
          .expected =
              [=](const Arrays& in) {
                return Arrays{reference::gemm(in[0], f.a(), in[1], f.b(), &in[2], alpha, beta)};
              },
          .wrong = {with_result(operands(f, 3, 4, 5), 5, 3),
                    with_result({{6}, {6}}, 1, 1),
                    {operands(f, 3, 4, 5)[0], operands(f, 3, 6, 5)[1], {3, 5}}},
          .bench = {shapes(1024, 1024, 1024)},
          .flops = [](const Shapes& s) { return 2.0 * 1024 * double(s[0][0]) * double(s[0][1]); }};
}

using kernels::Matrices;

/// Where the matrices of the case below lie: those of a and c side by side in the rows of a tensor,
/// whose first row is not theirs; those of b one behind the other.
Matrices side_by_side(const Tensor& t, int64_t batch) {
  const int64_t width = t.size(1);
  return {t, width, width / batch, width, t.size(0) - 1, width / batch};
}
Matrices in_turn(const Tensor& t) {
  return {t, 0, t.size(1) * t.size(2), t.size(2), t.size(1), t.size(2)};
}
/// [1 + rows, batch * cols] without its first row -> [batch, rows, cols]; `back` moves the numbers
/// of y to x.
Array taken_apart(Array& x, int64_t batch, const Array* back = nullptr) {
  const int64_t rows = x.size(0) - 1, cols = x.size(1) / batch;
  Array y({batch, rows, cols});
  for (int64_t i = 0; i < batch; ++i) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < cols; ++j) {
        double& place = x(r + 1, i * cols + j);
        if (back != nullptr) place = (*back)((i * rows + r) * cols + j);
        y((i * rows + r) * cols + j) = place;
      }
    }
  }
  return y;
}

OpCase gemm_strided_case(Flags f, double alpha, double beta, bool wide_result) {
  const auto shapes = [=](int64_t batch, int64_t m, int64_t k, int64_t n) {
    const Shapes plain = operands(f, m, k, n, batch);
    return Shapes{{1 + plain[0][1], batch * plain[0][2]}, plain[1], {1 + m, batch * n}};
  };
  const auto run = [=](const Tensors& in) {
    const int64_t batch = in[1].size(0);
    kernels::gemm_strided(side_by_side(in[0], batch), f.ta, in_turn(in[1]), f.tb,
                          side_by_side(in[2], batch), batch, alpha, beta);
    return Tensors{in[2]};
  };
  const auto expected = [=](const Arrays& in) {
    const int64_t batch = in[1].size(0);
    Array a = in[0], c = in[2];
    const Array before = taken_apart(c, batch);
    const Array product =
        reference::gemm(taken_apart(a, batch), f.a(), in[1], f.b(), &before, alpha, beta);
    taken_apart(c, batch, &product);
    return Arrays{c};
  };
  const auto call = [](Matrices a, Matrices b, Matrices c, int64_t batch) {
    kernels::gemm_strided(a, Trans::no, b, Trans::no, c, batch, 1.0, 0.0);
  };
  const auto square = [](const Tensor& t, int64_t offset, int64_t stride, int64_t row_stride) {
    return Matrices{t, offset, stride, row_stride, 3, 3};
  };
  const Tensor x({4, 9}, Dtype::f32), y({4, 9}, Dtype::f64);
  return {
      .name = "kernels::gemm_strided",
      .variant =
          concat(f.text(), ", alpha ", alpha, ", beta ", beta, wide_result ? ", wide result" : ""),
      .sizes = {shapes(4, 3, 37, 5), shapes(1, 1, 1, 1), shapes(5, 33, 40, 35),
                shapes(2, 65, 70, 67), shapes(2, 70, 65, 67)},
      .inputs = wide_result ? std::vector<Input>{{}, {}, accumulated} : std::vector<Input>{},
      .run = run,
      .expected = expected,
      .wrong = {{shapes(2, 3, 4, 5)[0], shapes(2, 3, 6, 5)[1], shapes(2, 3, 4, 5)[2]},
                {shapes(2, 3, 4, 5)[0], shapes(2, 3, 4, 5)[1], shapes(2, 3, 4, 6)[2]}},
      .wrong_calls = {[=] { call(square(x, 0, 3, 9), square(x, 10, 3, 9), square(x, 0, 3, 9), 3); },
                      [=] { call(square(x, 10, 3, 9), square(x, 0, 3, 9), square(x, 0, 3, 9), 3); },
                      [=] { call(square(x, 0, 3, 9), square(x, 0, 3, 9), square(x, 0, 2, 9), 3); },
                      [=] { call(square(x, 0, 3, 9), square(x, 0, 3, 9), square(x, 0, 9, 9), 2); },
                      [=] { call(square(x, 0, 3, 9), square(x, 0, 3, 9), square(x, 0, 3, 2), 1); },
                      [=] { call(square(x, 0, 3, 9), square(x, 0, 3, 9), square(y, 0, 3, 9), 3); },
                      [=] { call(square(x, 0, 3, 9), square(y, 0, 3, 9), square(x, 0, 3, 9), 3); },
                      [=] { call(square(x, 0, 3, 9), square(x, 0, 3, 9), square(x, 0, 3, 9), 0); }},
      .bench = wide_result ? std::vector<Shapes>{} : std::vector<Shapes>{shapes(32, 256, 64, 256)},
      .flops = [](const Shapes& s) {
        return 2.0 * double(s[2][0] - 1) * double(s[1][0]) * double(s[1][1]) * double(s[1][2]);
      }};
}

/// How a case of attention divides heads and queries.
struct AttentionShapes {
  kernels::AttentionHeads heads;
  kernels::AttentionTiles tiles = {};
  bool alibi = false;
  double cap = 0.0;
  std::string text() const {
    return concat(alibi ? "ALiBi, " : "", cap > 0.0 ? "soft cap, " : "", "batch ", heads.batch,
                  ", ", heads.heads, " heads on ", heads.kv_heads, ", tiles of ", tiles.queries,
                  " x ", tiles.kv_heads);
  }
  /// q, k, v, the gradient of the output where asked for, slopes.
  Shapes shapes(int64_t tokens, int64_t dim, bool gradient) const {
    const Shape q = {heads.batch * tokens, heads.heads * dim};
    const Shape k = {heads.batch * tokens, heads.kv_heads * dim};
    Shapes all = {q, k, k};
    if (gradient) all.push_back(q);
    if (alibi) all.push_back({heads.heads});
    return all;
  }
  /// With slopes fewer tokens: the f32 sum of a score and slope * 130 has lost digits. With
  /// gradients fewer, too: what dp - mean leaves is small beside its terms.
  std::vector<Shapes> sizes(bool gradient) const {
    const Shapes longest =
        alibi ? shapes(20, 8, gradient) : shapes(gradient ? 94 : 130, 6, gradient);
    return {shapes(3, 4, gradient), shapes(1, 1, gradient), shapes(0, 4, gradient),
            shapes(alibi ? 9 : 37, 8, gradient), longest};
  }
  std::vector<Input> inputs(bool gradient) const {
    std::vector<Input> kinds(gradient ? 4 : 3);
    if (alibi) kinds.push_back(angles);
    return kinds;
  }
  kernels::AttentionScores scores(const Tensors& in) const {
    return {alibi ? in.back() : Tensor(), cap};
  }
  const Array* slopes(const Arrays& in) const { return alibi ? &in.back() : nullptr; }
};

/// Shapes that do not fit each other, for a form with four heads on two.
std::vector<Shapes> wrong_attention(const AttentionShapes& f, bool gradient) {
  const Shapes good = f.shapes(3, 4, gradient), longer = f.shapes(4, 4, gradient);
  const Shapes wider = f.shapes(3, 5, gradient);
  std::vector<Shapes> wrong = {good, good, good};
  wrong[0][1] = wrong[0][2] = longer[1];
  wrong[1][1] = wrong[1][2] = wider[1];
  wrong[2][2] = wider[2];
  if (gradient) wrong.push_back(good), wrong.back()[3] = wider[3];
  if (f.alibi) wrong.push_back(good), wrong.back().back() = {f.heads.heads + 1};
  return wrong;
}

OpCase attention_case(const AttentionShapes& f) {
  return {.name = "kernels::attention",
          .variant = f.text(),
          .sizes = f.sizes(false),
          .inputs = f.inputs(false),
          .dtypes = {Dtype::f64, Dtype::f32},  // half types: ag::attention
          .large_temporaries = true,
          .run =
              [=](const Tensors& in) {
                const auto [o, log_sum] =
                    kernels::attention(in[0], in[1], in[2], f.heads, f.scores(in), f.tiles);
                return Tensors{o, log_sum};
              },
          .expected =
              [=](const Arrays& in) {
                return reference::attention(in[0], in[1], in[2], f.heads.batch, f.heads.heads,
                                            f.heads.kv_heads, f.slopes(in), f.cap);
              },
          .wrong = wrong_attention(f, false),
          .wrong_calls = {[] {
                            const Tensor x({4, 12}, Dtype::f32);
                            kernels::attention(x, x, x, {1, 3, 2});
                          },
                          [] {
                            const Tensor x({4, 12}, Dtype::f32), y({4, 12}, Dtype::f64);
                            kernels::attention(x, y, x, {1, 2, 2});
                          },
                          [] {
                            const Tensor x({4, 12}, Dtype::f32);
                            kernels::attention(x, x, x, {1, 2, 2}, Tensor({2}, Dtype::f64));
                          },
                          [] {
                            const Tensor x({4, 12}, Dtype::f32);
                            kernels::attention(x, x, x, {1, 2, 2}, Tensor(), {-1, 0});
                          },
                          [] {
                            const Tensor x({4, 12}, Dtype::f32);
                            kernels::attention(x, x, x, {1, 2, 2}, {Tensor(), -1.0});
                          }}};
}

OpCase attention_backward_case(const AttentionShapes& f) {
  return {.name = "kernels::attention_backward",
          .variant = f.text(),
          .sizes = f.sizes(true),
          .inputs = f.inputs(true),
          .dtypes = {Dtype::f64, Dtype::f32},  // half types: tests/test_attention.cpp
          .large_temporaries = true,
          .run =
              [=](const Tensors& in) {
                const kernels::AttentionResult forward =
                    kernels::attention(in[0], in[1], in[2], f.heads, f.scores(in), f.tiles);
                const auto [dq, dk, dv] = kernels::attention_backward(
                    in[0], in[1], in[2], forward, in[3], f.heads, f.scores(in), f.tiles);
                return Tensors{dq, dk, dv};
              },
          .expected =
              [=](const Arrays& in) {
                return reference::attention_backward(in[0], in[1], in[2], in[3], f.heads.batch,
                                                     f.heads.heads, f.heads.kv_heads, f.slopes(in),
                                                     f.cap);
              },
          .wrong = {},
          .wrong_calls = {[] {
                            const Tensor x({4, 12}, Dtype::f32), y({4, 6}, Dtype::f32);
                            const auto forward = kernels::attention(x, x, x, {1, 2, 2});
                            kernels::attention_backward(x, x, x, forward, y, {1, 2, 2});
                          },
                          [] {
                            const Tensor x({4, 12}, Dtype::f32);
                            auto forward = kernels::attention(x, x, x, {1, 2, 2});
                            forward.log_sum = forward.log_sum.reshape({4, 2});
                            kernels::attention_backward(x, x, x, forward, x, {1, 2, 2});
                          },
                          [] {
                            const Tensor x({4, 12}, Dtype::f32);
                            const auto forward = kernels::attention(x, x, x, {1, 2, 2});
                            kernels::attention_backward(x, x, x, forward, x, {1, 3, 2});
                          }},
          .bench = f.tiles.queries == 0 ? std::vector<Shapes>{f.shapes(1024, 128, true)}
                                        : std::vector<Shapes>{},
          .flops = [=](const Shapes& s) {  // two products forward, five backward, half of each
            return 7.0 * double(s[0][0]) * double(s[0][0] / f.heads.batch) * double(s[0][1]);
          }};
}

}  // namespace

std::vector<OpCase> matmul_cases() {
  std::vector<OpCase> cases;
  for (Trans ta : {Trans::no, Trans::yes}) {
    for (Trans tb : {Trans::no, Trans::yes}) {
      cases.push_back(matmul_case({ta, tb}));
    }
  }
  cases.push_back(gemm_case({Trans::no, Trans::yes}, 1.0, 0.0));
  cases.push_back(gemm_case({Trans::yes, Trans::no}, 0.5, 1.0));
  cases.push_back(gemm_case({Trans::no, Trans::no}, -1.0, 0.25));
  cases.push_back(gemm_strided_case({Trans::no, Trans::yes}, 0.5, 0.0, false));
  cases.push_back(gemm_strided_case({Trans::no, Trans::no}, 1.0, 0.5, false));
  cases.push_back(gemm_strided_case({Trans::yes, Trans::no}, 0.5, 1.0, true));
  cases.push_back(gemm_strided_case({Trans::yes, Trans::yes}, 1.0, 0.0, false));
  for (const AttentionShapes& form :
       {AttentionShapes{{2, 4, 2}}, AttentionShapes{{1, 3, 3}, {7, 2}, true},
        AttentionShapes{{2, 4, 2}, {16, 2}}, AttentionShapes{{1, 6, 2}, {8, 1}, true},
        AttentionShapes{{2, 4, 2}, {}, false, 0.6},
        AttentionShapes{{1, 6, 2}, {8, 1}, true, 2.0}}) {
    cases.push_back(attention_case(form));
    cases.push_back(attention_backward_case(form));
  }
  return cases;
}

}  // namespace cbq::test
