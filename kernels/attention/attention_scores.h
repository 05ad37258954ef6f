// What attention makes of the product of a query and a key before the softmax.
#pragma once

#include <cmath>

#include "tensor/tensor.h"

namespace cbq::kernels {

/// s -> c tanh(s / c) + slope_h * position of the key.
struct AttentionScores {
  /// Not explicit: slopes alone are the scores of BLOOM.
  AttentionScores(Tensor slopes_ = Tensor(), double cap_ = 0.0)  // NOLINT
      : slopes(std::move(slopes_)), cap(cap_) {}

  Tensor slopes;     // [heads] f32: ALiBi's (Press et al. 2022); undefined: none
  double cap = 0.0;  // c, the soft cap of Gemma 2 (Gemma Team 2024); 0: s stays as it is

  /// Throws std::invalid_argument, naming `op`, for a cap that is no cap.
  void check_cap(const char* op) const {
    check(cap >= 0.0 && std::isfinite(cap), op, ": a soft cap of ", cap,
          "; expected a positive number, or 0 for none");
  }
};

}  // namespace cbq::kernels
