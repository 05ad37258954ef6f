// Semantics of Var and Tape, gradcheck itself, and a whole transformer block.
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/functions.h"
#include "autograd/gradcheck.h"
#include "autograd/worst_error.h"
#include "tests/op_case.h"

namespace cbq::test::test_autograd {
namespace {

using kernels::Trans;
using Vars = std::vector<Var>;

Tensor random(const Shape& shape, uint64_t seed, Dtype dtype = Dtype::f64) {
  return make_input({}, shape, dtype, seed);
}
Var leaf(const Shape& shape, uint64_t seed, Dtype dtype = Dtype::f64) {
  return Var(random(shape, seed, dtype), true);
}
Tensor scalar(double value) { return Tensor::from(std::vector<double>{value}, {1}); }
std::vector<double> values(const Tensor& t) { return t.to_vector<double>(); }

int64_t bytes_in_use() { return memory_statistics(Device::cpu()).current_bytes; }

// ---- recording --------------------------------------------------------------------------------

TEST(Tape, RecordsOnlyWhatNeedsAGradient) {
  const Var constant(scalar(2.0)), x(scalar(3.0), true);
  EXPECT_FALSE(ag::mul(x, x).requires_grad()) << "no tape lives";
  Tape tape;
  EXPECT_FALSE(ag::mul(constant, constant).requires_grad());
  EXPECT_EQ(tape.size(), 0u);
  EXPECT_TRUE(ag::mul(constant, x).requires_grad());
  EXPECT_EQ(tape.size(), 1u);
}

TEST(Tape, GradientOfAScalar) {
  Var x(scalar(3.0), true), constant(scalar(2.0));
  Tape tape;
  const Var y = ag::mul(ag::mul(x, x), constant);
  tape.backward(y);
  EXPECT_EQ(x.grad().item(), 12.0);
  EXPECT_FALSE(constant.grad().defined());
  EXPECT_EQ(tape.size(), 0u);
}

TEST(Tape, UsesOfOneVariableAddUp) {
  const Var x(scalar(3.0), true);
  Tape tape;
  const Var y = ag::add(ag::add(x, x), ag::mul(x, x));  // 2x + x^2
  tape.backward(y);
  EXPECT_EQ(x.grad().item(), 8.0);
}

TEST(Tape, BackwardTwiceAddsUntilCleared) {
  Var x(scalar(3.0), true);
  for (double expected : {6.0, 12.0}) {
    Tape tape;
    tape.backward(ag::mul(x, x));
    EXPECT_EQ(x.grad().item(), expected);
  }
  x.clear_grad();
  EXPECT_FALSE(x.grad().defined());
}

TEST(Tape, ContributionsDoNotShareStorage) {
  // y = a + b hands the same gradient to both: writing to one must not reach the other.
  const Var a = leaf({3}, 1), b = leaf({3}, 2);
  const Tensor seed = random({3}, 3);
  const std::vector<double> before = values(seed);
  Tape tape;
  tape.backward(ag::add(a, b), seed.clone());
  kernels::fill(a.grad(), 7.0);
  EXPECT_EQ(values(b.grad()), before);
}

TEST(Tape, NestedTapesRecordApart) {
  const Var x(scalar(3.0), true);
  Tape outer;
  const Var y = ag::mul(x, x);
  {
    Tape inner;
    EXPECT_EQ(Tape::active(), &inner);
    const Var z = ag::scale(x, 5.0);
    EXPECT_EQ(inner.size(), 1u);
    EXPECT_EQ(outer.size(), 1u);
    inner.backward(z);
    EXPECT_EQ(x.grad().item(), 5.0);
  }
  EXPECT_EQ(Tape::active(), &outer);
  outer.backward(y);
  EXPECT_EQ(x.grad().item(), 11.0);
}

TEST(Tape, NoGradSuspendsAndResumes) {
  const Var x(scalar(3.0), true);
  Tape tape;
  {
    const NoGrad none;
    EXPECT_EQ(Tape::active(), nullptr);
    EXPECT_FALSE(ag::mul(x, x).requires_grad());
    Tape inside;  // a tape opened within records again
    EXPECT_TRUE(ag::mul(x, x).requires_grad());
  }
  EXPECT_EQ(Tape::active(), &tape);
  EXPECT_EQ(tape.size(), 0u);
}

TEST(Tape, AnUnusedResultCostsNothing) {
  const Var x(scalar(3.0), true);
  Tape tape;
  const Var unused = ag::mul(x, x);
  const Var y = ag::scale(x, 2.0);
  tape.backward(y);
  EXPECT_EQ(x.grad().item(), 2.0);
  EXPECT_FALSE(unused.grad().defined());
}

TEST(Tape, SaysWhyItCannotGoBack) {
  const Var constant(scalar(1.0)), x = leaf({3}, 1);
  Tape tape;
  EXPECT_THROW(tape.backward(Var()), std::invalid_argument);
  EXPECT_THROW(tape.backward(constant), std::invalid_argument);
  EXPECT_THROW(tape.backward(ag::scale(x, 2.0)), std::invalid_argument) << "no scalar, no seed";
  EXPECT_THROW(tape.backward(ag::scale(x, 2.0), random({4}, 1)), std::invalid_argument);
}

TEST(Tape, NothingIsRecordedWhileBackwardRuns) {
  const Var x(scalar(3.0), true);
  Tape tape;
  bool recording = true, needs_gradient = true;
  const Var y = differentiable(x.value(), {&x}, [&](const Tensor&) {
    recording = Tape::active() != nullptr;
    needs_gradient = ag::mul(x, x).requires_grad();
  });
  tape.backward(y);
  EXPECT_FALSE(recording);
  EXPECT_FALSE(needs_gradient);
  EXPECT_EQ(tape.size(), 0u);
}

TEST(Tape, AnExceptionInAVjpLeavesTheTapeUsable) {
  const Var x(scalar(3.0), true);
  Tape tape;
  const Var y = differentiable(x.value(), {&x}, [](const Tensor&) { fail("broken vjp"); });
  EXPECT_THROW(tape.backward(y), std::runtime_error);
  EXPECT_EQ(Tape::active(), &tape) << "recording resumes";
}

TEST(Var, ReplacingTheValueDropsTheGradient) {
  Var x(scalar(3.0), true);
  x.accumulate(scalar(1.0));
  x.set_value(scalar(4.0));
  EXPECT_FALSE(x.grad().defined());
  EXPECT_EQ(x.value().item(), 4.0);
  EXPECT_THROW(x.accumulate(Tensor({2}, Dtype::f64)), std::invalid_argument);
}

// ---- memory -----------------------------------------------------------------------------------

constexpr int64_t kilobyte = 1024;
const Shape megabyte_f64 = {128 * kilobyte};

TEST(Tape, FreesSavedTensorsWhileBackwardRuns) {
  const Var x(random(megabyte_f64, 1), true);
  const int64_t before = bytes_in_use();
  std::vector<int64_t> during;
  {
    Tape tape;
    Var y = x;
    for (int i = 0; i < 8; ++i) {
      // A probe between the layers: what is in use when backward comes by.
      y = differentiable(y.value(), {&y}, [y, &during](const Tensor& dy) {
        during.push_back(bytes_in_use());
        y.accumulate_copy(dy);
      });
      y = ag::mul(y, y);  // saves its input, 1 MB
    }
    const Var total = ag::sum(y);
    y = Var();
    tape.backward(total);
  }
  ASSERT_EQ(during.size(), 8u);
  for (size_t i = 1; i < during.size(); ++i) {
    EXPECT_LE(during[i], during[i - 1] - 900 * kilobyte) << "layer " << i << " of backward";
  }
  // Left: the gradient of x.
  EXPECT_NEAR(static_cast<double>(bytes_in_use() - before), 1024.0 * kilobyte, 64.0 * kilobyte);
}

TEST(Tape, ForgottenTapeFreesWhatItSaved) {
  const Var x(random(megabyte_f64, 1), true);
  const int64_t before = bytes_in_use();
  {
    Tape tape;
    const Var y = ag::mul(ag::mul(x, x), x);
    EXPECT_GT(bytes_in_use(), before + 1000 * kilobyte);
  }
  EXPECT_EQ(bytes_in_use(), before);
}

TEST(Tape, KeepsNoValueThatBackwardDoesNotRead) {
  const Shape matrix = {1024, 128};  // 1 MB
  const Var x(random(matrix, 1), true), other(random(matrix, 2)), row = leaf({128}, 3);
  const Var weight(random({128, 128}, 4));
  const Tensor angles = random({1024, 8}, 5, Dtype::f32);
  const int64_t before = bytes_in_use();
  Tape tape;
  Var y = ag::add(ag::add(x, other), x);
  y = ag::add_row(y, row);
  y = ag::rope(y, angles, angles, 1024, 16);
  y = ag::reshape(y, {512, 256});
  y = ag::reshape(y, matrix);
  y = ag::mul(ag::scale(y, 3.0), other);  // only `other` is read
  y = ag::linear(y, weight, Var());       // only `weight` is
  y = ag::take_part(y, 2, 0, 64);         // half a MB
  y = ag::add(y, y);
  EXPECT_LT(bytes_in_use() - before, 600 * kilobyte);  // y itself
}

TEST(Tape, WeightsThatNeedNoGradientCostNoInputs) {
  const Var x = leaf({4, 3}, 1), fixed(random({5, 3}, 2)), learned = leaf({5, 3}, 3);
  for (const Var& w : {fixed, learned}) {
    Tape tape;
    tape.backward(ag::sum(ag::linear(x, w, Var())));
  }
  EXPECT_FALSE(fixed.grad().defined());
  EXPECT_TRUE(learned.grad().defined());
}

TEST(Tape, GradientsHandedOnWithoutACopyStayApart) {
  // What add_row and reshape hand on is the gradient of their output: nobody else may have it.
  const Var x = leaf({2, 3}, 1), b = leaf({3}, 2);
  Tape tape;
  const Var flat = ag::reshape(ag::add_row(x, b), {6});
  const Var y = ag::add(flat, ag::reshape(x, {6}));
  tape.backward(y, Tensor::from(std::vector<double>{1, 2, 3, 4, 5, 6}, {6}));
  EXPECT_EQ(values(x.grad()), (std::vector<double>{2, 4, 6, 8, 10, 12}));
  EXPECT_EQ(values(b.grad()), (std::vector<double>{5, 7, 9}));
}

TEST(Tape, HandingOnAGradientTakesNoMemory) {
  const Var x(random(megabyte_f64, 1), true);
  const int64_t before = bytes_in_use();
  {
    Tape tape;
    Var y = x;
    for (int i = 0; i < 4; ++i) y = ag::reshape(y, i % 2 ? megabyte_f64 : Shape{128, kilobyte});
    Tensor seed(megabyte_f64, Dtype::f64);
    seed.fill_zero();
    reset_peak(Device::cpu());
    tape.backward(y, std::move(seed));
  }
  EXPECT_LT(memory_statistics(Device::cpu()).peak_bytes - before, 1100 * kilobyte);
}

// ---- gradcheck --------------------------------------------------------------------------------

/// x^2 with a gradient of `factor` x.
Var square_with(const Var& x, double factor) {
  return differentiable(kernels::mul(x.value(), x.value()), {&x}, [x, factor](const Tensor& dy) {
    x.accumulate(kernels::scale(kernels::mul(dy, x.value()), factor));
  });
}

TEST(Gradcheck, AcceptsTheRightGradientOnly) {
  const Tensors x = {random({2, 3}, 1)};
  EXPECT_TRUE(gradcheck([](const Vars& in) { return square_with(in[0], 2.0); }, x).passed);
  for (double wrong : {2.00001, -2.0, 0.0, static_cast<double>(NAN)}) {
    const GradcheckResult result =
        gradcheck([wrong](const Vars& in) { return square_with(in[0], wrong); }, x);
    EXPECT_FALSE(result.passed) << wrong;
    EXPECT_NE(result.message.find("input 0"), std::string::npos) << result.message;
  }
}

TEST(Gradcheck, SeesAMissingContribution) {
  const Tensors x = {random({2, 3}, 1), random({2, 3}, 2)};
  const auto forgets_b = [](const Vars& in) {
    const Var a = in[0], b = in[1];
    return differentiable(kernels::mul(a.value(), b.value()), {&a, &b},
                          [a, b](const Tensor& dy) { a.accumulate(kernels::mul(dy, b.value())); });
  };
  const GradcheckResult result = gradcheck(forgets_b, x);
  EXPECT_FALSE(result.passed);
  EXPECT_NE(result.message.find("input 1"), std::string::npos) << result.message;
}

TEST(Gradcheck, SeesPermutedGradients) {
  // A transposed gradient has the right sum: only unequal weights of the outputs tell.
  const Tensors x = {random({3, 3}, 1)};
  const auto transposed = [](const Vars& in) {
    const Var a = in[0];
    return differentiable(kernels::scale(a.value(), 2.0), {&a}, [a](const Tensor& dy) {
      a.accumulate(kernels::scale(kernels::transpose(dy), 2.0));
    });
  };
  EXPECT_FALSE(gradcheck(transposed, x).passed);
}

// One element of one gradient; the elements after it are right.
TEST(Gradcheck, SeesANotANumberAnywhere) {
  const Tensors x = {random({2, 3}, 1), random({2, 3}, 2)};
  for (size_t input = 0; input < 2; ++input) {
    for (int64_t element = 0; element < 6; ++element) {
      const auto spoiled = [&](const Vars& in) {
        const Var a = in[0], b = in[1];
        const Var& bad = in[input];
        return differentiable(kernels::add(a.value(), b.value()), {&a, &b},
                              [a, b, bad, element](const Tensor& dy) {
                                a.accumulate(dy.clone());
                                b.accumulate(dy.clone());
                                const Tensor nan = Tensor::zeros(dy.shape(), dy.dtype());
                                nan.data<double>()[element] = NAN;
                                bad.accumulate(nan);
                              });
      };
      const GradcheckResult result = gradcheck(spoiled, x);
      EXPECT_FALSE(result.passed) << input << " " << element;
      EXPECT_EQ(result.worst, INFINITY);
      const std::string where = concat("input ", input, " element ", element, ":");
      EXPECT_NE(result.message.find(where), std::string::npos) << result.message;
    }
  }
}

TEST(WorstError, NothingHidesANotANumber) {
  WorstError worst;
  EXPECT_EQ(worst.value(), 0.0);
  EXPECT_FALSE(worst.add(0.0));
  EXPECT_TRUE(worst.add(0.5));
  EXPECT_FALSE(worst.add(0.25));
  EXPECT_EQ(worst.value(), 0.5);
  EXPECT_TRUE(worst.add(NAN));
  EXPECT_FALSE(worst.add(1e300));
  EXPECT_FALSE(worst.add(NAN));
  EXPECT_EQ(worst.value(), INFINITY);
}

TEST(WorstError, LargestDifferenceOfLists) {
  const std::vector<double> a = {1, -2, INFINITY, 4};
  EXPECT_EQ(largest_difference(a, a), 0.0);
  EXPECT_EQ(largest_difference(a, {1.5, -2.25, INFINITY, 4}), 0.5);
  EXPECT_EQ(largest_difference(a, {1, NAN, INFINITY, 4}), INFINITY);
  EXPECT_EQ(largest_difference({1, NAN, 3, 4}, {1, 2, 3, 4}), INFINITY);
  EXPECT_EQ(largest_difference(a, {1, -2, 3, 4}), INFINITY);
  EXPECT_EQ(largest_difference(a, {1, -2, -INFINITY, 4}), INFINITY);
  EXPECT_EQ(largest_difference(a, {1, -2}), INFINITY);
}

TEST(Gradcheck, WantsDoubles) {
  const auto f = [](const Vars& in) { return in[0]; };
  EXPECT_THROW(gradcheck(f, {random({2}, 1, Dtype::f32)}), std::invalid_argument);
}

// ---- a whole block ----------------------------------------------------------------------------

constexpr int64_t batch = 2, tokens = 3, heads = 4, kv_heads = 2, dim = 2, hidden = heads * dim;
constexpr int64_t wide = 5;

/// A LLaMA block of plain functions: {x, norm1, wq, wk, wv, wo, norm2, gate, up, down}.
Var block(const Vars& p, const Tensor& cosine, const Tensor& sine) {
  const Var none;
  const Var n1 = ag::rms_norm(p[0], p[1], 1e-5);
  const Var q = ag::rope(ag::linear(n1, p[2], none), cosine, sine, tokens, dim);
  const Var k = ag::rope(ag::linear(n1, p[3], none), cosine, sine, tokens, dim);
  const Var v = ag::linear(n1, p[4], none);
  const Var h =
      ag::add(p[0], ag::linear(ag::attention(q, k, v, batch, heads, kv_heads), p[5], none));
  const Var n2 = ag::rms_norm(h, p[6], 1e-5);
  const Var mlp = ag::swiglu(ag::linear(n2, p[7], none), ag::linear(n2, p[8], none));
  return ag::add(h, ag::linear(mlp, p[9], none));
}

const std::vector<Shape> block_shapes = {
    {batch * tokens, hidden}, {hidden},         {hidden, hidden}, {kv_heads * dim, hidden},
    {kv_heads * dim, hidden}, {hidden, hidden}, {hidden},         {wide, hidden},
    {wide, hidden},           {hidden, wide}};

TEST(Block, GradientsOfEveryParameter) {
  Tensors inputs;
  for (size_t i = 0; i < block_shapes.size(); ++i)
    inputs.push_back(random(block_shapes[i], 50 + i));
  const Tensor cosine = make_input({Input::Kind::angles}, {tokens, dim / 2}, Dtype::f32, 1);
  const Tensor sine = make_input({Input::Kind::angles}, {tokens, dim / 2}, Dtype::f32, 2);
  const GradcheckResult plain =
      gradcheck([&](const Vars& p) { return block(p, cosine, sine); }, inputs);
  EXPECT_TRUE(plain.passed) << plain.message;
}

}  // namespace
}  // namespace cbq::test::test_autograd
