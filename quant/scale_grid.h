// A grid scheme with one variable x per group, which moves the scale alone: from two scalar
// functions to a GridScheme.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/formulas/math.h"
#include "kernels/launch/launch.h"
#include "quant/grid_scheme.h"

namespace cbq {
namespace detail {

/// s = Form::scale(s0, x).
template <class Form, class T>
struct ScaleOf {
  const T* start;
  const T* x;
  T* scale;
  CBQ_HD void operator()(int64_t i) const { scale[i] = Form::scale(start[i], x[i]); }
};

/// dL/dx = dL/ds ds/dx.
template <class Form, class T>
struct ScaleGradient {
  const T* start;
  const T* scale;
  const T* d_scale;
  T* dx;
  CBQ_HD void operator()(int64_t i) const { dx[i] = d_scale[i] * Form::slope(start[i], scale[i]); }
};

/// Scales are f32, or f64 where truth is wanted.
template <class F>
void dispatch_scale(const char* op, Dtype dtype, F&& f) {
  if (dtype == Dtype::f32) return f.template operator()<float>();
  if (dtype == Dtype::f64) return f.template operator()<double>();
  throw std::invalid_argument(message_of(op, ": scales are f32 or f64, got ", dtype));
}

/// A scale that x could make zero or negative stays at a 1024th of its start.
template <class A>
CBQ_HD A kept_positive(A scale, A start) {
  return math::max(scale, start / A(1024));
}

}  // namespace detail

/// `Form` has name, help, scale(s0, x) with scale(s0, 0) = s0, and slope(s0, s) = ds/dx.
template <class Form>
class ScaleGrid : public GridScheme {
 public:
  std::string name() const override { return Form::name; }
  std::string help() const override { return Form::help; }

  std::vector<std::pair<std::string, Tensor>> start(const Tensor& /*w*/, const WeightGrid& grid,
                                                    const WeightConfig& /*config*/) override {
    start_ = {grid.scale, grid.zero_point};
    const Tensor& s = grid.scale;
    return {{"scale_variable", Tensor::zeros(s.shape(), s.dtype(), s.device())}};
  }

  GridValues values(const std::vector<Tensor>& variables) const override {
    const Tensor& x = variables.at(0);
    check_same(Form::name, start_.scale, x);
    Tensor s(x.shape(), x.dtype(), x.device());
    detail::dispatch_scale(Form::name, x.dtype(), [&]<class T>() {
      map("scale_of", x.device(), x.count(),
          detail::ScaleOf<Form, T>{start_.scale.data<T>(), x.data<T>(), s.data<T>()});
    });
    return {s, start_.zero_point};
  }

  std::vector<Tensor> gradients(const std::vector<Tensor>& /*variables*/, const GridValues& now,
                                const GridValues& d) const override {
    const Tensor& s = now.scale;
    check_same(Form::name, start_.scale, s);
    check_same(Form::name, start_.scale, d.scale);
    Tensor dx(s.shape(), s.dtype(), s.device());
    detail::dispatch_scale(Form::name, s.dtype(), [&]<class T>() {
      map("scale_gradient", s.device(), s.count(),
          detail::ScaleGradient<Form, T>{start_.scale.data<T>(), s.data<T>(), d.scale.data<T>(),
                                         dx.data<T>()});
    });
    return {dx};
  }

 private:
  GridValues start_;
};

/// Makes `Form` known by its name; the line that a file of quant/grids/ ends with.
template <class Form>
bool register_scale_grid() {
  return grid_schemes().add(Form::name, [] { return std::make_unique<ScaleGrid<Form>>(); });
}

}  // namespace cbq
