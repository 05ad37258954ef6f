#include "quant/rounding_guard.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "kernels/launch/tuned_guard.h"
#include "kernels/launch/tuned_switch.h"
#include "kernels/ops.h"
#include "quant/grid.h"
#include "quant/rounding.h"

namespace cbq::detail {
namespace {

Tensor normal(Shape shape, double deviation, uint64_t stream) {
  Tensor t(std::move(shape), Dtype::f32);
  kernels::fill_normal(t, 0.0, deviation, 67, stream);
  return t;
}

struct Layout {
  int64_t out, in, group;  // group 0: one scale per row
};

/// rank -1: dense variables; 0: none.
RoundingPass make_pass(const Layout& layout, int64_t rank, Dtype dtype, Device device) {
  const Tensor w = kernels::cast(normal({layout.out, layout.in}, 0.02, 1), dtype);
  WeightConfig config;
  config.bits = 3;
  config.search = ScaleSearch::min_max;
  config.granularity = layout.group > 0 ? Granularity::per_group : Granularity::per_channel;
  config.group_size = layout.group;
  const WeightGrid grid = weight_grid(w, config, "guard");
  RoundingPass pass;
  pass.bits = config.bits;
  pass.w = w.to(device);
  pass.scale = kernels::scale(grid.scale, 0.7).to(device);  // both ends of the grid clip
  pass.zero_point = grid.zero_point.to(device);
  pass.group = grid.group;
  pass.unit = grid.scale.to(device);
  if (rank < 0) {
    pass.dense = normal({layout.out, layout.in}, 0.2, 2).to(device);
  } else if (rank > 0) {
    pass.a1 = normal({layout.out, rank}, 0.4, 3).to(device);
    pass.a2 = normal({rank, layout.in}, 0.15, 4).to(device);
  }
  return pass;
}

std::vector<Tensor> run(const RoundingScheme& scheme, const RoundingPass& pass, const Tensor& dw) {
  const RoundingRegularizer regularizer{scheme.relaxes() ? 0.1 : 0.0, 4.0};
  const RoundingGradients d = scheme.backward(pass, dw, regularizer);
  return {scheme.forward(pass), d.scale, d.dense, d.a1, d.a2};
}

double difference_of(const RoundingScheme& scheme, const RoundingPass& pass) {
  const Tensor dw =
      kernels::cast(normal(pass.w.shape(), 1.0, 5), pass.w.dtype()).to(pass.w.device());
  const std::vector<Tensor> tuned = run(scheme, pass, dw);
  const tuned::ReferenceKernels reference_kernels;
  const std::vector<Tensor> reference = run(scheme, pass, dw);
  double largest = 0.0;
  for (size_t i = 0; i < tuned.size(); ++i) {
    const double difference = tuned::relative_difference(tuned[i], reference[i]);
    if (std::isnan(difference)) return difference;
    largest = std::max(largest, difference);
  }
  return largest;
}

/// Every start and phase that the scheme has.
double difference_of_forms(const RoundingScheme& scheme, RoundingPass pass) {
  double largest = 0.0;
  for (const Start start : {Start::fraction, Start::nearest, Start::zero}) {
    if (!scheme.supports(start)) continue;
    for (const bool hard : {false, true}) {
      if (!hard && !scheme.relaxes()) continue;
      pass.start = start;
      pass.hard = hard;
      const double difference = difference_of(scheme, pass);
      if (std::isnan(difference)) return difference;
      largest = std::max(largest, difference);
    }
  }
  return largest;
}

}  // namespace

std::string rounding_kernel_name(const std::string& scheme, Dtype dtype) {
  return concat(scheme, " ", name_of(dtype));
}

double rounding_difference(const std::string& scheme_name, Dtype dtype, Device device) {
  const auto scheme = rounding_schemes().make(scheme_name);
  double largest = 0.0;
  for (const Layout& layout : {Layout{19, 520, 0}, {3, 384, 128}}) {
    for (const int64_t rank : {-1, 0, 5, 8}) {
      const double difference =
          difference_of_forms(*scheme, make_pass(layout, rank, dtype, device));
      if (std::isnan(difference)) return difference;
      largest = std::max(largest, difference);
    }
  }
  return largest;
}

}  // namespace cbq::detail
