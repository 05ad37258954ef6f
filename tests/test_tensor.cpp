#include <cmath>
#include <limits>

#include "tensor/tensor.h"
#include "tests/test_data.h"

namespace cbq::test_tensor {
namespace {

// Reference conversions: by definition, in double precision, sharing nothing with tensor/dtype.h.

/// The value of a float format with `mantissa` and `exponent` bits.
double value_of(uint32_t bits, int exponent, int mantissa) {
  const int bias = (1 << (exponent - 1)) - 1;
  const bool negative = bits >> (exponent + mantissa) & 1;
  const int e = static_cast<int>(bits >> mantissa & ((1u << exponent) - 1));
  const double m = bits & ((1u << mantissa) - 1);
  double value;
  if (e == (1 << exponent) - 1) {
    value = m == 0 ? std::numeric_limits<double>::infinity() : std::nan("");
  } else if (e == 0) {
    value = std::ldexp(m, 1 - bias - mantissa);
  } else {
    value = std::ldexp(std::ldexp(1.0, mantissa) + m, e - bias - mantissa);
  }
  return negative ? -value : value;
}
double half_value(uint32_t bits) { return value_of(bits, 5, 10); }
double brain_value(uint32_t bits) { return value_of(bits, 8, 7); }

TEST(Dtype, HalfAndBfloatValuesAreWhatTheFormatSays) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    f16 half;
    half.bits = static_cast<uint16_t>(bits);
    bf16 brain;
    brain.bits = static_cast<uint16_t>(bits);
    const double h = half_value(bits), b = brain_value(bits);
    if (std::isnan(h)) {
      ASSERT_TRUE(std::isnan(static_cast<float>(half))) << bits;
      ASSERT_TRUE(std::isnan(static_cast<float>(f16(static_cast<float>(half))))) << bits;
    } else {
      ASSERT_EQ(static_cast<float>(half), h) << bits;
      ASSERT_EQ(f16(static_cast<float>(h)).bits, bits);  // the sign of zero included
    }
    if (std::isnan(b)) {
      ASSERT_TRUE(std::isnan(static_cast<float>(brain))) << bits;
      ASSERT_TRUE(std::isnan(static_cast<float>(bf16(static_cast<float>(brain))))) << bits;
    } else {
      ASSERT_EQ(static_cast<float>(brain), b) << bits;
      ASSERT_EQ(bf16(static_cast<float>(b)).bits, bits);
    }
  }
}

// Between each pair of neighbours: the tie goes to the even one, the f32 beside the tie to the
// nearer. `top` is infinity's pattern, whose place in the order of values is the next power of two.
template <class T>
void expect_nearest_even(uint32_t top, double beyond, double (*value)(uint32_t)) {
  for (uint32_t low = 0; low < top; ++low) {
    const double a = value(low), b = low + 1 == top ? beyond : value(low + 1);
    const auto tie = static_cast<float>(0.5 * (a + b));
    ASSERT_EQ(static_cast<double>(tie), 0.5 * (a + b)) << "the tie must be an f32";
    const float below = std::nextafter(tie, 0.0f), above = std::nextafter(tie, INFINITY);
    ASSERT_EQ(T(tie).bits, low + (low & 1)) << low;
    ASSERT_EQ(T(below).bits, low) << low;
    ASSERT_EQ(T(above).bits, low + 1) << low;
    ASSERT_EQ(T(-tie).bits, 0x8000u + low + (low & 1)) << low;
  }
}

TEST(Dtype, HalfRoundsToNearestEven) { expect_nearest_even<f16>(0x7c00, 65536.0, half_value); }

TEST(Dtype, BfloatRoundsToNearestEven) {
  expect_nearest_even<bf16>(0x7f80, std::ldexp(1.0, 128), brain_value);
}

TEST(Dtype, NanAndInfinityStay) {
  const float infinity = std::numeric_limits<float>::infinity();
  // Payloads that live in the bits which a conversion drops must not turn into infinity.
  for (const uint32_t payload : {0x7f800001u, 0x7fc00000u, 0xff800001u, 0x7f80ffffu, 0xffffffffu}) {
    const float nan = detail::float_of(payload);
    EXPECT_TRUE(std::isnan(static_cast<float>(bf16(nan)))) << payload;
    EXPECT_TRUE(std::isnan(static_cast<float>(f16(nan)))) << payload;
  }
  EXPECT_EQ(static_cast<float>(bf16(infinity)), infinity);
  EXPECT_EQ(static_cast<float>(f16(-infinity)), -infinity);
  EXPECT_EQ(static_cast<float>(f16(1e30f)), infinity);
  EXPECT_EQ(static_cast<float>(f16(65519.0f)), 65504.0f);
}

