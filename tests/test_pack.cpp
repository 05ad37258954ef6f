// Elementwise ops of half types: as grids (cbq_simt_tests) eight elements at a time where memory
// begins at a multiple of 16 bytes, one by one elsewhere, and the same bytes either way.
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/ops.h"
#include "kernels/pack.h"
#include "tests/op_case.h"

namespace cbq::test {
namespace {

/// The same elements `by` elements behind the start of a block.
Tensor shifted(const Tensor& t, int64_t by) {
  const Tensor buffer({by + t.count()}, t.dtype());
  const Tensor view = buffer.slice(by, by + t.count());
  view.copy_from(t);
  return view;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

/// What every op with packs makes of x, y and z.
Tensors results(const Tensor& x, const Tensor& y, const Tensor& z) {
  const auto [dgate, dup] = kernels::swiglu_backward(x, y, z);
  const Tensor sum = x.clone();
  kernels::add_into(sum, y);
  return {kernels::add(x, y),
          kernels::sub(x, y),
          kernels::mul(x, y),
          sum,
          kernels::scale(x, .3),
          kernels::swiglu(x, y),
          kernels::relu(x),
          kernels::relu_backward(x, y),
          kernels::gelu(x),
          kernels::gelu_backward(x, y),
          dgate,
          dup,
          kernels::cast(x, Dtype::f32)};
}

TEST(Pack, ElementsAndPacksAgree) {
  for (Dtype dtype : {Dtype::bf16, Dtype::f16}) {
    for (int64_t n : {1, 7, 8, 9, 40, 4099, 200001}) {
      const Tensor x = make_input({}, {n}, dtype, 1), y = make_input({}, {n}, dtype, 2);
      const Tensor z = make_input({}, {n}, dtype, 3);
      const Tensors packs = results(x, y, z);
      const Tensors elements = results(shifted(x, 1), shifted(y, 1), shifted(z, 1));
      for (size_t i = 0; i < packs.size(); ++i) {
        EXPECT_TRUE(same_bytes(packs[i], elements[i]))
            << "result " << i << ", " << n << " of " << name_of(dtype);
      }
      const Tensor wide = kernels::cast(x, Dtype::f32);
      EXPECT_TRUE(same_bytes(kernels::cast(wide, dtype), x));
      EXPECT_TRUE(same_bytes(kernels::cast(shifted(wide, 1), dtype), x));
    }
  }
}

TEST(Pack, TakesWhatIsAligned) {
  const Tensor x({64}, Dtype::bf16), wide({64}, Dtype::f32);
  const auto* p = x.data<bf16>();
  EXPECT_TRUE(half_packs(p, p + 8));
  EXPECT_FALSE(half_packs(p, p + 1));
  EXPECT_FALSE(half_packs(p + 4, p));
  EXPECT_TRUE(half_packs(p, wide.data<float>()));
  EXPECT_FALSE(half_packs(wide.data<float>()));
}

TEST(Pack, StaysInsideItsElements) {
  constexpr int64_t before = 8, n = 13;
  const Tensor x = make_input({}, {n + 8}, Dtype::bf16, 1).slice(0, n);
  const Tensor buffer({before + n + 8}, Dtype::bf16);
  std::memset(buffer.raw(), 0x11, static_cast<size_t>(buffer.bytes()));
  const Tensor inside = buffer.slice(before, before + n);
  inside.copy_from(x);
  kernels::add_into(inside, x);
  EXPECT_TRUE(same_bytes(inside, kernels::scale(x, 2.0)));
  const auto* bytes = static_cast<const uint8_t*>(buffer.raw());
  for (int64_t i = 0; i < buffer.bytes(); ++i) {
    const bool outside = i < 2 * before || i >= 2 * (before + n);
    EXPECT_TRUE(!outside || bytes[i] == 0x11) << "byte " << i;  // a tiny number: any sum shows
  }
}

}  // namespace
}  // namespace cbq::test
