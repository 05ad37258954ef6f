// Outlier channels on demand: a function-preserving transform for models that have none.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nn/transformer.h"

namespace cbq {

/// Gives every activation behind a norm `count` outlier channels C of size `factor`:
///   gamma_c *= factor,  W[:, c] /= factor  for c in C and all linears W that read the norm,
/// so the function stays what it was (up to rounding), while max|X_c| grows by `factor`. Large
/// language models have such channels by nature (Dettmers et al. 2022), small ones do not. C is
/// drawn per site by Philox(seed, site). These outliers come from gamma alone, natural ones do not:
/// a method that migrates gamma (outlier_suppression) undoes them exactly, smoothquant nearly so,
/// and a table flatters both. Tables over pre-processing may use it on a small model; their report
/// must print the note that this returns. Throws std::invalid_argument unless 1 <= count <=
/// channels and factor is finite and > 0.
std::vector<std::string> add_outlier_channels(Transformer& model, int64_t count, double factor,
                                              uint64_t seed);

}  // namespace cbq
