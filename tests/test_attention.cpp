// Attention in tiles beside its definition, and the memory it takes.
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/functions.h"
#include "autograd/worst_error.h"
#include "tests/op_case.h"
#include "tests/reference/matmul.h"

namespace cbq::test::test_attention {
namespace {

using kernels::AttentionHeads;
using kernels::AttentionScores;
using kernels::AttentionTiles;

struct Results {
  Tensor o, dq, dk, dv;
};

struct Inputs {
  Tensor q, k, v, d_o, slopes;
};
Inputs inputs_of(const AttentionHeads& h, int64_t tokens, int64_t dim, Dtype dtype) {
  const Shape q = {h.batch * tokens, h.heads * dim}, k = {h.batch * tokens, h.kv_heads * dim};
  return {make_input({}, q, dtype, 1), make_input({}, k, dtype, 2), make_input({}, k, dtype, 3),
          make_input({}, q, dtype, 4), make_input(angles, {h.heads}, dtype, 5)};
}

/// The textbook's loops in f64: one query at a time, the softmax's gradient by its full Jacobian.
Results by_definition(const Inputs& in, const AttentionHeads& h, const AttentionScores& scores) {
  const Tensor& slopes = scores.slopes;
  const Array q = to_array(in.q), k = to_array(in.k), v = to_array(in.v), d_o = to_array(in.d_o);
  const Array bias = slopes.defined() ? to_array(slopes) : Array({0});
  const Array* alibi = slopes.defined() ? &bias : nullptr;
  const Arrays forward =
      reference::attention(q, k, v, h.batch, h.heads, h.kv_heads, alibi, scores.cap);
  const Arrays gradients =
      reference::attention_backward(q, k, v, d_o, h.batch, h.heads, h.kv_heads, alibi, scores.cap);
  const auto tensor = [](const Array& x) { return Tensor::from(x.values, x.shape, Dtype::f64); };
  return {tensor(forward[0]), tensor(gradients[0]), tensor(gradients[1]), tensor(gradients[2])};
}

Results in_tiles(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_o,
                 const AttentionHeads& h, const AttentionScores& scores,
                 const AttentionTiles& tiles) {
  const auto forward = kernels::attention(q, k, v, h, scores, tiles);
  const auto [dq, dk, dv] = kernels::attention_backward(q, k, v, forward, d_o, h, scores, tiles);
  return {forward.o, dq, dk, dv};
}

/// The largest difference, in units of the largest element, or of 0.1 where all should be zero: of
/// one token the gradients of query and key.
double difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  double largest = 0.1;
  for (const double value : y) largest = std::max(largest, std::abs(value));
  return largest_difference(x, y) / largest;
}

// Lengths around the edges of tiles and of vectors; tiles of one query, of more than there are, and
// those chosen for the device; heads alone and several at once, as on CUDA.
TEST(Attention, TilesAgreeWithTheDefinition) {
  for (const AttentionHeads& h : {AttentionHeads{1, 4, 4}, AttentionHeads{2, 6, 2}}) {
    for (int64_t tokens : {1, 2, 15, 17, 63, 64, 65, 130}) {
      const Inputs in = inputs_of(h, tokens, tokens % 2 == 0 ? 16 : 5, Dtype::f64);
      for (const AttentionScores& scores :
           {AttentionScores(), AttentionScores(in.slopes), AttentionScores({}, 0.7),
            AttentionScores(in.slopes, 3.0)}) {
        const Results want = by_definition(in, h, scores);
        for (const AttentionTiles& tiles :
             {AttentionTiles{}, AttentionTiles{1, 2}, AttentionTiles{16, 4}, AttentionTiles{31, 3},
              AttentionTiles{500, 500}}) {
          SCOPED_TRACE(concat(h.heads, " heads, ", tokens, " tokens, tiles of ", tiles.queries,
                              " x ", tiles.kv_heads, ", cap ", scores.cap));
          const Results got = in_tiles(in.q, in.k, in.v, in.d_o, h, scores, tiles);
          EXPECT_LT(difference(got.o, want.o), 1e-13);
          EXPECT_LT(difference(got.dq, want.dq), 1e-12);
          EXPECT_LT(difference(got.dk, want.dk), 1e-12);
          EXPECT_LT(difference(got.dv, want.dv), 1e-12);
        }
      }
    }
  }
}

TEST(Attention, HeadSizesOfKnownModels) {
  for (int64_t dim : {64, 80, 96, 128, 256}) {
    const AttentionHeads h{1, 2, 1};
    const AttentionScores scores(Tensor(), dim == 256 ? 1.5 : 0.0);  // Gemma 2's heads
    for (Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
      const double tolerance = dtype == Dtype::f32 ? 1e-5 : dtype == Dtype::bf16 ? 4e-2 : 6e-3;
      const Inputs in = inputs_of(h, 70, dim, dtype);
      const Results want = by_definition(in, h, scores);
      const Results got = in_tiles(in.q, in.k, in.v, in.d_o, h, scores, {32, 0});
      EXPECT_LT(difference(got.o, want.o), tolerance) << dim << " " << name_of(dtype);
      EXPECT_LT(difference(got.dq, want.dq), tolerance) << dim << " " << name_of(dtype);
      EXPECT_LT(difference(got.dk, want.dk), tolerance) << dim << " " << name_of(dtype);
      EXPECT_LT(difference(got.dv, want.dv), tolerance) << dim << " " << name_of(dtype);
    }
  }
}

// Scores far apart: the exponentials of most underflow, one is certain.
TEST(Attention, LargeScoresStayFinite) {
  const AttentionHeads h{1, 1, 1};
  Inputs in = inputs_of(h, 40, 8, Dtype::f32);
  in.q = kernels::scale(in.q, 300.0);
  const Results got = in_tiles(in.q, in.k, in.v, in.d_o, h, Tensor(), {16, 1});
  for (const Tensor& t : {got.o, got.dq, got.dk, got.dv}) {
    EXPECT_FALSE(kernels::has_non_finite(t));
  }
}

/// Bytes at most in use during forward and backward, beyond inputs.
int64_t peak_of(int64_t tokens) {
  const AttentionHeads h{1, 4, 4};
  const Inputs in = inputs_of(h, tokens, 16, Dtype::f32);
  const int64_t before = memory_statistics(Device::cpu()).current_bytes;
  reset_peak(Device::cpu());
  Tape tape;
  const Var q(in.q, true), k(in.k, true), v(in.v, true);
  tape.backward(ag::attention(q, k, v, h.batch, h.heads, h.kv_heads), in.d_o);
  EXPECT_TRUE(q.grad().defined() && k.grad().defined() && v.grad().defined());
  return memory_statistics(Device::cpu()).peak_bytes - before;
}

TEST(Attention, MemoryGrowsWithTheTokensNotWithTheirSquare) {
  const int64_t tokens = 1024, all_scores = 4 * tokens * tokens * 4;
  const int64_t peak = peak_of(tokens), twice = peak_of(2 * tokens);
  EXPECT_LT(peak, all_scores / 4);
  EXPECT_LT(static_cast<double>(twice), 2.3 * static_cast<double>(peak));
}

// An error in a tile is an error of the call, also where tiles are not divided among threads.
TEST(Attention, WhatADeviceRefusesIsThrown) {
  if (cuda_device_count() > 0) GTEST_SKIP() << "a CUDA device is there";
  const auto call = [] {
    const Tensor x({8, 12}, Dtype::f32, Device::cuda());
    kernels::attention(x, x, x, {2, 3, 3});
  };
  EXPECT_THROW(call(), std::runtime_error);
}

}  // namespace
}  // namespace cbq::test::test_attention
