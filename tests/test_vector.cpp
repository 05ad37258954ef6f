// Elementwise ops of half types: as grids (a GPU, cbq_simt_tests) eight elements at a time where
// memory begins at a multiple of 16 bytes, one by one elsewhere, and the same either way: to the
// byte, but that a GPU's compiler may contract the two differently, and as the host's loops have
// it.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/launch/vector.h"
#include "kernels/ops.h"
#include "tests/compared_device.h"
#include "tests/op_case.h"

namespace cbq::test::test_vector {
namespace {

Device device() { return compared_device().value_or(Device::cpu()); }

/// The same elements `by` elements behind the start of a block.
Tensor shifted(const Tensor& t, int64_t by) {
  const Tensor buffer({by + t.count()}, t.dtype(), t.device());
  const Tensor view = buffer.slice(by, by + t.count());
  view.copy_from(t);
  return view;
}

bool same_bytes(const Tensor& p, const Tensor& q) {
  const Tensor a = p.to(Device::cpu()), b = q.to(Device::cpu());
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

/// The same but for a unit in the last place, and what is left where terms cancel.
bool near(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return false;
  const double unit = a.dtype() == Dtype::bf16 ? 0x1p-7 : 0x1p-10;
  const auto u = a.to_vector<double>(), v = b.to_vector<double>();
  for (size_t i = 0; i < u.size(); ++i) {
    if (!(std::abs(u[i] - v[i]) <= unit * std::abs(v[i]) + 2e-5)) return false;
  }
  return true;
}

/// The first results of `results` are one operation, rounded once: the same bytes everywhere.
constexpr size_t rounded_once = 8;

/// What every op with vectors makes of x, y and z.
Tensors results(const Tensor& x, const Tensor& y, const Tensor& z) {
  const auto [dgate, dup] = kernels::swiglu_backward(x, y, z);
  const Tensor sum = x.clone();
  kernels::add_into(sum, y);
  return {kernels::add(x, y),
          kernels::sub(x, y),
          kernels::mul(x, y),
          sum,
          kernels::scale(x, .3),
          kernels::relu(x),
          kernels::relu_backward(x, y),
          kernels::cast(x, Dtype::f32),
          kernels::swiglu(x, y),
          kernels::gelu(x),
          kernels::gelu_backward(x, y),
          dgate,
          dup};
}

TEST(Vector, ElementsAndVectorsAgree) {
  for (Dtype dtype : {Dtype::bf16, Dtype::f16}) {
    for (int64_t n : {1, 7, 8, 9, 40, 4099, 200001}) {
      SCOPED_TRACE(concat(n, " of ", name_of(dtype), " on ", name_of(device())));
      const Tensor x = make_input({}, {n}, dtype, 1, device());
      const Tensor y = make_input({}, {n}, dtype, 2, device());
      const Tensor z = make_input({}, {n}, dtype, 3, device());
      const Tensors vectors = results(x, y, z);
      const Tensors elements = results(shifted(x, 1), shifted(y, 1), shifted(z, 1));
      Tensors loops;
      on_the_host([&] {
        const Device cpu = Device::cpu();
        loops = results(x.to(cpu), y.to(cpu), z.to(cpu));
      });
      for (size_t i = 0; i < vectors.size(); ++i) {
        const bool contracted = i >= rounded_once && device().is_cuda();
        EXPECT_TRUE((contracted ? near : same_bytes)(vectors[i], elements[i])) << "result " << i;
        EXPECT_TRUE((i >= rounded_once ? near : same_bytes)(vectors[i], loops[i]))
            << "result " << i;
      }
      const Tensor wide = kernels::cast(x, Dtype::f32);
      EXPECT_TRUE(same_bytes(kernels::cast(wide, dtype), x));
      EXPECT_TRUE(same_bytes(kernels::cast(shifted(wide, 1), dtype), x));
    }
  }
}

TEST(Vector, TakesWhatIsAligned) {
  const Tensor x({64}, Dtype::bf16, device()), wide({64}, Dtype::f32, device());
  const auto* p = x.data<bf16>();
  EXPECT_TRUE(half_vectors(p, p + 8));
  EXPECT_FALSE(half_vectors(p, p + 1));
  EXPECT_FALSE(half_vectors(p + 4, p));
  EXPECT_TRUE(half_vectors(p, wide.data<float>()));
  EXPECT_FALSE(half_vectors(wide.data<float>()));
}

TEST(Vector, StaysInsideItsElements) {
  constexpr int64_t before = 8, n = 13;
  const Tensor x = make_input({}, {n + 8}, Dtype::bf16, 1, device()).slice(0, n);
  const Tensor ones({before + n + 8}, Dtype::bf16);
  std::memset(ones.raw(), 0x11, static_cast<size_t>(ones.bytes()));
  const Tensor buffer = ones.to(device());
  const Tensor inside = buffer.slice(before, before + n);
  inside.copy_from(x);
  kernels::add_into(inside, x);
  EXPECT_TRUE(same_bytes(inside, kernels::scale(x, 2.0)));
  const Tensor after = buffer.to(Device::cpu());
  const auto* bytes = static_cast<const uint8_t*>(after.raw());
  for (int64_t i = 0; i < after.bytes(); ++i) {
    const bool outside = i < 2 * before || i >= 2 * (before + n);
    EXPECT_TRUE(!outside || bytes[i] == 0x11) << "byte " << i;  // a tiny number: any sum shows
  }
}

}  // namespace
}  // namespace cbq::test::test_vector
