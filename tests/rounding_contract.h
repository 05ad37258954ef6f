// What the contract of every registered rounding scheme is tested with. A new scheme is tested by
// existing: the names come from the registry.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "quant/weight_quantizer.h"

namespace cbq::test {

inline Tensor normal(Shape shape, double deviation, uint64_t stream, Dtype dtype) {
  Tensor t(std::move(shape), dtype);
  kernels::fill_normal(t, 0.0, deviation, 11, stream);
  return t;
}

/// A weight with its grid and small random rounding variables.
inline RoundingPass make_pass(const RoundingScheme& scheme, Parameterization parameterization,
                              Dtype dtype, Granularity granularity = Granularity::per_channel,
                              int64_t out = 7, int64_t in = 24, int64_t group = 8) {
  RoundingPass pass;
  pass.w = normal({out, in}, 0.02, 1, dtype);
  WeightConfig config;
  config.bits = pass.bits = 3;
  config.search = ScaleSearch::min_max;
  config.granularity = granularity;
  config.group_size = group;
  const WeightGrid grid = weight_grid(pass.w, config, "layer");
  // A smaller scale, so that both ends of the grid clip.
  pass.scale = kernels::scale(grid.scale, 0.7);
  pass.zero_point = grid.zero_point;
  pass.group = grid.group;
  pass.start = scheme.default_start();
  pass.unit = grid.scale;
  const Dtype variables = grid.scale.dtype();
  if (parameterization == Parameterization::dense) {
    pass.dense = normal({out, in}, 0.1, 2, variables);
  } else if (parameterization == Parameterization::low_rank) {
    pass.a1 = normal({out, 3}, 0.4, 3, variables);
    pass.a2 = normal({3, in}, 0.15, 4, variables);
  }
  return pass;
}

/// Index of the scale of weight i.
inline size_t scale_index(const RoundingPass& pass, size_t i) {
  if (pass.scale.count() == 1) return 0;
  const auto in = static_cast<size_t>(pass.w.size(1)), group = static_cast<size_t>(pass.group);
  return i / in * (in / group) + i % in / group;
}

struct RoundingCase {
  std::string scheme;
  Parameterization parameterization;
};

inline std::vector<RoundingCase> all_rounding_cases() {
  std::vector<RoundingCase> cases;
  for (const std::string& name : rounding_schemes().names()) {
    for (auto p : {Parameterization::none, Parameterization::dense, Parameterization::low_rank}) {
      cases.push_back({name, p});
    }
  }
  return cases;
}

class RoundingContract : public ::testing::TestWithParam<RoundingCase> {
 protected:
  std::unique_ptr<RoundingScheme> scheme_ = rounding_schemes().make(GetParam().scheme);
  Parameterization parameterization_ = GetParam().parameterization;
  struct Layout {
    Granularity granularity;
    int64_t out, in, group;
  };
  /// Every granularity; several chunks of rows; rows and groups of several parts.
  static std::vector<Layout> layouts() {
    return {{Granularity::per_tensor, 7, 24, 0},    {Granularity::per_channel, 7, 24, 0},
            {Granularity::per_group, 7, 24, 8},     {Granularity::per_channel, 50, 24, 0},
            {Granularity::per_channel, 2, 1100, 0}, {Granularity::per_group, 2, 1100, 550},
            {Granularity::per_tensor, 2, 1100, 0}};
  }
  RoundingPass pass(const Layout& l) const {
    return make_pass(*scheme_, parameterization_, Dtype::f64, l.granularity, l.out, l.in, l.group);
  }
  std::vector<bool> phases() const {
    return scheme_->relaxes() ? std::vector<bool>{false, true} : std::vector<bool>{true};
  }
};

}  // namespace cbq::test
