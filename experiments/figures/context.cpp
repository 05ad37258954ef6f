#include "experiments/figures/context.h"

#include <algorithm>

#include "cbq/methods.h"
#include "quant/transforms/local/preprocessor.h"

namespace cbq {

std::unique_ptr<Transformer> FigureContext::untouched() const {
  std::unique_ptr<Transformer> loaded = bench.load();
  if (loaded->on_demand()) loaded->load_all_blocks();
  return loaded;
}

std::unique_ptr<Transformer> FigureContext::with_outliers(const std::string& outliers) const {
  std::unique_ptr<Transformer> loaded = untouched();
  if (outliers.empty()) return loaded;
  PreprocessContext preprocess;
  preprocess.poll = poll_of("planting outliers");
  apply_preprocess(outliers, *loaded, bench.calibration.segments, preprocess);
  return loaded;
}

Segments FigureContext::loss_segments() const {
  const Segments& all = bench.calibration.segments;
  const auto length = static_cast<int64_t>(all.front().size());
  const auto count = std::clamp<int64_t>(options.tokens / length, 1, bench.calibration.count());
  return {all.begin(), all.begin() + count};
}

Settings FigureContext::method_settings_at(const std::string& method,
                                           const std::string& bits) const {
  RowSpec row;
  row.name = row.label = method;
  row.settings = {{"method", method}};
  return fitted_row({}, row, bits, plan.granularities.front(), 0, plan, model.setting_obstacle)
      .settings;
}

Settings FigureContext::nearest_settings(int wbits, int abits) const {
  const Settings of_method = method_settings_at(plan.method, concat("W", wbits, "A", float_bits));
  Settings s;
  s.wbits = wbits;
  s.abits = abits;
  s.reconstruct = "cbq";  // only where something is learned have scales variables
  s.rounding = "nearest";
  s.grid = "relative";
  s.symmetric = of_method.symmetric;
  s.symmetric_form = of_method.symmetric_form;
  s.granularity = of_method.granularity;
  s.group_size = of_method.group_size;
  s.scale_search = of_method.scale_search;
  s.scale_type = of_method.scale_type;
  return s;
}

std::string FigureContext::planted() const {
  return plan.outliers.empty() ? "" : concat(" with ARTIFICIAL outliers (", plan.outliers, ")");
}

double pass_cost(const FigureContext& context, int64_t tokens, double blocks) {
  const auto weights = static_cast<double>(std::max<int64_t>(1, context.model.block_weights));
  return static_cast<double>(tokens) * blocks * weights;
}

}  // namespace cbq
