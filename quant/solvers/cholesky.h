// Factors of symmetric positive definite matrices, in f64 on the host.
#pragma once

#include <optional>

#include "tensor/tensor.h"

namespace cbq {

/// L, lower triangular with zeros above, of A = L L^T (A f64 [n, n], of which only the lower half
/// is read). None where A is not positive definite to working precision, or holds NaN. Blocked:
/// n^3/3 multiplications, nearly all of them in matrix products.
std::optional<Tensor> cholesky(const Tensor& a);

/// L^-1, lower triangular, of a lower triangular L with a diagonal without zeros.
Tensor inverse_of_lower(const Tensor& l);

/// U, upper triangular, with A^-1 = U^T U: row j of U, divided by U_jj, says how the variables
/// behind j must move to make up best for a change of variable j (the conditional mean of a
/// Gaussian with precision A). None as above.
std::optional<Tensor> upper_factor_of_inverse(const Tensor& a);

}  // namespace cbq
