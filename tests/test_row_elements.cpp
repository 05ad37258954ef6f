// Row kernels at widths around the vectors of 16 bytes, the registers of a block and the models'
// sizes, on rows that begin at multiples of 16 bytes and on others (kernels/launch/launch.h),
// against loops over doubles on the host: on a GPU where there is one, as emulated grids in
// cbq_simt_tests, else as the CPU's loops.
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/worst_error.h"
#include "kernels/divergence.h"
#include "kernels/launch/launch.h"
#include "kernels/ops.h"
#include "tests/compared_device.h"
#include "tests/op_case.h"
#include "tests/reference/rowwise.h"

namespace cbq::test::test_row_elements {
namespace {

constexpr int64_t rows = 3;

Device device() { return compared_device().value_or(Device::cpu()); }

/// The same elements in memory that begins `by` elements behind the start of a block.
Tensor shifted(const Tensor& t, int64_t by) {
  const Tensor buffer({by + t.count()}, t.dtype(), t.device());
  const Tensor view = buffer.slice(by, by + t.count()).reshape(t.shape());
  view.copy_from(t);
  return view;
}

/// Largest error over what is tolerated: beside each value and the size of all. `width`: of the
/// rows that were summed; one by one, as compilers do without vectors, the roundings of so many
/// partial sums in f32 gather, on average as their root: 4 * 2^-24 * sqrt(40,000) = 5e-5.
double worst(const Tensor& got, const Array& want, int64_t width) {
  const double sums = 4.0 * std::sqrt(static_cast<double>(width));
  const double tolerance = got.dtype() == Dtype::bf16  ? 2e-2
                           : got.dtype() == Dtype::f16 ? 3e-3
                           : got.dtype() == Dtype::f32 ? std::max(1e-5, sums * 0x1p-24)
                                                       : 1e-12;
  const std::vector<double> values = got.to_vector<double>();
  double squares = 0.0;
  WorstError largest;
  for (double v : want.values) squares += v * v;
  const double rms = std::sqrt(squares / static_cast<double>(values.size()));
  for (size_t i = 0; i < values.size(); ++i) {
    const double error = std::abs(values[i] - want.values[i]);
    const double ratio = error / (tolerance * (std::abs(want.values[i]) + rms + 1e-30));
    largest.add(ratio);
  }
  return largest.value();
}

// ---- backward passes in the number of operations of one pass ---------------------------------

Arrays rms_norm_backward(const Arrays& in) {
  const Array &x = in[0], &w = in[1], &inverse = in[2], &dy = in[3];
  const int64_t n = x.width();
  Array dx(x.shape), dw({n});
  for (int64_t r = 0; r < x.rows(); ++r) {
    double along = 0.0;  // of the gradient along x
    for (int64_t j = 0; j < n; ++j) along += dy(r, j) * w(j) * x(r, j);
    for (int64_t j = 0; j < n; ++j) {
      dw(j) += dy(r, j) * x(r, j) * inverse(r);
      dx(r, j) = inverse(r) * dy(r, j) * w(j) -
                 x(r, j) * along * std::pow(inverse(r), 3.0) / static_cast<double>(n);
    }
  }
  return {dx, dw};
}

Arrays layer_norm_backward(const Arrays& in) {
  const Array &x = in[0], &w = in[1], &mean = in[2], &inverse = in[3], &dy = in[4];
  const int64_t n = x.width();
  Array dx(x.shape), dw({n});
  for (int64_t r = 0; r < x.rows(); ++r) {
    double sum = 0.0, along = 0.0;
    for (int64_t j = 0; j < n; ++j) {
      sum += dy(r, j) * w(j);
      along += dy(r, j) * w(j) * (x(r, j) - mean(r));
    }
    for (int64_t j = 0; j < n; ++j) {
      const double d = x(r, j) - mean(r);
      dw(j) += dy(r, j) * d * inverse(r);
      dx(r, j) = inverse(r) * dy(r, j) * w(j) - inverse(r) * sum / static_cast<double>(n) -
                 d * along * std::pow(inverse(r), 3.0) / static_cast<double>(n);
    }
  }
  return {dx, dw};
}

Arrays softmax_backward(const Arrays& in) {
  const Array &y = in[0], &dy = in[1];
  Array dx(y.shape);
  for (int64_t r = 0; r < rows; ++r) {
    double mean = 0.0;
    for (int64_t j = 0; j < y.width(); ++j) mean += y(r, j) * dy(r, j);
    for (int64_t j = 0; j < y.width(); ++j) dx(r, j) = y(r, j) * dy(r, j) - y(r, j) * mean;
  }
  return {dx};
}

Arrays cross_entropy_backward(const Arrays& in) {
  const Array &logits = in[0], &target = in[1], &dnll = in[2];
  Array d(logits.shape);
  for (int64_t r = 0; r < rows; ++r) {
    const double log_sum = reference::log_sum_exp(logits, r);
    for (int64_t j = 0; j < logits.width(); ++j) {
      d(r, j) = dnll(r) * std::exp(logits(r, j) - log_sum);
    }
    d(r, static_cast<int64_t>(target(r))) -= dnll(r);
  }
  return {d};
}

Arrays min_max_rows(const Arrays& in) {
  Array low({rows}), high({rows});
  for (int64_t r = 0; r < rows; ++r) {
    low(r) = high(r) = in[0](r, 0);
    for (int64_t j = 0; j < in[0].width(); ++j) {
      low(r) = std::min(low(r), in[0](r, j));
      high(r) = std::max(high(r), in[0](r, j));
    }
  }
  return {low, high};
}

// ---- the kernels -----------------------------------------------------------------------------

/// A kernel of rows [rows, n] and what it shall give.
struct RowKernel {
  const char* name;
  std::vector<Input> inputs;
  std::function<Shapes(int64_t)> shapes;
  std::function<Tensors(const Tensors&)> run;
  std::function<Arrays(const Arrays&)> expected;
};

constexpr double eps = 1e-5;

std::vector<RowKernel> norms() {
  return {{"rms_norm",
           {},
           [](int64_t n) {
             return Shapes{{rows, n}, {n}};
           },
           [](const Tensors& in) {
             const auto result = kernels::rms_norm(in[0], in[1], eps);
             return Tensors{result.y, result.inverse_rms};
           },
           [](const Arrays& in) { return reference::rms_norm(in[0], in[1], eps); }},
          {"rms_norm_backward",
           {{}, {}, accumulated},
           [](int64_t n) {
             return Shapes{{rows, n}, {n}, {rows}, {rows, n}};
           },
           [](const Tensors& in) {
             const auto [dx, dw] = kernels::rms_norm_backward(in[0], in[1], in[2], in[3], true);
             return Tensors{dx, dw};
           },
           rms_norm_backward},
          {"layer_norm",
           {},
           [](int64_t n) {
             return Shapes{{rows, n}, {n}, {n}};
           },
           [](const Tensors& in) {
             const auto result = kernels::layer_norm(in[0], in[1], in[2], eps);
             return Tensors{result.y, result.mean, result.inverse_deviation};
           },
           [](const Arrays& in) { return reference::layer_norm(in[0], &in[1], &in[2], eps); }},
          {"layer_norm_backward",
           {{}, {}, accumulated, accumulated},
           [](int64_t n) {
             return Shapes{{rows, n}, {n}, {rows}, {rows}, {rows, n}};
           },
           [](const Tensors& in) {
             const auto [dx, dw] =
                 kernels::layer_norm_backward(in[0], in[1], in[2], in[3], in[4], true);
             return Tensors{dx, dw};
           },
           layer_norm_backward}};
}

std::vector<RowKernel> softmaxes() {
  return {{"softmax",
           {},
           [](int64_t n) {
             return Shapes{{rows, n}};
           },
           [](const Tensors& in) { return Tensors{kernels::softmax(in[0])}; },
           [](const Arrays& in) { return Arrays{reference::softmax(in[0])}; }},
          {"softmax_backward",
           {},
           [](int64_t n) {
             return Shapes{{rows, n}, {rows, n}};
           },
           [](const Tensors& in) { return Tensors{kernels::softmax_backward(in[0], in[1])}; },
           softmax_backward},
          {"cross_entropy",
           {{}, ids_below(1)},
           [](int64_t n) {
             return Shapes{{rows, n}, {rows}};
           },
           [](const Tensors& in) { return Tensors{kernels::cross_entropy(in[0], in[1])}; },
           [](const Arrays& in) { return Arrays{reference::cross_entropy(in[0], in[1])}; }},
          {"divergence",
           {},
           [](int64_t n) {
             return Shapes{{rows, n}, {rows, n}};
           },
           [](const Tensors& in) {
             const auto [kl, agrees] = kernels::divergence(in[0], in[1]);
             return Tensors{kl, agrees};
           },
           [](const Arrays& in) { return reference::divergence(in[0], in[1]); }},
          {"cross_entropy_backward",
           {{}, ids_below(1), accumulated},
           [](int64_t n) {
             return Shapes{{rows, n}, {rows}, {rows}};
           },
           [](const Tensors& in) {
             return Tensors{kernels::cross_entropy_backward(in[0], in[1], in[2])};
           },
           cross_entropy_backward}};
}

RowKernel row_error(const char* name, double l2, kernels::L2Form form, double kl) {
  return {name,
          {},
          [](int64_t n) {
            return Shapes{{rows, n}, {rows, n}};
          },
          [=](const Tensors& in) {
            const auto error = kernels::row_error(in[0], in[1], l2, form, kl, true);
            return Tensors{error.loss, error.gradient};
          },
          [=](const Arrays& in) { return reference::row_error(in[0], in[1], l2, form, kl); }};
}

std::vector<RowKernel> others() {
  return {row_error("row_error, L2", 0.5, kernels::L2Form::sum, 0.0),
          row_error("row_error, L2 norm + KL", 0.5, kernels::L2Form::norm, 2.0),
          row_error("row_error, L2 relative + KL", 0.5, kernels::L2Form::relative, 2.0),
          {"min_max_rows",
           {},
           [](int64_t n) {
             return Shapes{{rows, n}};
           },
           [](const Tensors& in) {
             const auto [low, high] = kernels::min_max_rows(in[0]);
             return Tensors{low, high};
           },
           min_max_rows},
          {"mul_row",
           {},
           [](int64_t n) {
             return Shapes{{rows, n}, {n}};
           },
           [](const Tensors& in) { return Tensors{kernels::mul_row(in[0], in[1])}; },
           [](const Arrays& in) {
             Array y = in[0];
             for (int64_t r = 0; r < rows; ++r) {
               for (int64_t j = 0; j < y.width(); ++j) y(r, j) *= in[1](j);
             }
             return Arrays{y};
           }}};
}

/// Inputs of width n, on the host; targets of cross entropy are the last class, which a cut row
/// would lose.
Tensors inputs_of(const RowKernel& kernel, int64_t n, Dtype dtype) {
  Tensors inputs;
  const Shapes shapes = kernel.shapes(n);
  for (size_t i = 0; i < shapes.size(); ++i) {
    const Input kind = i < kernel.inputs.size() ? kernel.inputs[i] : Input{};
    if (kind.kind == Input::Kind::ids) {
      const auto last = static_cast<int32_t>(n - 1);
      inputs.push_back(Tensor::from(std::vector<int32_t>{last, 0, last / 2}, {rows}));
    } else {
      inputs.push_back(make_input(kind, shapes[i], dtype, 10 + i));
    }
  }
  return inputs;
}

void check_kernel(const RowKernel& kernel, int64_t n, Dtype dtype) {
  const Tensors inputs = inputs_of(kernel, n, dtype);
  Arrays arrays;
  Tensors aligned;
  for (const Tensor& input : inputs) {
    arrays.push_back(to_array(input));
    aligned.push_back(input.to(device()));
  }
  const Arrays want = kernel.expected(arrays);
  // All operands aligned, then one after the other not, then none: a kernel that forgets to ask for
  // one of them reads across the edges of 16 bytes.
  for (size_t odd = 0; odd <= inputs.size() + 1; ++odd) {
    Tensors arguments;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const bool shift = odd == i + 1 || odd == inputs.size() + 1;
      arguments.push_back(shift ? shifted(aligned[i], 1) : aligned[i]);
    }
    const Tensors got = kernel.run(arguments);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i].shape(), want[i].shape);
      EXPECT_LE(worst(got[i], want[i], n), 1.0)
          << kernel.name << " " << name_of(dtype) << ", width " << n << ", alignment " << odd
          << ", output " << i;
    }
  }
}

