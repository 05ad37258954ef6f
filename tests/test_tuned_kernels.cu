// The tuned kernels against their reference kernels: on a GPU where there is one, and as
// emulated grids in cbq_simt_tests. In a program that has neither, these tests are skipped.
#include <gtest/gtest.h>

#include <cstring>
#include <optional>

#include "kernels/launch/tuned.h"
#include "kernels/ops.h"
#include "quant/weight_quantizer.h"
#include "tests/grid_device.h"

namespace cbq {
namespace {

Tensor normal(Shape shape, double deviation, uint64_t stream) {
  Tensor t(std::move(shape), Dtype::f32);
  kernels::fill_normal(t, 0.0, deviation, 23, stream);
  return t;
}

struct Layout {
  int64_t out, in;
  Granularity granularity = Granularity::per_channel;
  int64_t group = 0;
};

/// Parts of a warp, several blocks of rows, and every way in which lanes share scales.
std::vector<Layout> covered_layouts() {
  return {{1, 8},
          {67, 520},
          {5, 1032, Granularity::per_tensor},
          {34, 264, Granularity::per_group, 8},
          {3, 384, Granularity::per_group, 128},
          {3, 1024, Granularity::per_group, 512}};
}

RoundingPass make_pass(const RoundingScheme& scheme, const Layout& layout, int64_t rank,
                       Dtype dtype, Device device) {
  RoundingPass pass;
  const Tensor w = kernels::cast(normal({layout.out, layout.in}, 0.02, 1), dtype);
  WeightConfig config;
  config.bits = pass.bits = 3;
  config.search = ScaleSearch::min_max;
  config.granularity = layout.granularity;
  config.group_size = layout.group;
  const WeightGrid grid = weight_grid(w, config, "layer");
  pass.w = w.to(device);
  pass.scale = kernels::scale(grid.scale, 0.7).to(device);  // both ends of the grid clip
  pass.zero_point = grid.zero_point.to(device);
  pass.group = grid.group;
  pass.unit = grid.scale.to(device);
  pass.start = scheme.default_start();
  if (rank < 0) {
    pass.dense = normal({layout.out, layout.in}, 0.2, 2).to(device);
  } else if (rank > 0) {
    pass.a1 = normal({layout.out, rank}, 0.4, 3).to(device);
    pass.a2 = normal({rank, layout.in}, 0.15, 4).to(device);
  }
  return pass;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(Device::cpu()), y = b.to(Device::cpu());
  return x.shape() == y.shape() && x.dtype() == y.dtype() &&
         std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.bytes())) == 0;
}

/// Sums of the same terms in another order: errors beside the size of the sums, not of each.
void expect_close(const Tensor& fast, const Tensor& plain, const char* what) {
  ASSERT_EQ(fast.defined(), plain.defined()) << what;
  if (!fast.defined()) return;
  ASSERT_EQ(fast.shape(), plain.shape()) << what;
  const auto a = fast.to_vector<double>(), b = plain.to_vector<double>();
  double squares = 0.0;
  for (const double value : b) squares += value * value;
  const double rms = std::sqrt(squares / static_cast<double>(b.size()));
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_NEAR(a[i], b[i], 1e-5 * (std::abs(b[i]) + rms)) << what << " " << i;
  }
}

/// Every start and phase that the scheme has.
template <class F>
void for_each_form(const RoundingScheme& scheme, RoundingPass pass, F&& f) {
  for (const Start start : {Start::fraction, Start::nearest, Start::zero}) {
    if (!scheme.supports(start)) continue;
    for (const bool hard : {false, true}) {
      if (!hard && !scheme.relaxes()) continue;
      pass.start = start;
      pass.hard = hard;
      SCOPED_TRACE(concat("start ", name_of(start), hard ? ", hard" : ", relaxed"));
      f(pass);
    }
  }
}

