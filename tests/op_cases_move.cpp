// Cases of kernels/copy.
#include "kernels/ops.h"
#include "quant/transforms/hadamard_matrix.h"
#include "tests/op_case.h"
#include "tests/reference/move.h"

namespace cbq::test {
namespace {

/// take_part (or put_part): `groups` of `parts` of `dim`.
OpCase part_case(bool take, int64_t parts, int64_t part) {
  const auto shapes = [=](int64_t rows, int64_t groups) {
    return Shapes{{rows, groups * 5 * (take ? parts : 1)}};
  };
  const auto call = [=](const Tensor& x, int64_t p, int64_t dim) {
    return take ? kernels::take_part(x, parts, p, dim) : kernels::put_part(x, parts, p, dim);
  };
  return {.name = take ? "kernels::take_part" : "kernels::put_part",
          .variant = concat("part ", part, " of ", parts),
          .sizes = {shapes(4, 3), shapes(1, 1), shapes(0, 2), shapes(70, 101)},
          .run = [=](const Tensors& in) { return Tensors{call(in[0], part, 5)}; },
          .expected =
              [=](const Arrays& in) {
                return Arrays{take ? reference::take_part(in[0], parts, part, 5)
                                   : reference::put_part(in[0], parts, part, 5)};
              },
          .wrong = {{{2, 7}}, {{2, 3, 5 * parts}}},
          .wrong_calls = {[=] { call(Tensor(shapes(2, 1)[0], Dtype::f32), parts, 5); },
                          [=] { call(Tensor(shapes(2, 1)[0], Dtype::f32), -1, 5); },
                          [=] { call(Tensor(shapes(2, 1)[0], Dtype::f32), part, 0); },
                          [=] { call(Tensor(shapes(2, 1)[0], Dtype::i32), part, 5); }},
          .bench = {shapes(1024, 600)}};
}

/// take_columns (or put_columns) of 5 columns.
OpCase columns_case(bool take, int64_t first) {
  const auto shapes = [=](int64_t rows, int64_t width) {
    return Shapes{{rows, take ? width : int64_t{5}}};
  };
  const auto call = [=](const Tensor& x, int64_t at) {
    return take ? kernels::take_columns(x, at, 5) : kernels::put_columns(x, at, 300);
  };
  return {.name = take ? "kernels::take_columns" : "kernels::put_columns",
          .variant = concat("from column ", first),
          .sizes = {shapes(4, first + 5), shapes(1, 300), shapes(0, 70), shapes(70, 101)},
          .run = [=](const Tensors& in) { return Tensors{call(in[0], first)}; },
          .expected =
              [=](const Arrays& in) {
                return Arrays{take ? reference::take_columns(in[0], first, 5)
                                   : reference::put_columns(in[0], first, 300)};
              },
          .wrong = {{{7}}, {{2, 1, 5}}},
          .wrong_calls = {[=] { call(Tensor(shapes(2, 9)[0], Dtype::f32), -1); },
                          [=] { call(Tensor(shapes(2, 300)[0], Dtype::f32), 296); },
                          [=] { call(Tensor(shapes(2, 300)[0], Dtype::i32), first); }},
          .bench = {shapes(1024, 3000)}};
}

OpCase transpose_case() {
  return {.name = "kernels::transpose",
          .sizes = alike(1, {{3, 37}, {1, 1}, {1, 9}, {0, 4}, {4, 0}, {67, 300}}),
          .run = [](const Tensors& in) { return Tensors{kernels::transpose(in[0])}; },
          .expected = [](const Arrays& in) { return Arrays{reference::transpose(in[0])}; },
          .wrong = {{{6}}, {{1, 2, 3}}},
          .wrong_calls = {[] {
            kernels::transpose(Tensor({2, 3}, Dtype::i32));
          }},
          .bench = {{{1024, 4096}}}};
}

OpCase hadamard_case(int64_t order, bool transposed) {
  const Tensor matrix = hadamard_matrix(order);
  const int64_t rows = order < 64 ? 90 : 2;  // large ones take long in the emulator
  return {
      .name = "kernels::hadamard",
      .variant = concat("order ", order, transposed ? ", transposed" : ""),
      .sizes = alike(
          1, {{3, order * 4}, {1, order}, {2, 3, order * 2}, {0, order * 8}, {rows, order * 32}}),
      .large_temporaries = true,
      .run =
          [=](const Tensors& in) { return Tensors{kernels::hadamard(in[0], matrix, transposed)}; },
      .expected =
          [=](const Arrays& in) {
            return Arrays{reference::hadamard(in[0], to_array(matrix), transposed)};
          },
      .wrong = {{{2, order * 3}}, {{2, order * 4 + 1}}, {{3, 0}}},
      .wrong_calls =
          {[=] {
             kernels::hadamard(Tensor::zeros({2, order}, Dtype::i32), matrix, transposed);
           },
           [=] {
             kernels::hadamard(Tensor::zeros({2, order}, Dtype::f32), Tensor(), transposed);
           },
           [=] {
             kernels::hadamard(Tensor::zeros({2, 12}, Dtype::f32),
                               Tensor::zeros({2, 3}, Dtype::f32), transposed);
           },
           [=] {
             kernels::hadamard(Tensor::zeros({2, 12}, Dtype::f32),
                               Tensor::zeros({2, 2}, Dtype::f64), transposed);
           }},
      .bench = {{{1024, order * 128}}}};
}

OpCase embedding_case() {
  return {.name = "kernels::embedding",
          .sizes = {{{6}, {5, 7}}, {{1}, {5, 1}}, {{0}, {5, 3}}, {{300}, {5, 67}}},
          .inputs = {ids_below(5)},
          .run = [](const Tensors& in) { return Tensors{kernels::embedding(in[0], in[1])}; },
          .expected = [](const Arrays& in) { return Arrays{reference::embedding(in[0], in[1])}; },
          .wrong = {{{2, 3}, {5, 7}}, {{6}, {35}}, {{20}, {1, 7}}},
          .wrong_calls =
              {[] {
                 const auto ids = Tensor::from(std::vector<int32_t>{0, -1}, {2});
                 kernels::embedding(ids, Tensor({5, 3}, Dtype::f32));
               },
               [] {
                 kernels::embedding(Tensor::zeros({2}, Dtype::f32), Tensor({5, 3}, Dtype::f32));
               }},
          .bench = {{{4096}, {5, 1024}}}};
}

OpCase embedding_backward_case() {
  return {
      .name = "kernels::embedding_backward",
      .sizes = {{{6}, {6, 7}}, {{1}, {1, 1}}, {{0}, {0, 3}}, {{300}, {300, 67}}},
      .inputs = {ids_below(5)},
      .run =
          [](const Tensors& in) { return Tensors{kernels::embedding_backward(in[0], in[1], 6)}; },
      .expected =
          [](const Arrays& in) { return Arrays{reference::embedding_backward(in[0], in[1], 6)}; },
      .wrong = {{{6}, {5, 7}}, {{6}, {42}}, {{2, 3}, {6, 7}}},
      .wrong_calls = {[] {
                        kernels::embedding_backward(Tensor::zeros({2}, Dtype::i32),
                                                    Tensor({2, 3}, Dtype::f32), -1);
                      },
                      [] {
                        const auto ids = Tensor::from(std::vector<int32_t>{0, 7}, {2});
                        kernels::embedding_backward(ids, Tensor({2, 3}, Dtype::f32), 7);
                      }},
      .bench = {{{4096}, {4096, 1024}}}};
}

OpCase gather_rows_case(const std::vector<int64_t>& indices) {
  return {
      .name = "kernels::gather_rows",
      .variant = concat(indices.size(), " rows"),
      .sizes = alike(1, {{4, 37}, {4, 2, 3}, {4}, {4, 0}, {5, 4099}}),
      .run = [=](const Tensors& in) { return Tensors{kernels::gather_rows(in[0], indices)}; },
      .expected = [=](const Arrays& in) { return Arrays{reference::gather_rows(in[0], indices)}; },
      .wrong = {{{}}},
      .wrong_calls = {[] {
                        kernels::gather_rows(Tensor({3, 2}, Dtype::f32), {0, 3});
                      },
                      [] {
                        kernels::gather_rows(Tensor({3, 2}, Dtype::f32), {-1});
                      }}};
}

/// `pairs` of each head of `dim` elements turn.
OpCase rope_case(int64_t tokens, int64_t dim, int64_t pairs, bool inverse) {
  const auto shapes = [=](int64_t batch, int64_t heads, int64_t spare) {
    const Shape table = {tokens + spare, pairs};
    return Shapes{{batch * tokens, heads * dim}, table, table};
  };
  const auto call = [=](const Tensor& x, const Tensor& c, const Tensor& s) {
    return kernels::rope(x, c, s, tokens, dim, inverse);
  };
  const Shapes good = shapes(2, 3, 0);
  const Shape longer = {2 * tokens + 1, 3 * dim}, wider = {2 * tokens, 3 * dim + 1};
  const Shape narrow = {tokens, dim / 2 + 1}, few = {tokens - 1, pairs};
  return {.name = "kernels::rope",
          .variant = concat(tokens, " tokens, dim ", dim, ", ", pairs, " pairs",
                            inverse ? ", inverse" : ""),
          .sizes = {good, shapes(1, 1, 3), shapes(0, 2, 0), shapes(40, 30, 0)},
          .inputs = {{}, angles, angles},
          .run = [=](const Tensors& in) { return Tensors{call(in[0], in[1], in[2])}; },
          .expected =
              [=](const Arrays& in) {
                return Arrays{reference::rope(in[0], in[1], in[2], tokens, dim, inverse)};
              },
          .wrong = {{wider, good[1], good[2]},
                    {good[0], narrow, narrow},
                    {good[0], few, few},
                    {good[0], good[1], narrow},
                    {longer, good[1], good[2]}},
          .wrong_calls = {[=] {
            const Tensor x(good[0], Dtype::f64), table(good[1], Dtype::f64);
            call(x, table, table);
          }},
          .bench = {shapes(128, 32, 0)}};
}

}  // namespace

std::vector<OpCase> move_cases() {
  return {part_case(true, 3, 0),
          part_case(true, 3, 2),
          part_case(false, 3, 1),
          part_case(false, 1, 0),
          transpose_case(),
          embedding_case(),
          embedding_backward_case(),
          gather_rows_case({3, 0, 0, 2}),
          gather_rows_case({}),
          rope_case(5, 6, 3, false),
          rope_case(8, 128, 64, true),
          rope_case(5, 6, 1, true),
          rope_case(8, 128, 32, false),
          columns_case(true, 0),
          columns_case(true, 64),
          columns_case(false, 0),
          columns_case(false, 64),
          hadamard_case(1, false),
          hadamard_case(12, false),
          hadamard_case(12, true),
          hadamard_case(28, false),
          hadamard_case(172, false),
          hadamard_case(172, true)};
}

}  // namespace cbq::test
