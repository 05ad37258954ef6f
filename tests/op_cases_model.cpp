// Cases of autograd/functions.h that are parts of a language model, and its losses.
#include "autograd/functions.h"
#include "quant/transforms/hadamard_matrix.h"
#include "tests/op_case.h"
#include "tests/reference/matmul.h"
#include "tests/reference/move.h"
#include "tests/reference/reduce.h"
#include "tests/reference/rowwise.h"

namespace cbq::test {
namespace {

using Vars = std::vector<Var>;
constexpr double eps = 1e-5;

OpCase rms_norm_gradient() {
  return {
      .name = "ag::rms_norm",
      .sizes = {{{3, 7}, {7}}, {{2, 3, 5}, {5}}, {{1, 1}, {1}}, {{0, 4}, {4}}, {{70, 513}, {513}}},
      .expected =
          [](const Arrays& in) { return Arrays{reference::rms_norm(in[0], in[1], eps)[0]}; },
      .apply = [](const Vars& in) { return ag::rms_norm(in[0], in[1], eps); },
      .wrong = {{{2, 3}, {2}}}};
}

OpCase layer_norm_gradient(bool affine) {
  const auto shapes = [=](const Shape& x) {
    return affine ? Shapes{x, {x.back()}, {x.back()}} : Shapes{x};
  };
  return {.name = "ag::layer_norm",
          .variant = affine ? "affine" : "plain",
          .sizes = {shapes({3, 7}), shapes({2, 3, 5}), shapes({0, 4}), shapes({70, 513})},
          .expected =
              [=](const Arrays& in) {
                return Arrays{reference::layer_norm(in[0], affine ? &in[1] : nullptr,
                                                    affine ? &in[2] : nullptr, eps)[0]};
              },
          .apply =
              [=](const Vars& in) {
                return ag::layer_norm(in[0], affine ? in[1] : Var(), affine ? in[2] : Var(), eps);
              },
          .wrong = {affine ? Shapes{{2, 3}, {2}, {2}} : Shapes{{}}}};
}

OpCase rope_gradient() {
  return {
      .name = "ag::rope",
      .sizes = {{{8, 12}, {4, 2}, {4, 2}}, {{4, 4}, {9, 2}, {9, 2}}, {{0, 4}, {4, 2}, {4, 2}}},
      .inputs = {{}, angles, angles},
      .expected =
          [](const Arrays& in) {
            return Arrays{reference::rope(in[0], in[1], in[2], 4, 4, false)};
          },
      .apply = [](const Vars& in) { return ag::rope(in[0], in[1].value(), in[2].value(), 4, 4); },
      .leaves = {0},
      .wrong = {{{8, 10}, {4, 2}, {4, 2}}, {{8, 12}, {3, 2}, {3, 2}}}};
}

OpCase hadamard_gradient(int64_t order, bool transposed) {
  const Tensor matrix = hadamard_matrix(order);
  return {.name = "ag::hadamard",
          .variant = concat("order ", order, transposed ? ", transposed" : ""),
          .sizes = alike(1, {{3, order * 4}, {1, order}, {0, order * 2}}),
          .large_temporaries = true,
          .expected =
              [=](const Arrays& in) {
                return Arrays{reference::hadamard(in[0], to_array(matrix), transposed)};
              },
          .apply = [=](const Vars& in) { return ag::hadamard(in[0], matrix, transposed); },
          .wrong = {{{2, order * 3}}}};
}

OpCase embedding_gradient() {
  return {.name = "ag::embedding",
          .sizes = {{{6}, {5, 7}}, {{1}, {5, 1}}, {{0}, {5, 3}}},
          .inputs = {ids_below(5)},
          .expected = [](const Arrays& in) { return Arrays{reference::embedding(in[0], in[1])}; },
          .apply = [](const Vars& in) { return ag::embedding(in[0].value(), in[1]); },
          .leaves = {1},
          .wrong = {{{2, 3}, {5, 7}}, {{20}, {1, 7}}}};
}

OpCase attention_gradient(int64_t batch, int64_t heads, int64_t kv_heads) {
  const auto shapes = [=](int64_t tokens, int64_t dim) {
    const Shape kv = {batch * tokens, kv_heads * dim};
    return Shapes{{batch * tokens, heads * dim}, kv, kv};
  };
  // Two products of [tokens, tokens, dim] per head, half of each behind the mask.
  const auto bench_flops = [](const Shapes& s) {
    return 2.0 * double(s[0][0]) * double(s[0][0]) * double(s[0][1]);
  };
  Shapes odd = shapes(3, 4);
  odd[0][1] += 1;
  return {.name = "ag::attention",
          .variant = concat("batch ", batch, ", ", heads, " heads on ", kv_heads),
          .sizes = {shapes(3, 4), shapes(1, 1), shapes(0, 4), shapes(70, 9)},
          .expected =
              [=](const Arrays& in) {
                return Arrays{reference::attention(in[0], in[1], in[2], batch, heads, kv_heads)[0]};
              },
          .apply =
              [=](const Vars& in) {
                return ag::attention(in[0], in[1], in[2], batch, heads, kv_heads);
              },
          .wrong = {{shapes(3, 4)[0], shapes(2, 4)[1], shapes(2, 4)[2]},
                    {shapes(3, 4)[0], shapes(3, 5)[1], shapes(3, 5)[2]},
                    {shapes(3, 4)[0], shapes(3, 4)[1], shapes(3, 5)[2]},
                    odd},
          .wrong_calls = {[] {
                            const Var x(Tensor({4, 12}, Dtype::f32));
                            ag::attention(x, x, x, 1, 3, 2);
                          },
                          [] {
                            const Var x(Tensor({4, 12}, Dtype::f32));
                            ag::attention(x, x, x, 3, 2, 2);
                          },
                          [] {
                            const Var x(Tensor({48}, Dtype::f32));
                            ag::attention(x, x, x, 1, 2, 2);
                          }},
          .bench = batch == 1 ? std::vector<Shapes>{shapes(512, 64)} : std::vector<Shapes>{},
          .flops = bench_flops};
}

OpCase capped_attention_gradient(int64_t batch, int64_t heads, int64_t kv_heads) {
  constexpr double cap = 0.8;
  OpCase capped = attention_gradient(batch, heads, kv_heads);
  capped.variant = "soft cap, " + capped.variant;
  capped.expected = [=](const Arrays& in) {
    return Arrays{
        reference::attention(in[0], in[1], in[2], batch, heads, kv_heads, nullptr, cap)[0]};
  };
  capped.apply = [=](const Vars& in) {
    return ag::attention(in[0], in[1], in[2], batch, heads, kv_heads, {Tensor(), cap});
  };
  capped.bench = {};
  return capped;
}

OpCase alibi_attention_gradient(int64_t batch, int64_t heads, int64_t kv_heads) {
  const auto shapes = [=](int64_t tokens, int64_t dim) {
    const Shape kv = {batch * tokens, kv_heads * dim};
    return Shapes{{batch * tokens, heads * dim}, kv, kv, {heads}};
  };
  Shapes one_more = shapes(3, 4);
  one_more[3][0] += 1;
  return {.name = "ag::attention",
          .variant = concat("ALiBi, batch ", batch, ", ", heads, " heads on ", kv_heads),
          .sizes = {shapes(3, 4), shapes(1, 1), shapes(0, 4), shapes(9, 9)},
          .inputs = {{}, {}, {}, angles},
          .dtypes = {Dtype::f64, Dtype::f32},  // half precision rounds slope * j
          .expected =
              [=](const Arrays& in) {
                return Arrays{
                    reference::attention(in[0], in[1], in[2], batch, heads, kv_heads, &in[3])[0]};
              },
          .apply =
              [=](const Vars& in) {
                return ag::attention(in[0], in[1], in[2], batch, heads, kv_heads, in[3].value());
              },
          .leaves = {0, 1, 2},
          .wrong = {one_more}};
}

OpCase cross_entropy_gradient() {
  return {.name = "ag::cross_entropy",
          .sizes = {{{3, 7}, {3}}, {{1, 5}, {1}}, {{40, 513}, {40}}},
          .inputs = {{}, ids_below(5)},
          .expected =
              [](const Arrays& in) {
                return Arrays{reference::mean(reference::cross_entropy(in[0], in[1]))};
              },
          .apply = [](const Vars& in) { return ag::cross_entropy(in[0], in[1].value()); },
          .leaves = {0},
          .wrong = {{{3, 7}, {4}}, {{3, 1}, {3}}, {{0, 5}, {0}}}};
}

OpCase row_error_gradient(const char* variant, double l2, kernels::L2Form form, double kl) {
  return {
      .name = "ag::row_error",
      .variant = variant,
      .sizes = alike(2, {{3, 7}, {2, 3, 5}, {1, 1}, {70, 513}}),
      .expected =
          [=](const Arrays& in) {
            return Arrays{reference::mean(reference::row_error(in[0], in[1], l2, form, kl)[0])};
          },
      .apply = [=](const Vars& in) { return ag::row_error(in[0], in[1].value(), l2, form, kl); },
      .leaves = {0},
      .wrong = {{{2, 3}, {3, 2}}, {{0, 5}, {0, 5}}}};
}

}  // namespace

std::vector<OpCase> model_gradient_cases() {
  return {rms_norm_gradient(),
          layer_norm_gradient(true),
          layer_norm_gradient(false),
          rope_gradient(),
          hadamard_gradient(1, false),
          hadamard_gradient(12, false),
          hadamard_gradient(12, true),
          embedding_gradient(),
          attention_gradient(2, 4, 2),
          attention_gradient(1, 8, 8),
          attention_gradient(2, 3, 1),
          capped_attention_gradient(2, 4, 2),
          capped_attention_gradient(1, 2, 2),
          alibi_attention_gradient(2, 4, 2),
          alibi_attention_gradient(1, 6, 6),
          cross_entropy_gradient(),
          row_error_gradient("L2", 0.5, kernels::L2Form::sum, 0.0),
          row_error_gradient("L2 norm", 0.5, kernels::L2Form::norm, 0.0),
          row_error_gradient("L2 relative", 0.5, kernels::L2Form::relative, 0.0),
          row_error_gradient("KL", 0.0, kernels::L2Form::sum, 2.0),
          row_error_gradient("L2 + KL", 0.5, kernels::L2Form::sum, 2.0)};
}

}  // namespace cbq::test