TEST(Dtype, NamesAndSizes) {
  for (const Dtype d : {Dtype::f64, Dtype::f32, Dtype::bf16, Dtype::f16, Dtype::i32, Dtype::u8}) {
    EXPECT_EQ(dtype_from_name(name_of(d)), d);
  }
  EXPECT_EQ(size_of(Dtype::f64), 8);
  EXPECT_EQ(size_of(Dtype::bf16), 2);
  EXPECT_EQ(size_of(Dtype::u8), 1);
  expect_error<std::invalid_argument>([] { dtype_from_name("int4"); },
                                      {"int4", "f32", "bf16", "u8"});
  const auto dispatch = [](Dtype d) {
    return dispatch_float(d, "op", []<class T>() { return sizeof(T); });
  };
  EXPECT_EQ(dispatch(Dtype::f64), 8u);
  EXPECT_EQ(dispatch(Dtype::f16), 2u);
  expect_error<std::invalid_argument>([&] { dispatch(Dtype::i32); }, {"op", "floating", "i32"});
}

TEST(Device, NamesAndErrors) {
  EXPECT_EQ(device_from_name("cpu"), Device::cpu());
  EXPECT_EQ(name_of(Device::cuda(1)), "cuda:1");
  expect_error<std::invalid_argument>([] { device_from_name("tpu"); }, {"tpu"});
  expect_error<std::invalid_argument>([] { device_from_name("cuda:x"); }, {"cuda:x"});
  if (cuda_device_count() == 0) {
    EXPECT_EQ(device_from_name("auto"), Device::cpu());
    EXPECT_THROW(device_from_name("cuda"), std::runtime_error);
  }
}

TEST(Shape, CountsAndOverflow) {
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({3, 0, 5}), 0);
  EXPECT_EQ(element_count({2, 3, 4}), 24);
  EXPECT_EQ(to_string(Shape{2, 3}), "[2, 3]");
  EXPECT_EQ(to_string(Shape{}), "[]");
  expect_error<std::invalid_argument>([] { element_count({2, -1}); }, {"negative", "[2, -1]"});
  const int64_t big = int64_t{1} << 40;
  expect_error<std::invalid_argument>([&] { element_count({big, big}); }, {"overflow"});
}

TEST(Tensor, ConvertsOnTheWayInAndOut) {
  const std::vector<double> values = {0, 1, -2.5, 65504};
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16}) {
    const Tensor t = Tensor::from(values, {2, 2}, dtype);
    EXPECT_EQ(t.to_vector<double>(), values) << name_of(dtype);
    EXPECT_EQ(t.bytes(), 4 * size_of(dtype));
  }
  EXPECT_EQ(Tensor::from<float>({1.00390625f}, {1}, Dtype::bf16).item(), 1.0);  // a tie, to even
  EXPECT_EQ(Tensor::from<int32_t>({-7, 7}, {2}).to_vector<float>(), (std::vector<float>{-7, 7}));
  EXPECT_EQ(Tensor::from<uint8_t>({0, 255}, {2}).to_vector<int32_t>(),
            (std::vector<int32_t>{0, 255}));
  expect_error<std::invalid_argument>(
      [] {
        Tensor::from<float>({1, 2, 3}, {2, 2});
      },
      {"3 values", "[2, 2]"});
  EXPECT_EQ(Tensor::zeros({3}, Dtype::f16).to_vector<float>(), (std::vector<float>{0, 0, 0}));
}

