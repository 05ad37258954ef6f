#include "kernels/formulas/math.h"
#include "kernels/launch/launch.h"
#include "quant/grid_scheme.h"
#include "quant/scale_grid.h"

namespace cbq {
namespace {

template <class A>
struct MovedZeroPoint {
  const A* zero_point;
  const A* x;
  A* moved;
  A largest_code;
  CBQ_HD void operator()(int64_t i) const {
    moved[i] = math::clamp(math::round_even(zero_point[i] + x[i]), A(0), largest_code);
  }
};

template <class A>
struct MovedZeroPointGradient {
  const A* zero_point;
  const A* x;
  const A* d;
  A* dx;
  A largest_code;
  CBQ_HD void operator()(int64_t i) const {
    const A z = zero_point[i] + x[i];
    const bool leads_out = (z >= largest_code && d[i] < A(0)) || (z <= A(0) && d[i] > A(0));
    dx[i] = leads_out ? A(0) : d[i];
  }
};

}  // namespace

void GridScheme::follow(const Tensor& /*w*/) {
  throw std::logic_error(message_of("grid '", name(), "' does not follow a weight"));
}
void GridScheme::add_weight_gradient(const Tensor& /*w*/, const std::vector<Tensor>& /*variables*/,
                                     const GridValues& /*d*/, const Tensor& /*dw*/) const {
  throw std::logic_error(message_of("grid '", name(), "' does not follow a weight"));
}

Registry<GridScheme>& grid_schemes() {
  static Registry<GridScheme> registry("grid");
  return registry;
}

Tensor moved_zero_point(const Tensor& zero_point, const Tensor& x, int bits) {
  check_same("moved_zero_point", zero_point, x);
  Tensor moved(x.shape(), x.dtype(), x.device());
  detail::dispatch_scale("moved_zero_point", x.dtype(), [&]<class A>() {
    map("moved_zero_point", x.device(), x.count(),
        MovedZeroPoint<A>{zero_point.data<A>(), x.data<A>(), moved.data<A>(), A(max_code(bits))});
  });
  return moved;
}

Tensor moved_zero_point_gradient(const Tensor& zero_point, const Tensor& x, int bits,
                                 const Tensor& d) {
  check_same("moved_zero_point", zero_point, x);
  check_same("moved_zero_point", zero_point, d);
  Tensor dx(x.shape(), x.dtype(), x.device());
  detail::dispatch_scale("moved_zero_point", x.dtype(), [&]<class A>() {
    map("moved_zero_point", x.device(), x.count(),
        MovedZeroPointGradient<A>{zero_point.data<A>(), x.data<A>(), d.data<A>(), dx.data<A>(),
                                  A(max_code(bits))});
  });
  return dx;
}

}  // namespace cbq