void compare(const RoundingScheme& scheme, const RoundingPass& pass, bool covered) {
  Tensor dw = kernels::cast(normal(pass.w.shape(), 1.0, 5), pass.w.dtype()).to(pass.w.device());
  const RoundingRegularizer regularizer{scheme.relaxes() ? 0.1 : 0.0, 4.0};
  const long before = tuned::launches();
  const Tensor forward = scheme.forward(pass);
  const RoundingGradients gradients = scheme.backward(pass, dw, regularizer);
  EXPECT_EQ(tuned::launches() - before, covered ? 2 : 0);
  const RoundingGradients again = scheme.backward(pass, dw, regularizer);
  for (const auto& [a, b] :
       {std::pair(gradients.scale, again.scale), std::pair(gradients.dense, again.dense),
        std::pair(gradients.a1, again.a1), std::pair(gradients.a2, again.a2)}) {
    if (a.defined()) {
      EXPECT_TRUE(same_bytes(a, b)) << "two runs differ";
    }
  }

  const tuned::ReferenceKernels reference_kernels;
  const long after = tuned::launches();
  EXPECT_TRUE(same_bytes(forward, scheme.forward(pass))) << "forward";
  const RoundingGradients plain = scheme.backward(pass, dw, regularizer);
  EXPECT_EQ(tuned::launches(), after);
  expect_close(gradients.scale, plain.scale, "scale");
  expect_close(gradients.a1, plain.a1, "A1");
  expect_close(gradients.a2, plain.a2, "A2");
  if (plain.dense.defined()) {
    EXPECT_TRUE(same_bytes(gradients.dense, plain.dense)) << "dense";
  }
}

class TunedRounding : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    device_ = test::grid_device();
    if (!device_) GTEST_SKIP() << "no CUDA device: cbq_simt_tests runs this as emulated grids";
    if (!tuned::enabled()) GTEST_SKIP() << "CBQ_FAST=0";
    if (scheme_->math() == nullptr) GTEST_SKIP() << "not scalar math, so it has its own kernels";
  }
  std::optional<Device> device_;
  std::unique_ptr<RoundingScheme> scheme_ = rounding_schemes().make(GetParam());
};

TEST_P(TunedRounding, EqualsTheReferenceKernel) {
  for (const Layout& layout : covered_layouts()) {
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      for (const int64_t rank : {0, -1, 3, 5, 8}) {  // -1: dense
        if (layout.out > 60 && rank == 3) continue;
        SCOPED_TRACE(
            concat(to_string({layout.out, layout.in}), " ", name_of(dtype), " rank ", rank));
        for_each_form(*scheme_, make_pass(*scheme_, layout, rank, dtype, *device_),
                      [&](const RoundingPass& pass) { compare(*scheme_, pass, true); });
      }
    }
  }
}

TEST_P(TunedRounding, LeavesWhatItDoesNotCoverToTheReferenceKernel) {
  const Layout odd_row{3, 20}, odd_group{3, 96, Granularity::per_group, 24};
  for (const Layout& layout : {odd_row, odd_group}) {
    compare(*scheme_, make_pass(*scheme_, layout, 5, Dtype::bf16, *device_), false);
  }
  compare(*scheme_, make_pass(*scheme_, {3, 24}, 9, Dtype::f32, *device_), false);
  // A view that begins between two addresses of 16 bytes.
  RoundingPass pass = make_pass(*scheme_, {3, 24}, 0, Dtype::bf16, *device_);
  const Tensor shifted = Tensor::zeros({3 * 24 + 4}, Dtype::bf16, *device_).slice(4, 3 * 24 + 4);
  shifted.copy_from(pass.w.reshape({3 * 24}));
  pass.w = shifted.reshape({3, 24});
  const long before = tuned::launches();
  EXPECT_EQ(scheme_->forward(pass).shape(), Shape({3, 24}));
  EXPECT_EQ(tuned::launches(), before);
}

INSTANTIATE_TEST_SUITE_P(Tuned, TunedRounding, ::testing::ValuesIn(rounding_schemes().names()),
                         [](const auto& test) { return test.param; });

// All 128 mantissas of bf16 against a sample of the 2^23 of s, one of every 512.
TEST(TunedQuotient, IsCorrectlyRounded) {
  for (uint32_t bits = 0x3f800000u; bits < 0x40000000u; bits += 509) {
    const float s = detail::float_of(bits), r = 1.0f / s;
    for (uint32_t mantissa = 0; mantissa < 128; ++mantissa) {
      const float x = detail::float_of(0x3f800000u + (mantissa << 16));
      ASSERT_EQ(tuned::quotient<bf16>(x, s, r), x / s) << x << " / " << s;
      const float longer = x + static_cast<float>(bits % 65536) * 0x1p-23f;
      ASSERT_EQ(tuned::quotient<float>(longer, s, r), longer / s) << longer << " / " << s;
    }
  }
}

}  // namespace
}  // namespace cbq
