// The instructions of kernels/attention/tensor_core.h one by one, against naive products and
// layouts: on a GPU where there is one, and in cbq_simt_tests as the emulator has them.
#include <gtest/gtest.h>

#include "kernels/attention/tensor_core.h"
#include "kernels/ops.h"
#include "tests/grid_device.h"
#include "tests/test_data.h"

namespace cbq::tuned {
namespace {

#ifdef CBQ_KERNELS

/// Whole numbers from -8 to 8, so that sums are exact in any order.
std::vector<float> numbers(int64_t count, uint32_t seed) {
  std::vector<float> x(static_cast<size_t>(count));
  for (float& value : x) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(static_cast<int>(seed >> 16) % 17 - 8);
  }
  return x;
}

Tensor on(Device device, const std::vector<float>& x, Shape shape) {
  return kernels::cast(Tensor::from(x, std::move(shape)), Dtype::bf16).to(device);
}

constexpr int rows = 16, stride = 24;  // a matrix in shared memory, padded

/// Lane by lane, without any instruction under test.
__device__ void copy_plain(bf16* to, const bf16* from, int columns) {
  for (int i = threadIdx.x; i < rows * columns; i += 32)
    to[i / columns * stride + i % columns] = from[i];
  __syncwarp();
}

// C [16, 8] = C + A [16, 16] B [16, 8] from registers that are filled element by element.
struct MultiplyOnce {
  static constexpr int threads = 32, resident_blocks = 1;
  const bf16 *a, *b;
  const float* c;
  float* d;
  __device__ static uint32_t pair(bf16 first, bf16 second) {
    return first.bits | static_cast<uint32_t>(second.bits) << 16;
  }
  __device__ void operator()() const {
    const int g = static_cast<int>(threadIdx.x) / 4, p = static_cast<int>(threadIdx.x) % 4 * 2;
    uint32_t x[4];
    for (int i = 0; i < 4; ++i) {
      const bf16* at = a + (g + i % 2 * 8) * 16 + p + i / 2 * 8;
      x[i] = pair(at[0], at[1]);
    }
    const uint32_t b0 = pair(b[p * 8 + g], b[(p + 1) * 8 + g]);
    const uint32_t b1 = pair(b[(p + 8) * 8 + g], b[(p + 9) * 8 + g]);
    float y[4];
    for (int i = 0; i < 4; ++i) y[i] = c[(g + i / 2 * 8) * 8 + p + i % 2];
    multiply(y, x, b0, b1);
    for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + p + i % 2] = y[i];
  }
};

// What every lane's registers hold of M [16, 16]: as A, as B of its rows, as B of its columns.
struct LoadOnce {
  static constexpr int threads = 32, resident_blocks = 1;
  const bf16* m;
  int32_t* registers;  // [3, 32, 4]
  __device__ void operator()() const {
    alignas(16) __shared__ bf16 shared[rows * stride];
    copy_plain(shared, m, 16);
    uint32_t x[3][4];
    load_a(x[0], shared, stride);
    load_b_of_rows(x[1], shared, stride);
    load_b_of_columns(x[2], shared, stride);
    for (int kind = 0; kind < 3; ++kind)
      for (int i = 0; i < 4; ++i)
        registers[(kind * 32 + static_cast<int>(threadIdx.x)) * 4 + i] =
            static_cast<int32_t>(x[kind][i]);
  }
};

// E [16, 16] = (A [16, 16] B^T [16, 16]) F [16, 16], the first product rounded to bf16: chained as
// attention chains scores and values.
struct Chain {
  static constexpr int threads = 32, resident_blocks = 1;
  const bf16 *a, *b, *f;
  float* e;
  __device__ void operator()() const {
    alignas(16) __shared__ bf16 shared[3][rows * stride];
    copy_plain(shared[0], a, 16);
    copy_plain(shared[1], b, 16);
    copy_plain(shared[2], f, 16);
    uint32_t x[4], y[4];
    load_a(x, shared[0], stride);
    load_b_of_rows(y, shared[1], stride);
    float s[2][4] = {}, out[2][4] = {};
    for (int j = 0; j < 2; ++j) multiply(s[j], x, y[2 * j], y[2 * j + 1]);
    pack_a(x, s[0], s[1]);
    load_b_of_columns(y, shared[2], stride);
    for (int j = 0; j < 2; ++j) multiply(out[j], x, y[2 * j], y[2 * j + 1]);
    const int g = static_cast<int>(threadIdx.x) / 4, p = static_cast<int>(threadIdx.x) % 4 * 2;
    for (int j = 0; j < 2; ++j)
      for (int i = 0; i < 4; ++i) e[(g + i / 2 * 8) * 16 + 8 * j + p + i % 2] = out[j][i];
  }
};

