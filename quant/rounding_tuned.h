// A rounding scheme on the tuned kernels, where they cover the case: f32 or bf16 weights
// on a GPU, rows of whole groups of eight columns at 16-byte addresses, rank up to 8.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "kernels/fused/quantize_weight.h"
#include "kernels/fused/quantize_weight_backward.h"
#include "kernels/launch/tuned_guard.h"
#include "kernels/ops.h"
#include "quant/rounding_guard.h"
#include "quant/rounding_view.h"

namespace cbq::detail {

/// The scalar functions of a scheme, in one phase, for a lane's columns.
template <class Scheme, bool hard>
struct LaneMath {
  static constexpr bool in_weight_units = Scheme::v_in_weight_units;
  static constexpr double infinity = std::numeric_limits<double>::infinity();
  static constexpr bool bounded = Scheme::v_min > -infinity || Scheme::v_max < infinity;

  template <Start from, int n>
  CBQ_HD static void start_from(const float (&u)[n], float (&v)[n]) {
    CBQ_UNROLL
    for (int j = 0; j < n; ++j) {
      v[j] = Scheme::initial(u[j], from) + v[j];
      if constexpr (bounded) v[j] = math::clamp(v[j], float(Scheme::v_min), float(Scheme::v_max));
    }
  }
  /// v = clamp(v0(u) + v); one loop per start, which no column has to choose.
  template <int n>
  CBQ_HD static void start(Start from, const float (&u)[n], float (&v)[n]) {
    if (from == Start::fraction) return start_from<Start::fraction>(u, v);
    if (from == Start::nearest) return start_from<Start::nearest>(u, v);
    start_from<Start::zero>(u, v);
  }
  CBQ_HD static float rounded(float u, float v) { return detail::rounded<Scheme, hard>(u, v); }
  CBQ_HD static float d_dv(float u, float v) { return Scheme::d_dv(u, v); }
  CBQ_HD static float d_du(float u, float v) { return Scheme::d_du(u, v); }

  /// dv with the regularizer's gradient, and none that leads out of the bounds. Returns the
  /// regularizer's dL/ds (RoundBackward::add_regularizer). `unit` is of the scale s.
  template <int n>
  CBQ_HD static float finish(float weight, float beta, [[maybe_unused]] float unit,
                             [[maybe_unused]] float s, const float (&v)[n],
                             [[maybe_unused]] const float (&offset)[n], float (&dv)[n]) {
    float ds = 0.0f;
    if (weight != 0.0f) {
      CBQ_UNROLL
      for (int j = 0; j < n; ++j) {
        if constexpr (in_weight_units) {
          const float d = regularizer_gradient<Scheme>(v[j], weight, beta);
          dv[j] += d * (unit / s);
          ds -= d * offset[j] / s;
        } else {
          dv[j] += weight * regularizer_slope<Scheme>(v[j], beta);
        }
      }
    }
    if constexpr (bounded) {
      CBQ_UNROLL
      for (int j = 0; j < n; ++j) dv[j] = leads_out<Scheme>(v[j], dv[j]) ? 0.0f : dv[j];
    }
    return ds;
  }
};

/// Puts the tuned kernels of a scheme under the guard, where there are any. Returns true.
template <class Scheme>
bool guard_rounding_kernels() {
#ifdef CBQ_KERNELS
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    tuned::guard(
        {rounding_kernel_name(Scheme::name, dtype), rounding_tolerance,
         [dtype](Device device) { return rounding_difference(Scheme::name, dtype, device); }});
  }
#endif
  return true;
}

