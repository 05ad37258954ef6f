// The lines of `bench ops` for the quantization of weights: every scheme with its own variables,
// forward and backward; on a GPU the tuned kernels and their reference kernels.
#include "quant/rounding.h"

#include "kernels/ops.h"
#include "quant/grid.h"
#include "tools/bench/bench.h"

namespace cbq::bench {
namespace {

constexpr int64_t rank = 5, group = 128;

/// A pass over a random weight, as a reconstruction step makes it.
RoundingPass make_pass(const RoundingScheme& scheme, Parameterization variables, Device device,
                       Dtype dtype) {
  const int64_t out = device.is_cuda() ? 4096 : 512, in = device.is_cuda() ? 4096 : 1024;
  const auto normal = [&](Shape shape, double deviation, uint64_t stream) {
    Tensor t(std::move(shape), dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32, device);
    kernels::fill_normal(t, 0.0, deviation, 7, stream);
    return t;
  };
  RoundingPass pass;
  pass.w = kernels::cast(normal({out, in}, 0.02, 1), dtype);
  WeightConfig config;
  config.search = ScaleSearch::min_max;
  config.granularity = Granularity::per_group;
  config.group_size = group;
  const WeightGrid grid = weight_grid(pass.w, config, "bench");
  pass.scale = grid.scale;
  pass.zero_point = grid.zero_point;
  pass.bits = config.bits;
  pass.group = grid.group;
  pass.unit = grid.scale;
  pass.start = scheme.default_start();
  if (variables == Parameterization::dense) pass.dense = normal({out, in}, 1e-3, 2);
  if (variables == Parameterization::low_rank) {
    pass.a1 = normal({out, rank}, 0.4, 3);
    pass.a2 = normal({rank, in}, 1e-3, 4);
  }
  return pass;
}

}  // namespace

std::vector<TunedLine> rounding_lines(Device device, Dtype dtype) {
  std::vector<TunedLine> lines;
  if (dtype == Dtype::f16) return lines;  // weights are quantized in f32, bf16 or f64
  for (const std::string& name : rounding_schemes().names()) {
    const std::shared_ptr<RoundingScheme> scheme = rounding_schemes().make(name);
    const Parameterization variables = scheme->default_parameterization();
    const RoundingPass shared = make_pass(*scheme, variables, device, dtype);
    const Tensor dw = shared.w.clone();
    for (const bool hard : {true, false}) {
      if (!hard && !scheme->relaxes()) continue;
      RoundingPass pass = shared;
      pass.hard = hard;
      const double weights = static_cast<double>(pass.w.bytes());
      const double dense = pass.dense.defined() ? static_cast<double>(pass.dense.bytes()) : 0.0;
      const std::string form = concat(name, ", ", name_of(variables), hard ? "" : ", relaxed");
      lines.push_back({concat("weight forward (", form, ")"), shared.w.shape(), 2 * weights + dense,
                       [scheme, pass] { scheme->forward(pass); }});
      lines.push_back({concat("weight backward (", form, ")"), shared.w.shape(),
                       2 * weights + 2 * dense,
                       [scheme, pass, dw] { scheme->backward(pass, dw, {}); }});
    }
  }
  return lines;
}

}  // namespace cbq::bench
