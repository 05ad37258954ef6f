// Cases of autograd/functions.h that mirror one kernel each.
#include "autograd/functions.h"
#include "tests/op_case.h"
#include "tests/reference/elementwise.h"
#include "tests/reference/matmul.h"
#include "tests/reference/move.h"
#include "tests/reference/reduce.h"
#include "tests/reference/rowwise.h"

namespace cbq::test {
namespace {

using kernels::Trans;
using Vars = std::vector<Var>;

OpCase binary_gradient(const char* name, Var (*op)(const Var&, const Var&),
                       Array (*expected)(const Array&, const Array&)) {
  return {.name = name,
          .sizes = alike(2, {{3, 7}, {1}, {0}, {5, 4099}}),
          .expected = [=](const Arrays& in) { return Arrays{expected(in[0], in[1])}; },
          .apply = [=](const Vars& in) { return op(in[0], in[1]); },
          .wrong = {{{2, 3}, {3, 2}}}};
}

OpCase row_gradient(const char* name, Var (*op)(const Var&, const Var&),
                    Array (*expected)(const Array&, const Array&)) {
  return {
      .name = name,
      .sizes = {{{3, 7}, {7}}, {{2, 3, 5}, {5}}, {{1, 1}, {1}}, {{0, 4}, {4}}, {{70, 513}, {513}}},
      .expected = [=](const Arrays& in) { return Arrays{expected(in[0], in[1])}; },
      .apply = [=](const Vars& in) { return op(in[0], in[1]); },
      .wrong = {{{2, 3}, {2}}}};
}

OpCase scale_gradient() {
  return {.name = "ag::scale",
          .sizes = alike(1, {{3, 7}, {1}, {0}}),
          .expected = [](const Arrays& in) { return Arrays{reference::scale(in[0], -0.75)}; },
          .apply = [](const Vars& in) { return ag::scale(in[0], -0.75); },
          .wrong_calls = {[] { ag::scale(Var(Tensor({2}, Dtype::i32)), 1.0); }}};
}

OpCase div_gradient() {
  OpCase op = binary_gradient("ag::div", &ag::div, &reference::div);
  op.inputs = {{}, positive};
  return op;
}

OpCase rescale_gradient() {
  return {
      .name = "ag::rescale",
      .sizes = {{{3, 7}, {3}, {7}}, {{1, 1}, {1}, {1}}, {{0, 4}, {0}, {4}}, {{70, 9}, {70}, {9}}},
      .inputs = {{}, accumulated, accumulated},
      .expected = [](const Arrays& in) { return Arrays{reference::rescale(in[0], in[1], in[2])}; },
      .apply = [](const Vars& in) { return ag::rescale(in[0], in[1], in[2]); },
      .wrong = {{{2, 3}, {3}, {3}}}};
}

/// Of every leaf by itself: the others are undefined or want no gradient.
OpCase rescale_columns_gradient() {
  return {.name = "ag::rescale",
          .variant = "columns",
          .sizes = {{{3, 7}, {7}}},
          .inputs = {{}, accumulated},
          .expected =
              [](const Arrays& in) {
                const Array ones = reference::constant(Array({in[0].size(0)}), 1.0);
                return Arrays{reference::rescale(in[0], ones, in[1])};
              },
          .apply = [](const Vars& in) { return ag::rescale(in[0], Var(), in[1]); },
          .leaves = {1},
          .wrong = {{{2, 3}, {2}}}};
}

OpCase cast_gradient() {
  return {.name = "ag::cast",
          .sizes = alike(1, {{3, 7}, {1}, {0}}),
          .expected = [](const Arrays& in) { return in; },
          .apply = [](const Vars& in) { return ag::cast(in[0], Dtype::f64); },
          .wrong_calls = {[] { ag::cast(Var(Tensor({2}, Dtype::i32)), Dtype::f32); }}};
}

OpCase reshape_gradient() {
  return {.name = "ag::reshape",
          .sizes = alike(1, {{2, 6}, {12}}),
          .expected =
              [](const Arrays& in) {
                return Arrays{Array({3, 4}, in[0].values)};
              },
          .apply =
              [](const Vars& in) {
                return ag::reshape(in[0], {3, 4});
              },
          .wrong = {{{2, 5}}}};
}

OpCase matmul_gradient(Trans ta, Trans tb) {
  const bool a = ta == Trans::yes, b = tb == Trans::yes;
  const auto shapes = [=](int64_t m, int64_t k, int64_t n) {
    return Shapes{a ? Shape{k, m} : Shape{m, k}, b ? Shape{n, k} : Shape{k, n}};
  };
  return {
      .name = "ag::matmul",
      .variant = concat(a ? "A^T " : "A ", b ? "B^T" : "B"),
      .sizes = {shapes(3, 4, 5), shapes(1, 1, 1), shapes(0, 3, 2), shapes(33, 130, 35)},
      .expected = [=](const Arrays& in) { return Arrays{reference::matmul(in[0], a, in[1], b)}; },
      .apply = [=](const Vars& in) { return ag::matmul(in[0], ta, in[1], tb); },
      .wrong = {{shapes(3, 4, 5)[0], shapes(3, 6, 5)[1]}}};
}

OpCase linear_gradient(bool bias) {
  const auto shapes = [=](int64_t tokens, int64_t in, int64_t out) {
    Shapes all = {{tokens, in}, {out, in}};
    if (bias) all.push_back({out});
    return all;
  };
  return {.name = "ag::linear",
          .variant = bias ? "with bias" : "without bias",
          .sizes = {shapes(3, 4, 5), shapes(1, 1, 1), shapes(0, 3, 2), shapes(33, 130, 35)},
          .expected =
              [=](const Arrays& in) {
                const Array y = reference::matmul(in[0], false, in[1], true);
                return Arrays{bias ? reference::add_row(y, in[2]) : y};
              },
          .apply = [=](const Vars& in) { return ag::linear(in[0], in[1], bias ? in[2] : Var()); },
          .wrong = {bias ? Shapes{{2, 3}, {4, 3}, {3}} : Shapes{{2, 3}, {4, 3, 1}},
                    bias ? Shapes{{2, 3}, {4, 2}, {4}} : Shapes{{2, 3}, {4, 2}}},
          .bench = {shapes(512, 1024, 1024)},
          .flops = [](const Shapes& s) { return 2.0 * 512 * double(s[1][0]) * double(s[1][1]); }};
}

OpCase unary_gradient(const char* name, Var (*op)(const Var&), Array (*expected)(const Array&)) {
  return {.name = name,
          .sizes = alike(1, {{3, 7}, {1}, {0}, {5, 4099}}),
          .expected = [=](const Arrays& in) { return Arrays{expected(in[0])}; },
          .apply = [=](const Vars& in) { return op(in[0]); },
          .wrong_calls = {[=] { op(Var(Tensor({2}, Dtype::i32))); }}};
}

OpCase soft_cap_gradient() {
  constexpr double cap = 0.75;
  return {.name = "ag::soft_cap",
          .sizes = alike(1, {{3, 7}, {1}, {0}, {5, 4099}}),
          .expected = [](const Arrays& in) { return Arrays{reference::soft_cap(in[0], cap)}; },
          .apply = [](const Vars& in) { return ag::soft_cap(in[0], cap); },
          .wrong_calls = {[] { ag::soft_cap(Var(Tensor({2}, Dtype::i32)), cap); },
                          [] { ag::soft_cap(Var(Tensor({2}, Dtype::f32)), 0.0); }}};
}

OpCase take_part_gradient() {
  return {.name = "ag::take_part",
          .sizes = {{{4, 18}}, {{1, 6}}, {{0, 12}}},
          .expected = [](const Arrays& in) { return Arrays{reference::take_part(in[0], 3, 1, 2)}; },
          .apply = [](const Vars& in) { return ag::take_part(in[0], 3, 1, 2); },
          .wrong = {{{4, 17}}}};
}

OpCase take_columns_gradient() {
  return {.name = "ag::take_columns",
          .sizes = {{{4, 18}}, {{1, 5}}, {{0, 12}}},
          .expected = [](const Arrays& in) { return Arrays{reference::take_columns(in[0], 2, 3)}; },
          .apply = [](const Vars& in) { return ag::take_columns(in[0], 2, 3); },
          .wrong = {{{4, 4}}}};
}

OpCase softmax_gradient() {
  return {.name = "ag::softmax",
          .sizes = alike(1, {{3, 7}, {2, 3, 5}, {1, 1}, {0, 4}}),
          .expected = [](const Arrays& in) { return Arrays{reference::softmax(in[0])}; },
          .apply = [](const Vars& in) { return ag::softmax(in[0]); },
          .wrong = {{{}}}};
}

OpCase sum_gradient() {
  return {.name = "ag::sum",
          .sizes = alike(1, {{3, 7}, {}, {1}, {0}, {5, 4099}}),
          .expected = [](const Arrays& in) { return Arrays{reference::sum(in[0])}; },
          .apply = [](const Vars& in) { return ag::sum(in[0]); },
          .wrong_calls = {[] { ag::sum(Var(Tensor({2}, Dtype::i32))); }}};
}

}  // namespace

std::vector<OpCase> elementwise_gradient_cases() {
  return {binary_gradient("ag::add", &ag::add, &reference::add),
          binary_gradient("ag::mul", &ag::mul, &reference::mul),
          div_gradient(),
          rescale_gradient(),
          rescale_columns_gradient(),
          cast_gradient(),
          scale_gradient(),
          row_gradient("ag::add_row", &ag::add_row, &reference::add_row),
          reshape_gradient(),
          matmul_gradient(Trans::no, Trans::no),
          matmul_gradient(Trans::no, Trans::yes),
          matmul_gradient(Trans::yes, Trans::no),
          matmul_gradient(Trans::yes, Trans::yes),
          linear_gradient(true),
          linear_gradient(false),
          binary_gradient("ag::swiglu", &ag::swiglu, &reference::swiglu),
          unary_gradient("ag::relu", &ag::relu, &reference::relu),
          unary_gradient("ag::gelu", &ag::gelu, &reference::gelu),
          unary_gradient("ag::exact_gelu", &ag::exact_gelu, &reference::exact_gelu),
          soft_cap_gradient(),
          take_part_gradient(),
          take_columns_gradient(),
          softmax_gradient(),
          sum_gradient()};
}

}  // namespace cbq::test
