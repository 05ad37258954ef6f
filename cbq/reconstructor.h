// The reconstruction of one window: learn scales, clip ratios and rounding of its blocks so that the quantized
// blocks reproduce the original ones.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cbq/activation_cache.h"
#include "cbq/settings.h"
#include "cbq/window.h"
#include "quant/quantized_linear.h"

namespace cbq {

struct WindowReport {
  Window window;
  int64_t finishes = 0;
  double loss_before = 0.0;   // mean reconstruction error per token, nearest rounding, all segments
  double loss_relaxed = 0.0;  // at the end, relaxed rounding (equals hard where nothing relaxes)
  double loss_hard = 0.0;     // of the parameters kept
  int64_t best_epoch = 0;     // 0: the start was best
  int64_t steps = 0;
  double seconds = 0.0;
  int64_t peak_bytes = 0;     // device memory of this window
  std::string trouble;        // non-empty: NaN or explosion, what was done
};

}  // namespace cbq
