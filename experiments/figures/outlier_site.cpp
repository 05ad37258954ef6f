#include "experiments/figures/outlier_site.h"

#include <algorithm>
#include <cmath>

#include "quant/transforms/local/outlier_split.h"
#include "quant/transforms/local/preprocessor.h"
#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

double median_of(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double largest_of(const std::vector<double>& values) {
  return *std::max_element(values.begin(), values.end());
}

/// Which of two places has the stronger outliers: those that CFP finds come first.
bool is_stronger(const OutlierProfile& a, const OutlierProfile& b) {
  const auto excess = [](const OutlierProfile& p) {
    const bool any = p.outliers > 0 && p.threshold > 0.0;
    return any ? largest_of(p.before) / p.threshold : 1.0;
  };
  if (excess(a) != excess(b)) return excess(a) > excess(b);
  return a.strength() > b.strength();
}

void keep_stronger(OutlierProfile candidate, OutlierProfile& best) {
  if (best.before.empty() || is_stronger(candidate, best)) best = std::move(candidate);
}

OutlierProfile activations_of(const FoldSite& site, const CalibrationStatistics& statistics) {
  OutlierProfile profile;
  profile.path = site.path;
  profile.before = site.largest_by_slot(statistics.of(site.consumers.front()).abs_max);
  const OutlierSplit split = find_outliers(profile.before);
  profile.threshold = split.threshold;
  profile.outliers = split.outliers;
  profile.values = static_cast<int64_t>(profile.before.size());
  return profile;
}

std::vector<double> row_maxima(const Tensor& w) {
  const std::vector<double> values = w.to_vector<double>();
  const auto columns = static_cast<size_t>(w.size(1));
  std::vector<double> maxima(static_cast<size_t>(w.size(0)), 0.0);
  for (size_t i = 0; i < values.size(); ++i) {
    maxima[i / columns] = std::max(maxima[i / columns], std::abs(values[i]));
  }
  return maxima;
}

OutlierProfile weight_of(const NamedLinear& layer) {
  OutlierProfile profile;
  profile.path = layer.name;
  const Tensor w = layer.linear->weight.value();
  profile.before = row_maxima(w);
  std::vector<double> magnitudes = w.to_vector<double>();
  for (double& x : magnitudes) x = std::abs(x);
  profile.values = w.count();
  const OutlierSplit split = find_outliers(std::move(magnitudes));
  profile.threshold = split.threshold;
  profile.outliers = split.outliers;
  return profile;
}

/// Calls f(site) for all places of a model.
void for_each_site(Transformer& model, const std::function<void(const FoldSite&)>& f) {
  SkippedSites skipped;
  for (int64_t b = 0; b < model.block_count(); ++b) {
    for (const FoldSite& site : fold_sites(model, b, skipped)) f(site);
  }
}

}  // namespace

double OutlierProfile::strength() const {
  const double median = median_of(before);
  return median > 0.0 ? largest_of(before) / median : 0.0;
}

OutlierStudy study_outliers(Transformer& model, const Segments& segments,
                            const std::function<void()>& poll) {
  OutlierStudy study;
  const CalibrationStatistics before = collect_statistics(model, segments);
  for_each_site(model, [&](const FoldSite& site) {
    keep_stronger(activations_of(site, before), study.activations);
  });
  for (int64_t b = 0; b < model.block_count(); ++b) {
    for (const NamedLinear& layer : layers_of(model, b)) {
      if (poll) poll();
      keep_stronger(weight_of(layer), study.weight);
    }
  }
  PreprocessContext context;  // 4 bits: CFP leaves weights alone that are not quantized
  context.poll = poll;
  apply_preprocess("cfp_weight_activation", model, segments, context);
  const CalibrationStatistics after = collect_statistics(model, segments);
  for_each_site(model, [&](const FoldSite& site) {
    if (site.path != study.activations.path) return;
    study.activations.after = activations_of(site, after).before;
  });
  for (int64_t b = 0; b < model.block_count(); ++b) {
    for (const NamedLinear& layer : layers_of(model, b)) {
      if (layer.name == study.weight.path) study.weight.after = weight_of(layer).before;
    }
  }
  return study;
}

}  // namespace cbq
