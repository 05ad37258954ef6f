// Hadamard matrices: entries +-1, orthogonal rows. Built from number theory, for the widths of
// language models.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace cbq {

/// Whether hadamard_matrix(order) exists here: 1, 2, and multiples of 4 by
///   Paley I:    order = q + 1, q = 3 mod 4 prime;
///   Paley II:   order = 2 (q + 1), q = 1 mod 4 prime (Paley 1933);
///   Williamson: order = 4 n for n = 13, 23, 25, 43 (Williamson 1944), from sequences that were
///   searched for.
/// Sylvester's construction is not used here: kernels::hadamard applies its factor without a
/// matrix.
bool has_hadamard_matrix(int64_t order);

/// H [order, order] f32 with entries +-1, H H^T = order I, and a first column of ones (rows are
/// negated for it). Throws std::invalid_argument for an order that has_hadamard_matrix denies.
Tensor hadamard_matrix(int64_t order);

/// How a row of `width` elements is transformed: runs of `block` elements, each by (H (x) S) /
/// sqrt(block), H of order `order` and S Sylvester's matrix of order block / order, a power of two.
struct HadamardShape {
  int64_t block = 1, order = 1;
};
/// The largest block that divides `width`, and of its orders the smallest (the transform costs
/// order + log2(block / order) additions per element): 576 = 36 * 16, 1536 = 12 * 128, 11008 = 172
/// * 64, all as one block. Where no order up to 1,024 makes the width one block, as for 2 * 3 * 13
/// = 78, the transform is block-diagonal, and the block may be as small as 1 for an odd width.
HadamardShape hadamard_shape(int64_t width);

}  // namespace cbq