void check_all(const std::vector<RowKernel>& kernels) {
  for (const RowKernel& kernel : kernels) {
    for (int64_t n : {1, 7, 8, 127, 264, 4096, 8192, 11008, 22016, 40000}) {
      for (Dtype dtype : {Dtype::bf16, Dtype::f16, Dtype::f32}) check_kernel(kernel, n, dtype);
    }
    for (int64_t n : {2, 3, 1030}) check_kernel(kernel, n, Dtype::f64);
  }
}

TEST(RowElements, Norms) { check_all(norms()); }
TEST(RowElements, Softmaxes) { check_all(softmaxes()); }
TEST(RowElements, LossRangesAndRowOps) { check_all(others()); }

// A NaN is the answer of its own row only, wherever in the row it is.
TEST(RowElements, ANaNIsSeenInItsRow) {
  for (Dtype dtype : {Dtype::bf16, Dtype::f32}) {
    for (int64_t n : {7, 4096, 40000}) {
      for (int64_t at : {int64_t{0}, n / 2, n - 1}) {
        std::vector<double> values(static_cast<size_t>(rows * n), 1.0);
        values[static_cast<size_t>(n + at)] = NAN;
        const Tensor x = Tensor::from(values, {rows, n}, dtype, device());
        const Tensor w = make_input({}, {n}, dtype, 1, device());
        const auto [low, high] = kernels::min_max_rows(x);
        for (const Tensor& t : {kernels::rms_norm(x, w, eps).inverse_rms,
                                kernels::layer_norm(x, w, w, eps).mean, low, high}) {
          const auto got = t.to_vector<double>();
          EXPECT_TRUE(std::isnan(got[1]) && !std::isnan(got[0]) && !std::isnan(got[2]))
              << name_of(dtype) << ", " << at << " of " << n;
        }
      }
    }
  }
}

// Every element of a row has a place: in registers up to the limit of a block, in whole warps.
TEST(RowElements, ABlockHoldsTheRow) {
  for (int width : {2, 4, 8}) {
    for (int64_t count : {1, 31, 33, 512, 1025, 2752, 4096, 4097, 100000}) {
      const RowLaunch share = row_launch(count * width, width, true);
      EXPECT_EQ(share.width, width);
      EXPECT_EQ(share.vectors, count <= 4096 ? kept_vectors : 0) << count;
      EXPECT_TRUE(share.threads % 32 == 0 && share.threads >= 32 && share.threads <= 1024);
      EXPECT_TRUE(share.vectors == 0 || share.vectors * share.threads >= count) << count;
      EXPECT_TRUE(share.vectors > 0 || share.threads <= 512) << count;
    }
    EXPECT_EQ(row_launch(100 * width + 1, width, true).width, 1) << "a row of other than vectors";
    EXPECT_EQ(row_launch(100 * width, width, false).width, 1) << "memory that is not aligned";
  }
  EXPECT_EQ(row_launch(4096, 8, true).threads, 128);  // LLaMA-7B in bf16
}

}  // namespace
}  // namespace cbq::test::test_row_elements
