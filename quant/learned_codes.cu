#include "kernels/launch/launch.h"
#include "kernels/ops.h"
#include "quant/grid.h"
#include "quant/learned_codes.h"

namespace cbq {
namespace {

/// The code of a real number u.
template <class A>
CBQ_HD A code_of(A u, A largest) {
  return math::clamp(math::round_even(u), A(0), largest);
}

/// One row of work = the part of one row of the weight that shares a scale.
template <class T, class A>
struct DequantizeReal {
  const A* u;
  const A* scale;
  const uint8_t* zero_point;
  T* y;
  int64_t group;
  bool one_scale;
  A largest;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t item) const {
    const A s = scale[one_scale ? 0 : item], z = A(zero_point[one_scale ? 0 : item]);
    const int64_t first = item * group;
#pragma omp simd
    for (int64_t j = first + row.lane(); j < first + group; j += row.lanes()) {
      y[j] = T(s * (code_of(u[j], largest) - z));
    }
  }
};

template <class T, class A>
struct GradientsOfReal {
  const A* u;
  const A* scale;
  const uint8_t* zero_point;
  const T* dw;
  A* du;
  A* d_scale;  // one per row of work
  int64_t group;
  bool one_scale;
  A largest;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t item) const {
    const A s = scale[one_scale ? 0 : item], z = A(zero_point[one_scale ? 0 : item]);
    const int64_t first = item * group;
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = first + row.lane(); j < first + group; j += row.lanes()) {
      const A d = A(dw[j]);
      const bool leads_out = (u[j] <= A(0) && d > A(0)) || (u[j] >= largest && d < A(0));
      du[j] = leads_out ? A(0) : s * d;
      sum += d * (code_of(u[j], largest) - z);
    }
    sum = row.sum(sum);
    if (row.lane() == 0) d_scale[item] = sum;
  }
};

template <class A>
struct RoundToCode {
  const A* u;
  uint8_t* codes;
  A largest;
  CBQ_HD void operator()(int64_t i) const {
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(code_of(u[i], largest)));
  }
};

template <class A>
struct ToReal {
  const uint8_t* codes;
  A* u;
  CBQ_HD void operator()(int64_t i) const { u[i] = A(codes[i]); }
};

template <class F>
void dispatch_codes(const char* op, Dtype dtype, F&& f) {
  if (dtype == Dtype::f32) return f.template operator()<float>();
  if (dtype == Dtype::f64) return f.template operator()<double>();
  throw std::invalid_argument(message_of(op, ": codes and scales are f32 or f64, got ", dtype));
}

/// Inputs per row of work.
int64_t checked_group(const char* op, const LearnedCodes& c) {
  check(c.bits >= 1 && c.bits <= 8, op, ": expected 1 to 8 bits, got ", c.bits);
  check(c.u.defined() && c.u.rank() == 2, op, ": expected codes [out, in]");
  const int64_t out = c.u.size(0), in = c.u.size(1);
  const bool one = c.scale.defined() && c.scale.count() == 1;
  check(one || (c.group > 0 && in % c.group == 0), op, ": group ", c.group, " does not divide the ",
        in, " inputs");
  check_shape(op, "scale", c.scale, one ? Shape{1, 1} : Shape{out, in / c.group});
  check_shape(op, "zero point", c.zero_point, c.scale.shape());
  check(c.u.dtype() == c.scale.dtype() && c.zero_point.dtype() == Dtype::u8, op,
        ": expected codes like the scales, ", c.scale.dtype(), ", and zero points in u8");
  check(c.u.device() == c.scale.device() && c.u.device() == c.zero_point.device(), op,
        ": codes, scales and zero points are on different devices");
  return one ? in : c.group;
}

}  // namespace

Tensor real_codes(const PackedWeight& weight) {
  const Tensor codes = unpack_codes(weight.codes.to(weight.scale.device()), weight.bits, weight.in);
  Tensor u(codes.shape(), weight.scale.dtype(), codes.device());
  dispatch_codes("real_codes", u.dtype(), [&]<class A>() {
    map("real_codes", u.device(), u.count(), ToReal<A>{codes.data<uint8_t>(), u.data<A>()});
  });
  return u;
}

Tensor dequantize(const LearnedCodes& c, Dtype dtype) {
  const int64_t group = checked_group("dequantize", c);
  Tensor y(c.u.shape(), dtype, c.u.device());
  dispatch_codes("dequantize", c.u.dtype(), [&]<class A>() {
    dispatch_float(dtype, "dequantize", [&]<class T>() {
      map_rows("dequantize_real", y.device(), y.count() / group, group,
               DequantizeReal<T, A>{c.u.data<A>(), c.scale.data<A>(), c.zero_point.data<uint8_t>(),
                                    y.data<T>(), group, c.scale.count() == 1, A(max_code(c.bits))});
    });
  });
  return y;
}

CodeGradients code_gradients(const LearnedCodes& c, const Tensor& dw) {
  const int64_t group = checked_group("code_gradients", c), rows = c.u.count() / group;
  check_shape("code_gradients", "gradient", dw, c.u.shape());
  check(dw.device() == c.u.device(), "code_gradients: codes and gradient are on different devices");
  CodeGradients d{Tensor(c.u.shape(), c.u.dtype(), c.u.device()),
                  Tensor({rows}, c.u.dtype(), c.u.device())};
  const bool one = c.scale.count() == 1;
  dispatch_codes("code_gradients", c.u.dtype(), [&]<class A>() {
    dispatch_float(dw.dtype(), "code_gradients", [&]<class T>() {
      map_rows("code_gradients", dw.device(), rows, group,
               GradientsOfReal<T, A>{c.u.data<A>(), c.scale.data<A>(), c.zero_point.data<uint8_t>(),
                                     dw.data<T>(), d.u.data<A>(), d.scale.data<A>(), group, one,
                                     A(max_code(c.bits))});
    });
  });
  if (one) d.scale = kernels::sum(d.scale);
  d.scale = d.scale.reshape(c.scale.shape());
  return d;
}

PackedWeight packed(const LearnedCodes& c) {
  checked_group("packed", c);
  const Tensor codes(c.u.shape(), Dtype::u8, c.u.device());
  dispatch_codes("packed", c.u.dtype(), [&]<class A>() {
    map("round_to_code", codes.device(), codes.count(),
        RoundToCode<A>{c.u.data<A>(), codes.data<uint8_t>(), A(max_code(c.bits))});
  });
  PackedWeight weight;
  weight.bits = c.bits;
  weight.out = c.u.size(0);
  weight.in = c.u.size(1);
  weight.group = c.group;
  weight.codes = pack_codes(codes, c.bits);
  weight.scale = c.scale;
  weight.zero_point = c.zero_point;
  return weight;
}

}  // namespace cbq