// y = x for blocks of 128 threads times 8 elements, through three stages of dynamic shared memory;
// stage s of a thread is read by its neighbour. The last `missing` threads copy zeros.
struct CopyThrough {
  static constexpr int threads = 128, resident_blocks = 1, stages = 3;
  static constexpr int shared_bytes = 60 * 1024;  // more than a launch gets unasked
  const bf16* x;
  bf16* y;
  const float* numbers;
  float* more;
  int missing;
  __device__ void operator()() const {
    auto* shared = reinterpret_cast<bf16*>(dynamic_shared());
    auto* floats = reinterpret_cast<float*>(dynamic_shared() + 59 * 1024);
    const int t = static_cast<int>(threadIdx.x), neighbour = (t + 1) % threads;
    const int64_t block = static_cast<int64_t>(blockIdx.x) * stages * threads;
    for (int s = 0; s < stages; ++s) {
      const bool exists = t < threads - missing;
      const int64_t at = exists ? (block + s * threads + t) * 8 : 0;
      copy_async(shared + (s * threads + t) * 8, x + at, exists);
      if (s == 0) copy_async(floats + t, numbers + t);
      commit_copies();
    }
    wait_copies<2>();
    __syncthreads();
    store(shared, block, 0, neighbour);
    more[t] = floats[neighbour];
    wait_copies<0>();
    __syncthreads();
    store(shared, block, 1, neighbour);
    store(shared, block, 2, neighbour);
  }
  __device__ void store(const bf16* shared, int64_t block, int s, int from) const {
    for (int j = 0; j < 8; ++j)
      y[(block + s * threads + from) * 8 + j] = shared[(s * threads + from) * 8 + j];
  }
};

struct Exponentials {
  static constexpr int threads = 32, resident_blocks = 1;
  const float* x;
  float* y;
  int n;
  __device__ void operator()() const {
    for (int i = threadIdx.x; i < n; i += 32) y[i] = exp2_fast(x[i]);
  }
};

class TunedTensorCore : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!test::grid_device()) GTEST_SKIP() << "no CUDA device: cbq_simt_tests runs this";
    device_ = *test::grid_device();
  }
  Device device_;
};

TEST_F(TunedTensorCore, MultipliesAsTheLayoutSays) {
  const auto a = numbers(256, 1), b = numbers(128, 2), c = numbers(128, 3);
  const Tensor x = on(device_, a, {16, 16}), y = on(device_, b, {16, 8});
  const Tensor z = Tensor::from(c, {16, 8}).to(device_), d({16, 8}, Dtype::f32, device_);
  launch_blocks("multiply", device_, 1,
                MultiplyOnce{x.data<bf16>(), y.data<bf16>(), z.data<float>(), d.data<float>()});
  const auto got = d.to_vector<float>();
  for (size_t i = 0; i < 16; ++i) {
    for (size_t j = 0; j < 8; ++j) {
      float want = c[i * 8 + j];
      for (size_t k = 0; k < 16; ++k) want += a[i * 16 + k] * b[k * 8 + j];
      EXPECT_EQ(got[i * 8 + j], want) << i << " " << j;
    }
  }
}

TEST_F(TunedTensorCore, LoadsFragmentsOfRowsAndColumns) {
  std::vector<float> m(256);
  for (size_t i = 0; i < 256; ++i) m[i] = static_cast<float>(i);  // its own place, exact in bf16
  const Tensor x = on(device_, m, {16, 16}), r({3 * 32 * 4}, Dtype::i32, device_);
  launch_blocks("load", device_, 1, LoadOnce{x.data<bf16>(), r.data<int32_t>()});
  const auto got = r.to_vector<int32_t>();
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const uint32_t g = lane / 4, p = lane % 4 * 2;
    for (uint32_t i = 0; i < 4; ++i) {
      // Row and column of the register's two elements: A, B[k][n] = M[n][k], B[k][n] = M[k][n].
      const uint32_t near = i % 2 * 8, far = i / 2 * 8;
      const uint32_t want[3][2] = {{(g + near) * 16 + p + far, (g + near) * 16 + p + 1 + far},
                                   {(g + far) * 16 + p + near, (g + far) * 16 + p + 1 + near},
                                   {(p + near) * 16 + g + far, (p + 1 + near) * 16 + g + far}};
      for (uint32_t kind = 0; kind < 3; ++kind) {
        const auto bits = static_cast<uint32_t>(got[(kind * 32 + lane) * 4 + i]);
        EXPECT_EQ(detail::float_of(bits << 16), static_cast<float>(want[kind][0]))
            << "kind " << kind << " lane " << lane << " register " << i;
        EXPECT_EQ(detail::float_of(bits & 0xffff0000u), static_cast<float>(want[kind][1]))
            << "kind " << kind << " lane " << lane << " register " << i;
      }
    }
  }
}

