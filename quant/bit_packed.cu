// Packing of codes into a bit stream, and back into weights.
#include "kernels/launch/launch.h"
#include "kernels/ops.h"
#include "quant/bit_packed.h"
#include "quant/grid.h"

namespace cbq {
namespace {

// One row's codes -> its bytes. Byte k holds the bits [8k, 8k + 8) of the row's stream; a worker
// owns whole bytes and collects every code that reaches into them.
struct PackRow {
  const uint8_t* codes;
  uint8_t* packed;
  int64_t in, bytes, bits;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    for (int64_t k = row.lane(); k < bytes; k += row.lanes()) {
      uint32_t byte = 0;
      const int64_t first = 8 * k / bits, last = (8 * k + 7) / bits;
      for (int64_t j = first; j <= last && j < in; ++j) {
        const int64_t shift = j * bits - 8 * k;
        const uint32_t code = codes[r * in + j];
        byte |= shift >= 0 ? code << shift : code >> -shift;
      }
      packed[r * bytes + k] = static_cast<uint8_t>(byte);
    }
  }
};

CBQ_HD inline uint8_t code_at(const uint8_t* row, int64_t bytes, int64_t bits, int64_t j) {
  const int64_t k = j * bits / 8;
  const uint32_t low = row[k], high = k + 1 < bytes ? row[k + 1] : 0;
  return static_cast<uint8_t>(((low | high << 8) >> (j * bits % 8)) & ((1u << bits) - 1u));
}

struct UnpackRow {
  const uint8_t* packed;
  uint8_t* codes;
  int64_t in, bytes, bits;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    for (int64_t j = row.lane(); j < in; j += row.lanes()) {
      codes[r * in + j] = code_at(packed + r * bytes, bytes, bits, j);
    }
  }
};

// The fake quantizer's expression in its own precision: A is the scale's type.
template <class T, class A>
struct DequantizeRow {
  const uint8_t* packed;
  const A* scale;
  const uint8_t* zero_point;
  const int32_t* group_index;  // null: groups are runs of neighbours
  T* y;
  int64_t in, bytes, bits, group, groups;  // groups 0: one scale for all
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    for (int64_t j = row.lane(); j < in; j += row.lanes()) {
      const int64_t of = group_index == nullptr ? j / group : group_index[j];
      const int64_t g = groups == 0 ? 0 : r * groups + of;
      const A q = A(code_at(packed + r * bytes, bytes, bits, j));
      y[r * in + j] = T(scale[g] * (q - A(zero_point[g])));
    }
  }
};

// One row of work = the part of one row of the weight that shares a scale.
template <class T>
struct CodeSums {
  using A = acc_t<T>;
  const uint8_t* packed;
  const uint8_t* zero_point;
  const T* dw;
  A* sums;
  int64_t in, bytes, bits, group, groups;
  bool one_scale;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t item) const {
    const int64_t r = item / groups, first = item % groups * group;
    const A z = A(zero_point[one_scale ? 0 : item]);
    A sum = 0;
    for (int64_t j = first + row.lane(); j < first + group; j += row.lanes()) {
      sum += A(dw[r * in + j]) * (A(code_at(packed + r * bytes, bytes, bits, j)) - z);
    }
    sum = row.sum(sum);
    if (row.lane() == 0) sums[item] = sum;
  }
};

struct LargestCode {
  const uint8_t* codes;
  float* largest;
  int64_t in;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    float m = 0;
    for (int64_t j = row.lane(); j < in; j += row.lanes()) {
      const auto code = static_cast<float>(codes[r * in + j]);
      m = code > m ? code : m;
    }
    m = row.max(m);
    if (row.lane() == 0) largest[r] = m;
  }
};

void check_bits(const char* op, int bits) {
  check(bits >= 1 && bits <= 8, op, ": expected 1 to 8 bits, got ", bits);
}
int64_t bytes_of(int64_t in, int bits) { return (in * bits + 7) / 8; }

template <class A>
void run_dequantize(const PackedWeight& weight, const Tensor& scale, const Tensor& zero_point,
                    const Tensor& codes, const Tensor& group_index, const Tensor& y) {
  const bool one = scale.count() == 1;
  const int32_t* index = group_index.defined() ? group_index.data<int32_t>() : nullptr;
  dispatch_float(y.dtype(), "dequantize", [&]<class T>() {
    map_rows("dequantize", y.device(), weight.out, weight.in,
             DequantizeRow<T, A>{codes.data<uint8_t>(), scale.data<A>(), zero_point.data<uint8_t>(),
                                 index, y.data<T>(), weight.in, codes.size(1), weight.bits,
                                 weight.group, one ? 0 : weight.in / weight.group});
  });
}

}  // namespace