TEST(Tensor, ReshapeAndSliceAreViews) {
  const Tensor t = Tensor::from<float>({0, 1, 2, 3, 4, 5}, {3, 2});
  const Tensor row = t.slice(1, 2), flat = t.reshape({-1}), rest = t.slice(1, 3).slice(1, 2);
  EXPECT_EQ(row.shape(), (Shape{1, 2}));
  EXPECT_EQ(row.to_vector<float>(), (std::vector<float>{2, 3}));
  EXPECT_EQ(rest.to_vector<float>(), (std::vector<float>{4, 5}));
  EXPECT_EQ(flat.shape(), (Shape{6}));
  EXPECT_EQ(t.reshape({2, -1}).shape(), (Shape{2, 3}));
  row.data<float>()[0] = 20;
  EXPECT_EQ(flat.to_vector<float>(), (std::vector<float>{0, 1, 20, 3, 4, 5}));
  EXPECT_EQ(t.slice(3, 3).count(), 0);
  EXPECT_EQ(row.reshape({2}).to_vector<float>(), (std::vector<float>{20, 3}));
  expect_error<std::invalid_argument>([&] { t.reshape({4, 2}); }, {"reshape", "[3, 2]", "[4, 2]"});
  expect_error<std::invalid_argument>(
      [&] {
        t.reshape({-1, -1});
      },
      {"reshape", "more than one -1"});
  EXPECT_THROW(t.reshape({4, -1}), std::invalid_argument);
  expect_error<std::invalid_argument>([&] { t.slice(2, 4); }, {"slice", "[2, 4)", "[3, 2]"});
  EXPECT_THROW(t.slice(-1, 1), std::invalid_argument);
  EXPECT_THROW(t.slice(2, 1), std::invalid_argument);
  EXPECT_THROW(t.reshape({}).slice(0, 1), std::invalid_argument);
}

TEST(Tensor, CopiesAreCopies) {
  const Tensor t = Tensor::from<float>({1, 2, 3, 4}, {2, 2});
  const Tensor copy = t.slice(1, 2).clone();
  t.data<float>()[2] = 30;
  EXPECT_EQ(copy.to_vector<float>(), (std::vector<float>{3, 4}));
  t.slice(0, 1).copy_from(copy);
  EXPECT_EQ(t.to_vector<float>(), (std::vector<float>{3, 4, 30, 4}));
  t.slice(1, 2).fill_zero();
  EXPECT_EQ(t.to_vector<float>(), (std::vector<float>{3, 4, 0, 0}));
  EXPECT_EQ(t.to(Device::cpu()).raw(), t.raw());
  expect_error<std::invalid_argument>([&] { t.copy_from(copy); },
                                      {"copy_from", "[1, 2]", "[2, 2]"});
}

TEST(Tensor, MisuseIsNamed) {
  const Tensor t = Tensor::from<float>({1, 2}, {2});
  expect_error<std::invalid_argument>([&] { t.data<double>(); }, {"f32", "f64"});
  expect_error<std::invalid_argument>([&] { t.item(); }, {"item", "[2]"});
  expect_error<std::invalid_argument>([&] { t.size(1); }, {"axis 1", "[2]"});
  EXPECT_EQ(t.size(-1), 2);
  EXPECT_THROW(t.size(-2), std::invalid_argument);
  expect_error<std::invalid_argument>([] { Tensor().raw(); }, {"undefined"});
  EXPECT_FALSE(Tensor().defined());
  expect_error<std::invalid_argument>([&] { check_shape("op", "weight", t, {3}); },
                                      {"op", "weight", "[2]", "[3]"});
  expect_error<std::invalid_argument>([&] { check_shape("op", "weight", Tensor(), {3}); },
                                      {"op", "weight", "undefined"});
  expect_error<std::invalid_argument>([&] { check_same("op", t, Tensor::zeros({2}, Dtype::f64)); },
                                      {"op", "f32", "f64"});
  expect_error<std::invalid_argument>([&] { check_same("op", t, Tensor::zeros({3}, Dtype::f32)); },
                                      {"op", "[2]", "[3]"});
}

TEST(Memory, StatisticsFollowTensors) {
  const Device cpu = Device::cpu();
  reset_peak(cpu);
  const MemoryStatistics before = memory_statistics(cpu);
  EXPECT_EQ(before.peak_bytes, before.current_bytes);
  constexpr int64_t bytes = int64_t{1} << 20;
  {
    const Tensor t({bytes}, Dtype::u8);
    const Tensor view = t.reshape({2, -1}).slice(1, 2);  // takes nothing
    const MemoryStatistics during = memory_statistics(cpu);
    EXPECT_EQ(during.current_bytes - before.current_bytes, bytes);
    EXPECT_EQ(during.allocations, before.allocations + 1);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(t.raw()) % 64, 0u);
  }
  const MemoryStatistics after = memory_statistics(cpu);
  EXPECT_EQ(after.current_bytes, before.current_bytes);
  EXPECT_EQ(after.peak_bytes, before.current_bytes + bytes);
  EXPECT_GE(after.reserved_bytes, after.current_bytes);
  reset_peak(cpu);
  EXPECT_EQ(memory_statistics(cpu).peak_bytes, before.current_bytes);
  release_cached(cpu);
  EXPECT_LE(memory_statistics(cpu).reserved_bytes, after.reserved_bytes);
  EXPECT_EQ(memory_statistics(cpu).current_bytes, before.current_bytes);
}

