// kernels/formulas/device_math.h against the host's own conversions, over every number of the half
// types. It has branches for CUDA that no other compiler sees: this passes by itself on the CPU,
// emulated grids included, and decides on a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "autograd/worst_error.h"
#include "kernels/formulas/device_math.h"
#include "kernels/launch/launch.h"
#include "kernels/launch/vector.h"
#include "tensor/tensor.h"
#include "tests/grid_device.h"

namespace cbq::test {
namespace {

Device device() { return grid_device().value_or(Device::cpu()); }

template <class T>
Tensor tensor_of(const std::vector<T>& values) {
  const Tensor t({static_cast<int64_t>(values.size())}, dtype_of<T>::value);
  std::memcpy(t.raw(), values.data(), static_cast<size_t>(t.bytes()));
  return t.to(device());
}
template <class T>
Tensor like(const Tensor& x) {
  return Tensor(x.shape(), dtype_of<T>::value, x.device());
}

/// The same bits; any NaN is a NaN.
bool same(float a, float b) {
  return detail::bits_of(a) == detail::bits_of(b) || (std::isnan(a) && std::isnan(b));
}
template <class T>
bool same(T a, T b) {
  return a.bits == b.bits || (std::isnan(float(a)) && std::isnan(float(b)));
}

/// What the host has for each of `from`; `what` names the function.
template <class From, class To, class F>
void expect_as_on_host(const std::vector<From>& from, const Tensor& got, F&& on_host,
                       const char* what) {
  const Tensor values = got.to(Device::cpu());
  const To* value = values.data<To>();
  int64_t differ = 0;
  for (size_t i = 0; i < from.size(); ++i) {
    const To want = on_host(from[i]);
    if (same(value[i], want)) continue;
    if (++differ > 5) continue;
    ADD_FAILURE() << what << " to " << name_of(got.dtype()) << " of " << float(from[i])
                  << " (element " << i << ") is " << float(value[i]) << ", not " << float(want);
  }
  EXPECT_EQ(differ, 0) << what << " of " << from.size();
}

/// Every way to make numbers of halves; element i of this functor is a vector of them.
template <class T>
struct WidenAll {
  const T* x;
  float *converted, *widened, *in_pairs, *in_vectors, *alone, *waited;
  CBQ_HD void operator()(int64_t i) const {
    const int64_t begin = i * vector_width;
    const Vector<T> vector = load_vector(x + begin);
    device_math::Words<Vector<T>> words;
    words.set(vector);
    const Vector<T> kept = words.get();
    for (int j = 0; j < vector_width; ++j) {
      const int64_t at = begin + j;
      converted[at] = static_cast<float>(x[at]);
      widened[at] = device_math::widen(x[at]);
      in_pairs[at] = load_vector<2>(x + (at & ~int64_t{1}))[j & 1];
      in_vectors[at] = vector[j];
      alone[at] = load_vector<1>(x + at)[0];
      waited[at] = kept[j];
    }
  }
};

template <class T>
void check_widening() {
  std::vector<T> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<uint16_t>(i);
  const Tensor x = tensor_of(all);
  const char* const names[] = {"conversion",    "widen",         "widen_at of 2",
                               "widen_at of 8", "widen_at of 1", "Words"};
  Tensor got[6];
  for (Tensor& t : got) t = like<float>(x);
  map("widen_all", device(), x.count() / vector_width,
      WidenAll<T>{x.data<T>(), got[0].data<float>(), got[1].data<float>(), got[2].data<float>(),
                  got[3].data<float>(), got[4].data<float>(), got[5].data<float>()});
  for (size_t i = 0; i < 6; ++i) {
    expect_as_on_host<T, float>(
        all, got[i], [](T half) { return float(half); }, names[i]);
  }
}

TEST(DeviceMath, CudaWidensEveryHalfAsTheHost) {
  check_widening<bf16>();
  check_widening<f16>();
}

/// All ways to round numbers to a half type; element i of this functor is a pair of them.
template <class T>
struct RoundAll {
  const float* x;
  T *converted, *one, *pairs, *vectors;
  float* wide;
  CBQ_HD void operator()(int64_t i) const {
    const int64_t begin = 2 * i;
    device_math::round_pair(x[begin], x[begin + 1], pairs + begin);
    const float two[2] = {x[begin], x[begin + 1]};
    store_vector(vectors + begin, round_vector<T>(two));
    for (int64_t at = begin; at < begin + 2; ++at) {
      converted[at] = T(x[at]);
      one[at] = device_math::round_to<T>(x[at]);
      wide[at] = device_math::rounded<T>(x[at]);
    }
  }
};

/// The half after `h`; after the largest what would follow if the exponent went on.
template <class T>
double next_half(uint16_t h) {
  T before, here, after;
  before.bits = static_cast<uint16_t>(h - 1);
  here.bits = h;
  after.bits = static_cast<uint16_t>(h + 1);
  const double next = float(after);
  return std::isinf(next) ? 2.0 * float(here) - float(before) : next;
}

/// Floats at which rounding to T decides: its numbers, the midpoints between neighbours, all with
/// the floats beside them, of both signs; and the limits of f32.
template <class T>
std::vector<float> decisive_floats() {
  using Limits = std::numeric_limits<float>;
  std::vector<float> all;
  const auto add = [&](float v) {
    for (float x : {v, std::nextafter(v, INFINITY), std::nextafter(v, -INFINITY)}) {
      all.push_back(x);
      all.push_back(-x);
    }
  };
  T half;
  for (uint16_t h = 0; half.bits = h, std::isfinite(float(half)); ++h) {
    add(float(half));
    add(static_cast<float>((double(float(half)) + next_half<T>(h)) / 2));
  }
  for (float v : {Limits::max(), Limits::min(), Limits::denorm_min(), 0x1p-140f, 0x1.8p-133f})
    add(v);
  for (float v : {INFINITY, NAN, detail::float_of(0x7f800001u)}) {  // a NaN below the kept bits
    all.push_back(v);
    all.push_back(-v);
  }
  return all;  // of even number
}

template <class T>
void check_rounding() {
  const std::vector<float> all = decisive_floats<T>();
  ASSERT_EQ(all.size() % 2, 0u);
  ASSERT_GT(all.size(), 300000u);
  const Tensor x = tensor_of(all);
  const Tensor converted = like<T>(x), one = like<T>(x), pairs = like<T>(x), vectors = like<T>(x);
  const Tensor wide = like<float>(x);
  map("round_all", device(), x.count() / 2,
      RoundAll<T>{x.data<float>(), converted.data<T>(), one.data<T>(), pairs.data<T>(),
                  vectors.data<T>(), wide.data<float>()});
  const auto round = [](float v) { return T(v); };
  expect_as_on_host<float, T>(all, converted, round, "conversion");
  expect_as_on_host<float, T>(all, one, round, "round_to");
  expect_as_on_host<float, T>(all, pairs, round, "round_pair");
  expect_as_on_host<float, T>(all, vectors, round, "round_vector");
  expect_as_on_host<float, float>(
      all, wide, [](float v) { return float(T(v)); }, "rounded");
}

TEST(DeviceMath, CudaRoundsToHalvesAsTheHost) {
  check_rounding<bf16>();
  check_rounding<f16>();
}

struct Curves {
  const float* x;
  float *exp, *sigmoid;
  CBQ_HD void operator()(int64_t i) const {
    exp[i] = device_math::exp(x[i]);
    sigmoid[i] = device_math::sigmoid(x[i]);
  }
};

// Here the last bits may differ. Below -87 the approximate reciprocal gives 0.
TEST(DeviceMath, CudaHasExpAndSigmoidToTheLastBits) {
  std::vector<float> all;
  for (int i = -86 * 1024; i <= 88 * 1024; ++i) all.push_back(static_cast<float>(i) / 1024);
  const Tensor x = tensor_of(all), exp = like<float>(x), sigmoid = like<float>(x);
  map("curves", device(), x.count(),
      Curves{x.data<float>(), exp.data<float>(), sigmoid.data<float>()});
  const auto e = exp.to_vector<double>(), s = sigmoid.to_vector<double>();
  WorstError worst_exp, worst_sigmoid;
  for (size_t i = 0; i < all.size(); ++i) {
    const double power = std::exp(double(all[i])), share = 1 / (1 + std::exp(-double(all[i])));
    worst_exp.add(std::abs(e[i] - power) / power);
    worst_sigmoid.add(std::abs(s[i] - share) / share);
  }
  EXPECT_LE(worst_exp.value(), 0x1p-21);  // a unit in the last place is 2^-24 to 2^-23
  EXPECT_LE(worst_sigmoid.value(), 0x1p-20);
}

}  // namespace
}  // namespace cbq::test