Tensor pack_codes(const Tensor& codes, int bits) {
  check_bits("pack_codes", bits);
  check(codes.defined() && codes.rank() == 2 && codes.dtype() == Dtype::u8,
        "pack_codes: expected u8 codes [out, in]");
  const int64_t out = codes.size(0), in = codes.size(1), bytes = bytes_of(in, bits);
  Tensor largest({out}, Dtype::f32, codes.device());
  map_rows("pack_codes", codes.device(), out, in,
           LargestCode{codes.data<uint8_t>(), largest.data<float>(), in});
  const std::vector<float> by_row = largest.to_vector<float>();
  for (size_t r = 0; r < by_row.size(); ++r) {
    check(by_row[r] <= static_cast<float>(max_code(bits)), "pack_codes: code ", by_row[r],
          " in row ", r, " does not fit ", bits, " bits");
  }
  Tensor packed({out, bytes}, Dtype::u8, codes.device());
  map_rows("pack_codes", codes.device(), out, bytes,
           PackRow{codes.data<uint8_t>(), packed.data<uint8_t>(), in, bytes, bits});
  return packed;
}

Tensor unpack_codes(const Tensor& packed, int bits, int64_t in) {
  check_bits("unpack_codes", bits);
  check(packed.defined() && packed.rank() == 2 && packed.dtype() == Dtype::u8,
        "unpack_codes: expected u8 bytes [out, ceil(in bits / 8)]");
  check(in >= 0 && packed.size(1) == bytes_of(in, bits), "unpack_codes: ", in, " codes of ", bits,
        " bits take ", bytes_of(in, bits), " bytes per row, got ", packed.size(1));
  Tensor codes({packed.size(0), in}, Dtype::u8, packed.device());
  map_rows("unpack_codes", packed.device(), packed.size(0), in,
           UnpackRow{packed.data<uint8_t>(), codes.data<uint8_t>(), in, packed.size(1), bits});
  return codes;
}

namespace {

/// True if one scale serves the whole weight.
bool checked_one_scale(const char* op, const PackedWeight& weight) {
  check_bits(op, weight.bits);
  check_shape(op, "codes", weight.codes, {weight.out, bytes_of(weight.in, weight.bits)});
  const bool one = weight.scale.defined() && weight.scale.count() == 1;
  check(one || (weight.group > 0 && weight.in % weight.group == 0), op, ": group ", weight.group,
        " does not divide the ", weight.in, " inputs");
  check_shape(op, "scale", weight.scale,
              one ? Shape{1, 1} : Shape{weight.out, weight.in / weight.group});
  check_shape(op, "zero point", weight.zero_point, weight.scale.shape());
  if (weight.group_index.defined()) {
    check_shape(op, "group index", weight.group_index, {weight.in});
    check(weight.group_index.dtype() == Dtype::i32, op, ": the group index is ",
          weight.group_index.dtype(), ", expected i32");
  }
  return one;
}

}  // namespace

Tensor code_sums(const PackedWeight& weight, const Tensor& dw) {
  const bool one = checked_one_scale("code_sums", weight);
  check_shape("code_sums", "gradient", dw, {weight.out, weight.in});
  check(!weight.group_index.defined(),
        "code_sums: the inputs of a group are no neighbours, and scales of such are not learned");
  for (const Tensor* t : {&weight.codes, &weight.zero_point}) {
    check(t->device() == dw.device(), "code_sums: weight and gradient are on different devices");
  }
  const int64_t group = one ? weight.in : weight.group, groups = weight.in / group;
  Tensor sums;
  dispatch_float(dw.dtype(), "code_sums", [&]<class T>() {
    using A = acc_t<T>;
    sums = Tensor({weight.out, groups}, dtype_of<A>::value, dw.device());
    map_rows("code_sums", dw.device(), weight.out * groups, group,
             CodeSums<T>{weight.codes.data<uint8_t>(), weight.zero_point.data<uint8_t>(),
                         dw.data<T>(), sums.data<A>(), weight.in, weight.codes.size(1), weight.bits,
                         group, groups, one});
  });
  return one ? kernels::sum(sums).reshape({1, 1}) : sums;
}

Tensor dequantize(const PackedWeight& weight, Dtype dtype, Device device) {
  checked_one_scale("dequantize", weight);
  const Tensor scale = weight.scale.to(device), zero_point = weight.zero_point.to(device);
  const Tensor codes = weight.codes.to(device);
  Tensor index;
  if (weight.group_index.defined()) index = weight.group_index.to(device);
  Tensor y({weight.out, weight.in}, dtype, device);
  if (scale.dtype() == Dtype::f64) {
    run_dequantize<double>(weight, scale, zero_point, codes, index, y);
  } else {
    run_dequantize<float>(weight, scale, zero_point, codes, index, y);
  }
  return y;
}

}  // namespace cbq
