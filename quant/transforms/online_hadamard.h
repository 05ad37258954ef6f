// The Hadamard transform as an online part of a model.
#pragma once

#include "nn/stored_transform.h"
#include "quant/transforms/hadamard_matrix.h"

namespace cbq {

/// T(x) = (H (x) S) x / sqrt(block) on each run of `block` elements of a row (kernels::hadamard):
/// spreads a value that is far larger than the others over the whole run (QuaRot, Ashkboos et al.
/// 2024). Orthogonal: T^-1 = T^T.
class OnlineHadamard : public StoredTransform {
 public:
  /// `matrix` [m, m] f32 with m a divisor of `block`, a power of two times m.
  OnlineHadamard(int64_t block, Tensor matrix) : block_(block), matrix_(std::move(matrix)) {}
  /// With hadamard_shape(width). Throws std::invalid_argument for an odd width, whose block would
  /// be 1.
  static std::shared_ptr<const OnlineHadamard> of_width(int64_t width, Device device);

  static constexpr const char* kind_name = "hadamard";
  std::string kind() const override { return kind_name; }
  nlohmann::json record() const override;
  std::vector<std::pair<std::string, Tensor>> tensors() const override;
  Var apply(const Var& x) const override;
  Tensor folded_into(const Tensor& w) const override;

 private:
  int64_t block_;
  Tensor matrix_;
};

}  // namespace cbq
