// Where a model has its strongest outliers, and what CFP does there.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cbq/stream.h"
#include "nn/transformer.h"

namespace cbq {

/// Largest absolute values before and after CFP, and what CFP takes for outliers.
struct OutlierProfile {
  std::string path;                   // of the activation's producer, or of the layer
  std::vector<double> before, after;  // per channel of the activation, or per row of the weight
  double threshold = 0.0;             // the largest absolute value that is kept
  int64_t outliers = 0;               // channels above it, or single weights
  int64_t values = 0;                 // that were looked at: channels, or weights
  /// The largest absolute value over the median of `before`.
  double strength() const;
};

struct OutlierStudy {
  OutlierProfile activations;  // of the place with the largest maximum over its threshold
  OutlierProfile weight;       // of the layer, likewise
};

/// Looks at all places where factors can move into weights (fold_sites) and at all linear layers of
/// `model`, runs CFP (cfp_weight_activation) on it, and looks again. The strongest place is the one
/// whose largest channel maximum is farthest above the largest that CFP keeps; where CFP finds no
/// outliers at all, the one with the largest maximum over its median. The model stays changed.
/// `poll` is called between passes and layers.
OutlierStudy study_outliers(Transformer& model, const Segments& segments,
                            const std::function<void()>& poll = {});

}  // namespace cbq
