// Cases of the matrix products.
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

OpCase matmul_batched_case(Flags f) {
  const auto shapes = [=](int64_t batch, int64_t m, int64_t k, int64_t n) {
    return operands(f, m, k, n, batch);
  };
  return {.name = "kernels::matmul_batched",
          .variant = f.text(),
          .sizes = {shapes(4, 3, 37, 5), shapes(1, 1, 1, 1), shapes(0, 2, 3, 2), shapes(2, 2, 0, 3),
                    shapes(1, 5, 6, 7), shapes(5, 33, 40, 35)},
          .run =
              [=](const Tensors& in) {
                return Tensors{kernels::matmul_batched(in[0], f.ta, in[1], f.tb, 0.5)};
              },
          .expected =
              [=](const Arrays& in) {
                return Arrays{reference::matmul(in[0], f.a(), in[1], f.b(), 0.5)};
              },
          .wrong = {operands(f, 3, 4, 5),
                    {shapes(2, 3, 4, 5)[0], shapes(3, 3, 4, 5)[1]},
                    {shapes(2, 3, 4, 5)[0], shapes(2, 3, 6, 5)[1]}},
          .bench = {shapes(32, 256, 64, 256)},
          .flops =
              [](const Shapes& s) {
                return 2.0 * 256 * double(s[0][0]) * double(s[0][1]) * double(s[0][2]);
              }};
}

}  // namespace

std::vector<OpCase> matmul_cases() {
  std::vector<OpCase> cases;
  for (Trans ta : {Trans::no, Trans::yes}) {
    for (Trans tb : {Trans::no, Trans::yes}) {
      cases.push_back(matmul_case({ta, tb}));
      cases.push_back(matmul_batched_case({ta, tb}));
    }
  }
  cases.push_back(gemm_case({Trans::no, Trans::yes}, 1.0, 0.0));
  cases.push_back(gemm_case({Trans::yes, Trans::no}, 0.5, 1.0));
  cases.push_back(gemm_case({Trans::no, Trans::no}, -1.0, 0.25));
  return cases;
}

}  // namespace cbq::test
