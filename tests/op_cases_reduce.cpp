// Cases of kernels/reduce.
#include "kernels/ops.h"
#include "tests/op_case.h"
#include "tests/reference/reduce.h"

namespace cbq::test {
namespace {

const Shape wide = {1024, 4096};
// 150 rows are three blocks of rows, 4200 of them two levels of blocks; 5 * 4099 elements are six
// chunks (kernels/reduce.cu).
const std::vector<Shapes> matrices =
    alike(1, {{3, 37}, {2, 3, 5}, {1}, {0, 4}, {150, 129}, {4200, 17}});

OpCase sum_case() {
  return {.name = "kernels::sum",
          .sizes = alike(1, {{3, 37}, {}, {1}, {0}, {5, 4099}}),
          .run = [](const Tensors& in) { return Tensors{kernels::sum(in[0])}; },
          .expected = [](const Arrays& in) { return Arrays{reference::sum(in[0])}; },
          .wrong_calls = {[] { kernels::sum(Tensor({3}, Dtype::i32)); }},
          .bench = {{wide}}};
}

OpCase sum_rows_case() {
  return {.name = "kernels::column_sums",
          .sizes = matrices,
          .run = [](const Tensors& in) { return Tensors{kernels::column_sums(in[0])}; },
          .expected = [](const Arrays& in) { return Arrays{reference::column_sums(in[0])}; },
          .wrong = {{{}}},
          .bench = {{wide}}};
}

OpCase min_max_rows_case() {
  return {.name = "kernels::min_max_rows",
          .sizes = matrices,
          .run =
              [](const Tensors& in) {
                auto [low, high] = kernels::min_max_rows(in[0]);
                return Tensors{low, high};
              },
          .expected = [](const Arrays& in) { return reference::min_max_rows(in[0]); },
          .wrong = {{{3, 0}}, {{}}},
          .bench = {{wide}}};
}

OpCase abs_max_columns_case() {
  return {.name = "kernels::abs_max_columns",
          .sizes = matrices,
          .run = [](const Tensors& in) { return Tensors{kernels::abs_max_columns(in[0])}; },
          .expected = [](const Arrays& in) { return Arrays{reference::abs_max_columns(in[0])}; },
          .wrong = {{{}}},
          .bench = {{wide}}};
}

Tensors scalar(double value, Dtype dtype) {
  return {Tensor::from(std::vector<double>{value}, {1}, dtype)};
}

OpCase has_non_finite_case(double planted) {
  return {.name = "kernels::has_non_finite",
          .variant = concat("with ", planted),
          .sizes = alike(1, {{3, 37}, {1}, {5, 4099}}),
          .run =
              [planted](const Tensors& in) {
                const double before = kernels::has_non_finite(in[0]) ? 1.0 : 0.0;
                const Tensor x = in[0].clone().reshape({-1});
                kernels::fill(x.slice(x.count() - 1, x.count()), planted);
                const double after = kernels::has_non_finite(x) ? 1.0 : 0.0;
                return Tensors{scalar(before, Dtype::f64)[0], scalar(after, Dtype::f64)[0]};
              },
          .expected =
              [planted](const Arrays&) {
                return Arrays{Array({1}, {0.0}), Array({1}, {std::isfinite(planted) ? 0.0 : 1.0})};
              },
          .wrong_calls = {[] { kernels::has_non_finite(Tensor({3}, Dtype::i32)); }},
          .bench = std::isnan(planted) ? std::vector<Shapes>{{wide}} : std::vector<Shapes>{}};
}

OpCase sum_of_squares_case() {
  return {.name = "kernels::sum_of_squares",
          .sizes = alike(1, {{3, 37}, {1}, {0}, {5, 4099}}),
          .run =
              [](const Tensors& in) {
                const Dtype kept = in[0].dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
                return scalar(kernels::sum_of_squares(in[0]), kept);
              },
          .expected = [](const Arrays& in) { return Arrays{reference::sum_of_squares(in[0])}; },
          .wrong_calls = {[] { kernels::sum_of_squares(Tensor({3}, Dtype::i32)); }},
          .bench = {{wide}}};
}

}  // namespace

std::vector<OpCase> reduce_cases() {
  return {sum_case(),
          sum_rows_case(),
          min_max_rows_case(),
          abs_max_columns_case(),
          has_non_finite_case(0.0),
          has_non_finite_case(NAN),
          has_non_finite_case(INFINITY),
          has_non_finite_case(-INFINITY),
          sum_of_squares_case()};
}

}  // namespace cbq::test
