// Second derivatives by finite differences, and how much of a matrix lies off its diagonal.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace cbq {

using Matrix = std::vector<std::vector<double>>;  // [row][column]
using LossOfPoint = std::function<double(const std::vector<double>& point)>;

/// H of `loss` at 0 by central differences over a step h:
///   H_ij = (L(+h,+h) - L(+h,-h) - L(-h,+h) + L(-h,-h)) / (4 h^2)   for i < j, and H_ji = H_ij,
///   H_ii = (L(+h) - 2 L(0) + L(-h)) / h^2,
/// exact for a quadratic loss. Of any other it is the mean of the second derivative over the square
/// of side 2h, or for i = j over the interval [-h, h] with weights that fall to its ends: a loss
/// that jumps in many small places, as one with rounded weights does, needs a step over which many
/// of them happen.
/// 1 + 2 n^2 losses. Points that follow each other differ in late coordinates where they can, so
/// that a loss which keeps the work of the coordinates before the first change does little anew.
/// `each` is called after every loss with how many of them are done; may be empty, may throw.
/// Throws std::invalid_argument unless n >= 1 and h > 0.
Matrix finite_difference_hessian(const LossOfPoint& loss, int64_t n, double h,
                                 const std::function<void(int64_t done, int64_t total)>& each = {});

/// sum_{i != j} |H_ij| / sum_ij |H_ij|; 0 for a matrix of zeros.
double off_diagonal_share(const Matrix& h);
/// Mean of |H_ij| / sqrt(|H_ii H_jj|) over the pairs with |i - j| = distance; 0 where there is
/// none.
double mean_coupling(const Matrix& h, int64_t distance);
/// The mean of matrices of one shape.
Matrix mean_of(const std::vector<Matrix>& all);

}  // namespace cbq
