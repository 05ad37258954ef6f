// Random orthogonal matrices that are applied in O(n log n): what a rotation does to weights.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/transforms/hadamard_matrix.h"
#include "tensor/tensor.h"

namespace cbq {

/// Q [n, n] orthogonal and block-diagonal. In each block of b channels, with H the Hadamard
/// transform of kernels::hadamard and D a diagonal matrix of random signs,
///   Q = H D      (randomized Hadamard: QuIP#, Tseng et al. 2024; QuaRot, Ashkboos et al. 2024), or
///   Q = H D H^T  with D_00 = 1, where Q has to keep the vector of ones. H's first column is
///                constant, so H^T 1 = sqrt(b) e_0; D keeps e_0; hence Q 1 = 1. LayerNorm commutes
///                with such a Q.
/// All arithmetic is in f64 on the CPU.
class OrthogonalMatrix {
 public:
  /// Blocks as hadamard_shape(n) gives them. Signs by Philox(seed, stream). Throws
  /// std::invalid_argument for an odd n.
  static OrthogonalMatrix random(int64_t n, uint64_t seed, uint64_t stream, bool keeps_ones);
  /// The same with blocks of `block` channels. Throws std::invalid_argument unless `block` divides
  /// n and has a Hadamard transform as a whole.
  static OrthogonalMatrix random_blocks(int64_t n, int64_t block, uint64_t seed, uint64_t stream,
                                        bool keeps_ones);
  /// One block per head, each with signs of its own; n = heads * head_dim.
  static OrthogonalMatrix random_per_head(int64_t heads, int64_t head_dim, uint64_t seed,
                                          uint64_t stream);
  /// Of grouped-query attention: `group` consecutive heads of the result repeat each head of this
  /// matrix.
  OrthogonalMatrix repeated(int64_t head_dim, int64_t group) const;

  int64_t size() const { return static_cast<int64_t>(signs_.size()); }
  /// Channels that are mixed with each other: size(), unless no Hadamard matrix of this size is
  /// known or other blocks were asked for.
  int64_t block() const { return block_; }
  /// Q x for every row x of a tensor [..., n] f64; so W [out, n] becomes W Q^T.
  Tensor rows(const Tensor& x) const;
  /// Q W for W [n, k] f64.
  Tensor columns(const Tensor& w) const;

 private:
  OrthogonalMatrix(const HadamardShape& shape, std::vector<double> signs, bool keeps_ones);
  int64_t block_ = 1;
  Tensor matrix_;              // H without its Sylvester factor, f32
  std::vector<double> signs_;  // of D
  bool keeps_ones_ = false;
};

}  // namespace cbq
