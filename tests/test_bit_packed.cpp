// Packed codes: every bit width there and back, and weights out of them.
#include <gtest/gtest.h>

#include "kernels/formulas/philox.h"
#include "kernels/ops.h"
#include "quant/bit_packed.h"
#include "quant/rounding.h"
#include "tests/test_data.h"

namespace cbq::test_bit_packed {
namespace {

Tensor random_codes(int64_t out, int64_t in, int bits) {
  std::vector<uint8_t> codes;
  for (int64_t i = 0; i < out * in; ++i) {
    codes.push_back(
        static_cast<uint8_t>(philox_bits(1, 2, static_cast<uint64_t>(i)) >> (32 - bits)));
  }
  return Tensor::from(codes, {out, in});
}

TEST(BitPacked, EveryWidthRoundTrips) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (int64_t in : {1, 7, 8, 13, 64}) {
      const Tensor codes = random_codes(3, in, bits);
      const Tensor packed = pack_codes(codes, bits);
      EXPECT_EQ(packed.shape(), (Shape{3, (in * bits + 7) / 8}));
      EXPECT_EQ(unpack_codes(packed, bits, in).to_vector<int>(), codes.to_vector<int>())
          << bits << " bits, " << in << " codes";
    }
  }
}

TEST(BitPacked, LayoutIsALittleEndianBitStream) {
  const Tensor codes = Tensor::from<uint8_t>({1, 2, 3, 4, 5, 6, 7, 0, 7}, {1, 9});
  std::vector<int> bytes(4, 0);
  const std::vector<int> values = codes.to_vector<int>();
  for (int bit = 0; bit < 27; ++bit) {
    bytes[static_cast<size_t>(bit / 8)] |= (values[static_cast<size_t>(bit / 3)] >> bit % 3 & 1)
                                           << bit % 8;
  }
  EXPECT_EQ(pack_codes(codes, 3).to_vector<int>(), bytes);
}

TEST(BitPacked, RefusesWhatDoesNotFit) {
  using Invalid = std::invalid_argument;
  const Tensor codes = Tensor::from<uint8_t>({1, 3, 4, 0}, {2, 2});
  expect_error<Invalid>([&] { pack_codes(codes, 2); }, {"code 4", "row 1", "2 bits"});
  expect_error<Invalid>([&] { pack_codes(codes, 9); }, {"1 to 8"});
  expect_error<Invalid>([&] { pack_codes(Tensor::zeros({2, 2}, Dtype::f32), 2); }, {"u8"});
  const Tensor packed = pack_codes(codes, 3);
  expect_error<Invalid>([&] { unpack_codes(packed, 3, 9); }, {"9 codes", "4 bytes", "got 1"});
}

TEST(BitPacked, DequantizeRefusesShapesThatDoNotFit) {
  using Invalid = std::invalid_argument;
  PackedWeight weight{4,
                      2,
                      8,
                      4,
                      Tensor::zeros({2, 4}, Dtype::u8),
                      Tensor::zeros({2, 2}, Dtype::f32),
                      Tensor::zeros({2, 2}, Dtype::u8)};
  EXPECT_NO_THROW(dequantize(weight, Dtype::f32, Device::cpu()));
  PackedWeight bad = weight;
  bad.codes = Tensor::zeros({2, 3}, Dtype::u8);
  expect_error<Invalid>([&] { dequantize(bad, Dtype::f32, Device::cpu()); }, {"codes", "[2, 4]"});
  bad = weight;
  bad.scale = Tensor::zeros({2, 3}, Dtype::f32);
  expect_error<Invalid>([&] { dequantize(bad, Dtype::f32, Device::cpu()); }, {"scale", "[2, 2]"});
  bad = weight;
  bad.group = 3;
  expect_error<Invalid>([&] { dequantize(bad, Dtype::f32, Device::cpu()); }, {"group 3", "8"});
}

TEST(BitPacked, DequantizeIsTheFakeQuantizerToTheBit) {
  for (Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
    for (Granularity granularity :
         {Granularity::per_tensor, Granularity::per_channel, Granularity::per_group}) {
      for (int bits : {1, 2, 3, 4, 8}) {
        Tensor w({5, 32}, dtype);
        kernels::fill_normal(w, 0.001, 0.02, 3, 1);
        WeightConfig config;
        config.bits = bits;
        config.granularity = granularity;
        config.group_size = 8;
        const WeightGrid grid = weight_grid(w, config, "layer");
        const auto scheme = rounding_schemes().make("nearest");
        RoundingPass pass;
        pass.w = w;
        pass.scale = grid.scale;
        pass.zero_point = grid.zero_point;
        pass.bits = bits;
        pass.group = grid.group;
        pass.hard = true;
        PackedWeight packed{
            bits, 5, 32, grid.group, pack_codes(scheme->codes(pass), bits), grid.scale, Tensor()};
        packed.zero_point =
            Tensor::from(grid.zero_point.to_vector<uint8_t>(), grid.zero_point.shape());
        EXPECT_EQ(dequantize(packed, dtype, Device::cpu()).to_vector<double>(),
                  scheme->forward(pass).to_vector<double>())
            << name_of(dtype) << ", " << name_of(granularity) << ", " << bits << " bits";
      }
    }
  }
}

}  // namespace
}  // namespace cbq::test_bit_packed
