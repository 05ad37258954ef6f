// How far the predictions of one model are from those of another.
#pragma once

#include "tensor/tensor.h"

namespace cbq::kernels {

/// Of every row of `logits` against the same row of `reference`, both [rows, classes]:
///   kl = sum_j y_j (log y_j - log q_j),  y = softmax(reference), q = softmax(logits), in nats;
///   agrees = 1 where one class has the largest logit of both rows (of equal ones, any), else 0.
/// Both [rows] in the accumulation dtype (f32, f64 for f64). Sums are f64: a KL is a small
/// difference of large sums. Throws std::invalid_argument for other shapes, dtypes or devices.
struct DivergenceResult {
  Tensor kl;
  Tensor agrees;
};
DivergenceResult divergence(const Tensor& logits, const Tensor& reference);

}  // namespace cbq::kernels
