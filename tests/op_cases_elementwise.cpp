// Cases of kernels/elementwise.
#include "kernels/ops.h"
#include "tests/op_case.h"
#include "tests/reference/elementwise.h"

namespace cbq::test {
namespace {

const std::vector<Shape> usual = {{3, 37}, {1}, {0}, {2, 0, 3}, {5, 4099}};
const Shape large = {1024, 4096};

OpCase binary(const char* name, Tensor (*op)(const Tensor&, const Tensor&),
              Array (*expected)(const Array&, const Array&)) {
  return {.name = name,
          .sizes = alike(2, usual),
          .run = [op](const Tensors& in) { return Tensors{op(in[0], in[1])}; },
          .expected = [expected](const Arrays& in) { return Arrays{expected(in[0], in[1])}; },
          .wrong = {{{2, 3}, {3, 2}}, {{6}, {2, 3}}, {{3}, {4}}},
          .wrong_calls = {[op] { op(Tensor({3}, Dtype::f32), Tensor({3}, Dtype::f64)); },
                          [op] { op(Tensor({3}, Dtype::i32), Tensor({3}, Dtype::i32)); }},
          .bench = alike(2, {large})};
}

OpCase with_row(const char* name, Tensor (*op)(const Tensor&, const Tensor&),
                Array (*expected)(const Array&, const Array&)) {
  return {.name = name,
          .sizes = {{{3, 37}, {37}},
                    {{2, 3, 5}, {5}},
                    {{1, 1}, {1}},
                    {{0, 4}, {4}},
                    {{3, 0}, {0}},
                    {{7, 4099}, {4099}}},
          .run = [op](const Tensors& in) { return Tensors{op(in[0], in[1])}; },
          .expected = [expected](const Arrays& in) { return Arrays{expected(in[0], in[1])}; },
          .wrong = {{{2, 3}, {2}}, {{2, 3}, {2, 3}}, {{2, 3}, {1, 3}}, {{}, {1}}},
          .wrong_calls = {[op] {
            op(Tensor({2, 3}, Dtype::f32), Tensor({3}, Dtype::f64));
          }},
          .bench = {{large, {large[1]}}}};
}

OpCase div_case() {
  OpCase op = binary("kernels::div", &kernels::div, &reference::div);
  op.inputs = {{}, positive};
  return op;
}

const std::vector<Shapes> rescaled = {
    {{3, 37}, {3}, {37}}, {{1, 1}, {1}, {1}}, {{0, 4}, {0}, {4}}, {{131, 513}, {131}, {513}}};

OpCase rescale_case() {
  return {
      .name = "kernels::rescale",
      .sizes = rescaled,
      .inputs = {{}, accumulated, accumulated},
      .run = [](const Tensors& in) { return Tensors{kernels::rescale(in[0], in[1], in[2])}; },
      .expected = [](const Arrays& in) { return Arrays{reference::rescale(in[0], in[1], in[2])}; },
      .wrong = {{{2, 3}, {3}, {3}}, {{2, 3}, {2}, {2}}, {{3}, {3}, {3}}},
      .wrong_calls = {[] {
        kernels::rescale(Tensor({2, 3}, Dtype::bf16), Tensor({2}, Dtype::bf16), Tensor());
      }},
      .bench = {{large, {large[0]}, {large[1]}}}};
}

/// With rows alone, or columns alone.
OpCase rescale_by_one_case(bool rows) {
  return {.name = "kernels::rescale",
          .variant = rows ? "rows" : "columns",
          .sizes = {rows ? Shapes{{3, 37}, {3}} : Shapes{{3, 37}, {37}}},
          .inputs = {{}, accumulated},
          .run =
              [rows](const Tensors& in) {
                return Tensors{rows ? kernels::rescale(in[0], in[1], Tensor())
                                    : kernels::rescale(in[0], Tensor(), in[1])};
              },
          .expected =
              [rows](const Arrays& in) {
                const Array ones = reference::constant(Array({in[0].size(rows ? 1 : 0)}), 1.0);
                return Arrays{rows ? reference::rescale(in[0], in[1], ones)
                                   : reference::rescale(in[0], ones, in[1])};
              },
          .wrong = {{{2, 3}, {4}}}};
}

OpCase rescale_backward_case() {
  std::vector<Shapes> sizes = rescaled;
  for (Shapes& shapes : sizes) shapes.push_back(shapes[0]);
  return {
      .name = "kernels::rescale_backward",
      .sizes = sizes,
      .inputs = {{}, accumulated, accumulated, {}},
      .large_temporaries = true,
      .run =
          [](const Tensors& in) {
            const auto d = kernels::rescale_backward(in[0], in[1], in[2], in[3], true, true);
            return Tensors{d.row, d.column};
          },
      .expected =
          [](const Arrays& in) { return reference::rescale_backward(in[0], in[1], in[2], in[3]); },
      .wrong = {{{2, 3}, {2}, {3}, {3, 2}}, {{2, 3}, {3}, {3}, {2, 3}}},
      .bench = {{large, {large[0]}, {large[1]}, large}}};
}

OpCase fill_case() {
  return {.name = "kernels::fill",
          .sizes = alike(1, usual),
          .run =
              [](const Tensors& in) {
                kernels::fill(in[0], -1.25);
                return in;
              },
          .expected = [](const Arrays& in) { return Arrays{reference::constant(in[0], -1.25)}; },
          .wrong_calls = {[] { kernels::fill(Tensor({3}, Dtype::i32), 1.0); }},
          .bench = {{large}}};
}

OpCase cast_case(Dtype to) {
  return {.name = "kernels::cast",
          .variant = std::string("to ") + name_of(to),
          .sizes = alike(1, usual),
          .run = [to](const Tensors& in) { return Tensors{kernels::cast(in[0], to)}; },
          .expected = [](const Arrays& in) { return in; },
          .wrong_calls = {[to] { kernels::cast(Tensor({3}, Dtype::u8), to); },
                          [] { kernels::cast(Tensor({3}, Dtype::f32), Dtype::i32); }},
          .bench = {{large}}};
}

OpCase add_into_case() {
  return {.name = "kernels::add_into",
          .sizes = alike(2, usual),
          .run =
              [](const Tensors& in) {
                kernels::add_into(in[0], in[1]);
                return Tensors{in[0]};
              },
          .expected = [](const Arrays& in) { return Arrays{reference::add(in[0], in[1])}; },
          .wrong = {{{2, 3}, {3, 2}}, {{3}, {4}}},
          .bench = alike(2, {large})};
}

OpCase scale_case() {
  return {.name = "kernels::scale",
          .sizes = alike(1, usual),
          .run = [](const Tensors& in) { return Tensors{kernels::scale(in[0], -0.75)}; },
          .expected = [](const Arrays& in) { return Arrays{reference::scale(in[0], -0.75)}; },
          .wrong_calls = {[] { kernels::scale(Tensor({3}, Dtype::i32), 2.0); }},
          .bench = {{large}}};
}

OpCase unary(const char* name, Tensor (*op)(const Tensor&), Array (*expected)(const Array&)) {
  return {.name = name,
          .sizes = alike(1, usual),
          .run = [op](const Tensors& in) { return Tensors{op(in[0])}; },
          .expected = [expected](const Arrays& in) { return Arrays{expected(in[0])}; },
          .wrong_calls = {[op] { op(Tensor({3}, Dtype::i32)); }},
          .bench = {{large}}};
}

// Inputs of a normal distribution: most are bent, some are nearly capped.
constexpr double cap = 0.75;

OpCase soft_cap_case() {
  return {.name = "kernels::soft_cap",
          .sizes = alike(1, usual),
          .run = [](const Tensors& in) { return Tensors{kernels::soft_cap(in[0], cap)}; },
          .expected = [](const Arrays& in) { return Arrays{reference::soft_cap(in[0], cap)}; },
          .wrong_calls = {[] { kernels::soft_cap(Tensor({3}, Dtype::i32), cap); },
                          [] { kernels::soft_cap(Tensor({3}, Dtype::f32), 0.0); },
                          [] { kernels::soft_cap(Tensor({3}, Dtype::f32), -1.0); },
                          [] { kernels::soft_cap(Tensor({3}, Dtype::f32), NAN); }},
          .bench = {{large}}};
}

OpCase soft_cap_backward_case() {
  return {
      .name = "kernels::soft_cap_backward",
      .sizes = alike(2, usual),
      .run =
          [](const Tensors& in) { return Tensors{kernels::soft_cap_backward(in[0], in[1], cap)}; },
      .expected =
          [](const Arrays& in) { return Arrays{reference::soft_cap_backward(in[0], in[1], cap)}; },
      .wrong = {{{2, 3}, {3, 2}}, {{3}, {4}}},
      .wrong_calls = {[] {
        const Tensor x({3}, Dtype::f32);
        kernels::soft_cap_backward(x, x, 0.0);
      }},
      .bench = alike(2, {large})};
}

OpCase swiglu_backward_case() {
  return {
      .name = "kernels::swiglu_backward",
      .sizes = alike(3, usual),
      .run =
          [](const Tensors& in) {
            auto [dgate, dup] = kernels::swiglu_backward(in[0], in[1], in[2]);
            return Tensors{dgate, dup};
          },
      .expected = [](const Arrays& in) { return reference::swiglu_backward(in[0], in[1], in[2]); },
      .wrong = {{{2, 3}, {3, 2}, {2, 3}}, {{2, 3}, {2, 3}, {3}}},
      .bench = alike(3, {large})};
}

}  // namespace

std::vector<OpCase> elementwise_cases() {
  return {fill_case(),
          cast_case(Dtype::f64),
          cast_case(Dtype::f32),
          cast_case(Dtype::bf16),
          cast_case(Dtype::f16),
          binary("kernels::add", &kernels::add, &reference::add),
          binary("kernels::sub", &kernels::sub, &reference::sub),
          binary("kernels::mul", &kernels::mul, &reference::mul),
          div_case(),
          add_into_case(),
          scale_case(),
          rescale_case(),
          rescale_by_one_case(true),
          rescale_by_one_case(false),
          rescale_backward_case(),
          with_row("kernels::add_row", &kernels::add_row, &reference::add_row),
          with_row("kernels::mul_row", &kernels::mul_row, &reference::mul_row),
          binary("kernels::swiglu", &kernels::swiglu, &reference::swiglu),
          swiglu_backward_case(),
          unary("kernels::relu", &kernels::relu, &reference::relu),
          binary("kernels::relu_backward", &kernels::relu_backward, &reference::relu_backward),
          unary("kernels::gelu", &kernels::gelu, &reference::gelu),
          binary("kernels::gelu_backward", &kernels::gelu_backward, &reference::gelu_backward),
          unary("kernels::exact_gelu", &kernels::exact_gelu, &reference::exact_gelu),
          binary("kernels::exact_gelu_backward", &kernels::exact_gelu_backward,
                 &reference::exact_gelu_backward),
          soft_cap_case(),
          soft_cap_backward_case()};
}

}  // namespace cbq::test