TEST_F(TunedTensorCore, AProductsResultEntersTheNext) {
  const auto a = numbers(256, 4), b = numbers(256, 5), f = numbers(256, 6);
  const Tensor x = on(device_, a, {16, 16}), y = on(device_, b, {16, 16});
  const Tensor z = on(device_, f, {16, 16}), e({16, 16}, Dtype::f32, device_);
  launch_blocks("chain", device_, 1,
                Chain{x.data<bf16>(), y.data<bf16>(), z.data<bf16>(), e.data<float>()});
  const auto got = e.to_vector<float>();
  for (size_t i = 0; i < 16; ++i) {
    float s[16];
    for (size_t j = 0; j < 16; ++j) {
      s[j] = 0;
      for (size_t k = 0; k < 16; ++k) s[j] += a[i * 16 + k] * b[j * 16 + k];
      s[j] = bf16(s[j]);
    }
    for (size_t n = 0; n < 16; ++n) {
      float want = 0;
      for (size_t j = 0; j < 16; ++j) want += s[j] * f[j * 16 + n];
      EXPECT_EQ(got[i * 16 + n], want) << i << " " << n;
    }
  }
}

TEST_F(TunedTensorCore, CopiesArriveBeforeTheyAreRead) {
  constexpr int64_t blocks = 3, count = blocks * CopyThrough::stages * CopyThrough::threads * 8;
  for (int missing : {0, 5}) {
    const auto x = numbers(count, 7), plain = numbers(CopyThrough::threads, 8);
    const Tensor from = on(device_, x, {count}), to({count}, Dtype::bf16, device_);
    const Tensor numbers_in = Tensor::from(plain, {CopyThrough::threads}).to(device_);
    const Tensor numbers_out({CopyThrough::threads}, Dtype::f32, device_);
    launch_blocks("copy", device_, blocks,
                  CopyThrough{from.data<bf16>(), to.data<bf16>(), numbers_in.data<float>(),
                              numbers_out.data<float>(), missing});
    const auto got = to.to_vector<float>(), more = numbers_out.to_vector<float>();
    for (size_t i = 0; i < got.size(); ++i) {
      const bool exists = static_cast<int>(i / 8) % CopyThrough::threads < 128 - missing;
      ASSERT_EQ(got[i], exists ? x[i] : 0.0f) << i;
    }
    for (size_t t = 0; t < 128; ++t) EXPECT_EQ(more[t], plain[(t + 1) % 128]);
  }
}

TEST_F(TunedTensorCore, PowersOfTwo) {
  std::vector<float> x = {-INFINITY, 0.0f, -1.0f, 3.0f, -200.0f, NAN};
  for (int i = 0; i < 500; ++i) x.push_back(-0.237f * static_cast<float>(i));
  const auto n = static_cast<int64_t>(x.size());
  const Tensor in = Tensor::from(x, {n}).to(device_), out({n}, Dtype::f32, device_);
  launch_blocks("exp2", device_, 1,
                Exponentials{in.data<float>(), out.data<float>(), static_cast<int>(n)});
  const auto y = out.to_vector<float>();
  EXPECT_EQ(y[0], 0.0f);
  EXPECT_EQ(y[1], 1.0f);
  EXPECT_EQ(y[2], 0.5f);
  EXPECT_EQ(y[3], 8.0f);
  EXPECT_LT(y[4], 1e-37f);
  EXPECT_TRUE(std::isnan(y[5]));
  for (size_t i = 6; i < x.size(); ++i) {
    const double want = std::exp2(static_cast<double>(x[i]));
    EXPECT_NEAR(y[i], want, 2.5e-7 * want) << x[i];
  }
}

#else
TEST(TunedTensorCore, NeedsAGrid) { GTEST_SKIP() << "cbq_simt_tests and CUDA builds run these"; }
#endif

}  // namespace
}  // namespace cbq::tuned
