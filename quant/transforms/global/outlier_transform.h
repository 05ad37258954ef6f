// Outlier channels on demand: a function-preserving transform for models that have none.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nn/transformer.h"

namespace cbq {

/// Gives every activation behind a norm `count` outlier channels C of size `factor`:
///   gamma_c *= factor,  W[:, c] /= factor  for c in C and all linears W that read the norm,
/// so the function stays what it was (up to rounding), while max|X_c| grows by `factor`: what large
/// language models have by nature (Dettmers et al. 2022) and small ones lack. C is drawn per site
/// by Philox(seed, site). Being made by gamma alone, these outliers are undone exactly by a method
/// that migrates gamma (outlier_suppression) and nearly so by smoothquant; natural ones are not, so
/// such rows flatter those two. Tables over pre-processing may use it on a small model; their
/// report must print the note that this returns. Throws std::invalid_argument unless 1 <= count <=
/// channels and factor is finite and > 0.
std::vector<std::string> add_outlier_channels(Transformer& model, int64_t count, double factor,
                                              uint64_t seed);

}  // namespace cbq