inline bool at_16_bytes(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

/// True where the tuned kernels can run, and agree with the reference kernels.
template <class Scheme, class T>
bool fast_covers(const RoundingView<T>& view, Device device, const T* output) {
  if (!runs_on_grid(device) || !tuned::enabled()) return false;
  const int64_t group = view.group, columns = tuned::warp_columns;
  const bool lanes_share_scales =
      view.groups == 1 || group % columns == 0 || (group % 8 == 0 && columns % group == 0);
  const bool fits = lanes_share_scales && view.in % 8 == 0 && view.rank <= 8 &&
                    view.out < (1 << 24) && view.in < (1 << 24) && at_16_bytes(view.w) &&
                    at_16_bytes(view.dense) && at_16_bytes(view.a2) && at_16_bytes(output);
  static const std::string kernel = rounding_kernel_name(Scheme::name, dtype_of<T>::value);
  return fits && tuned::trusted(kernel, device);
}

/// Calls f.template operator()<Math, variables>() for the phase and the variables of `view`.
template <class Scheme, class T, class F>
void dispatch_lanes(const RoundingView<T>& view, F&& f) {
  const auto with_phase = [&]<bool hard>() {
    using Math = LaneMath<Scheme, hard>;
    if (view.dense != nullptr) return f.template operator()<Math, tuned::dense_variables>();
    if (view.rank == 0) return f.template operator()<Math, tuned::no_variables>();
    if (view.rank <= 5) return f.template operator()<Math, 5>();
    f.template operator()<Math, 8>();
  };
  if constexpr (Scheme::relaxes) {
    if (!view.hard) return with_phase.template operator()<false>();
  }
  with_phase.template operator()<true>();
}

/// W^ into y; false, and nothing done, where the reference kernel has to.
template <class Scheme, class T>
bool fast_forward([[maybe_unused]] const RoundingView<T>& view, [[maybe_unused]] Device device,
                  [[maybe_unused]] T* y) {
#ifdef CBQ_KERNELS
  if (!fast_covers<Scheme>(view, device, y)) return false;
  dispatch_lanes<Scheme>(view, [&]<class Math, int variables>() {
    using Kernel = tuned::QuantizeWeight<Math, T, RoundingView<T>, variables>;
    const int64_t tiles = (view.in + tuned::warp_columns - 1) / tuned::warp_columns;
    const int64_t blocks = (view.out + Kernel::rows_per_block - 1) / Kernel::rows_per_block;
    tuned::launch_blocks(Scheme::name, device, tiles * blocks, Kernel{view, y});
  });
  return true;
#else
  return false;
#endif
}

/// Where kernels find the regularizer's numbers when they run; null where these come with the call.
inline const double* regularizer_now(const char* op, bool relaxes, const RoundingRegularizer& r,
                                     Device device) {
  if (!relaxes || !r.now.defined()) return nullptr;
  check(r.now.device() == device && r.now.count() == 2, op,
        ": the regularizer's weight and beta are two numbers on ", device);
  return r.now.data<double>();
}

/// Partial sums [n, ...] added up over n, in order.
inline Tensor add_up(const Tensor& partial) {
  return partial.size(0) == 1 ? partial : kernels::column_sums(partial);
}

/// All gradients; false, and nothing done, where the reference kernel has to.
template <class Scheme, class T>
bool fast_backward([[maybe_unused]] const RoundingPass& pass, [[maybe_unused]] const Tensor& dw,
                   [[maybe_unused]] const RoundingRegularizer& regularizer,
                   [[maybe_unused]] RoundingGradients& result) {
#ifdef CBQ_KERNELS
  const auto view = view_of<T>(pass);
  const Device device = pass.w.device();
  if (pass.wants_zero_point || !fast_covers<Scheme>(view, device, dw.data<T>())) return false;
  const auto make = [&](Shape shape) { return Tensor(std::move(shape), Dtype::f32, device); };
  const int64_t tiles = (view.in + tuned::warp_columns - 1) / tuned::warp_columns;
  const int64_t blocks = (view.out + tuned::backward_rows - 1) / tuned::backward_rows;
  const int64_t parts = (view.group + tuned::warp_columns - 1) / tuned::warp_columns;
  const Tensor d_scale = make({parts, view.out * view.groups});
  Tensor d_a1, d_a2;
  if (view.dense != nullptr) result.dense = make(pass.dense.shape());
  if (view.rank > 0) {
    d_a1 = make({tiles, view.out * view.rank});
    d_a2 = make({blocks, view.rank * view.in});
  }
  dispatch_lanes<Scheme>(view, [&]<class Math, int variables>() {
    tuned::QuantizeWeightBackward<Math, T, RoundingView<T>, variables> f{};
    f.view = view;
    f.dw = dw.data<T>();
    f.d_scale = d_scale.data<float>();
    if (result.dense.defined()) f.d_dense = result.dense.data<float>();
    if (view.rank > 0) f.d_a1 = d_a1.data<float>(), f.d_a2 = d_a2.data<float>();
    f.segment =
        view.groups == 1 ? 32u : static_cast<unsigned>(math::min<int64_t>(32, view.group / 8));
    f.regularizer = Scheme::relaxes ? static_cast<float>(regularizer.weight) : 0.0f;
    f.beta = static_cast<float>(regularizer.beta);
    f.now = regularizer_now(Scheme::name, Scheme::relaxes, regularizer, device);
    tuned::launch_blocks(Scheme::name, device, tiles * blocks, f);
  });
  result.scale = view.one_scale ? kernels::sum(d_scale) : add_up(d_scale);
  result.scale = result.scale.reshape(pass.scale.shape());
  if (view.rank > 0) {
    result.a1 = add_up(d_a1).reshape(pass.a1.shape());
    result.a2 = add_up(d_a2).reshape(pass.a2.shape());
  }
  return true;
#else
  return false;
#endif
}

}  // namespace cbq::detail