// A stream that moves through a model is freed and made again, always of one size.
TEST(Memory, PageLockedBlocksAreUsedAgain) {
  release_cached(Device::cpu());
  const MemoryStatistics before = page_locked_statistics();
  EXPECT_EQ(before.reserved_bytes, before.current_bytes);
  Tensor stream = Tensor::page_locked({100, 1000}, Dtype::f32);
  const Tensor ones = Tensor::from(std::vector<float>(100'000, 1.0f), {100, 1000});
  for (int move = 0; move < 5; ++move) {
    const Tensor next = Tensor::page_locked(stream.shape(), stream.dtype());
    next.copy_from(ones);
    stream = next;
  }
  EXPECT_EQ(stream.to_vector<float>(), ones.to_vector<float>());
  const MemoryStatistics after = page_locked_statistics();
  EXPECT_EQ(after.allocations - before.allocations, 6);
#ifdef CBQ_DEBUG  // nothing is kept there, so that use after free is seen
  EXPECT_EQ(after.system_allocations - before.system_allocations, 6);
#else
  EXPECT_EQ(after.system_allocations - before.system_allocations, 2);
#endif
  EXPECT_EQ(after.current_bytes - before.current_bytes, 401'408) << "whole pages";
  stream = Tensor();
  release_cached(Device::cpu());
  EXPECT_EQ(page_locked_statistics().reserved_bytes, before.reserved_bytes);
}

TEST(Memory, SmallTensorsDoNotShareBytes) {
  std::vector<Tensor> tensors;
  for (int32_t i = 0; i < 200; ++i) tensors.push_back(Tensor::from<int32_t>({i, i}, {2}));
  tensors.erase(tensors.begin() + 50, tensors.begin() + 100);
  for (int32_t i = 200; i < 250; ++i) tensors.push_back(Tensor::from<int32_t>({i, i}, {2}));
  for (size_t k = 0; k < tensors.size(); ++k) {
    const int32_t expected = static_cast<int32_t>(k < 50 ? k : k + 50);
    EXPECT_EQ(tensors[k].to_vector<int32_t>(), (std::vector<int32_t>{expected, expected}));
  }
}

TEST(Memory, AdoptedMemoryIsReadInPlaceAndGivenBackOnce) {
  std::vector<float> theirs = {1, 2, 3, 4, 5, 6};
  int released = 0;
  const MemoryStatistics before = memory_statistics(Device::cpu());
  Tensor rows;
  {
    const auto storage =
        Storage::adopt(theirs.data(), 24, Device::cpu(), [&released] { ++released; });
    const Tensor t = Tensor::over(storage, {3, 2}, Dtype::f32);
    EXPECT_EQ(t.raw(), theirs.data());
    t.data<float>()[5] = 60;
    EXPECT_EQ(theirs[5], 60);
    rows = t.slice(1, 3);
  }
  EXPECT_EQ(memory_statistics(Device::cpu()).allocations, before.allocations) << "copied";
  theirs[2] = 30;
  EXPECT_EQ(rows.to_vector<float>(), (std::vector<float>{30, 4, 5, 60}));
  EXPECT_EQ(released, 0) << "a view still reads it";
  rows = Tensor();
  EXPECT_EQ(released, 1);
}

TEST(Memory, AdoptedMemoryMustHoldTheTensor) {
  alignas(8) char bytes[25] = {};
  const auto over = [&](char* at, int64_t count, Dtype dtype) {
    return Tensor::over(Storage::adopt(at, 24, Device::cpu(), [] {}), {count}, dtype);
  };
  EXPECT_EQ(over(bytes, 6, Dtype::f32).count(), 6);
  expect_error<std::invalid_argument>([&] { over(bytes, 7, Dtype::f32); }, {"28 bytes", "24"});
  expect_error<std::invalid_argument>([&] { over(bytes + 1, 2, Dtype::f32); }, {"aligned", "4"});
  EXPECT_EQ(over(bytes + 1, 2, Dtype::u8).count(), 2);
}

TEST(Memory, TooMuchIsAnErrorThatNamesTheSize) {
#if !defined(__SANITIZE_ADDRESS__)  // ASan refuses such a size itself, and ends the program
  expect_error<std::runtime_error>([] { Tensor({int64_t{1} << 56}, Dtype::u8); },
                                   {"out of memory", "cpu", "72057594037927936 bytes"});
#else
  GTEST_SKIP() << "the sanitizer's allocator ends the program";
#endif
}

}  // namespace
}  // namespace cbq::test_tensor
