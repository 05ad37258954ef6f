#include "experiments/figures/hessian.h"

#include <cmath>
#include <cstdlib>

#include "tensor/error.h"

namespace cbq {

Matrix finite_difference_hessian(const LossOfPoint& loss, int64_t n, double h,
                                 const std::function<void(int64_t, int64_t)>& each) {
  check(n >= 1 && h > 0.0, "Hessian: ", n, " coordinates and a step of ", h,
        "; expected at least one, and a step above 0");
  const auto size = static_cast<size_t>(n);
  std::vector<double> point(size, 0.0);
  int64_t done = 0;
  const auto at_point = [&] {
    const double value = loss(point);
    if (each) each(++done, 1 + 2 * n * n);
    return value;
  };
  Matrix hessian(size, std::vector<double>(size, 0.0));
  const double centre = at_point();
  for (size_t i = 0; i < size; ++i) {
    for (const double first : {1.0, -1.0}) {
      point[i] = first * h;
      for (size_t j = size - 1; j > i; --j) {  // the later ones first: see the header
        for (const double second : {1.0, -1.0}) {
          point[j] = second * h;
          hessian[i][j] += first * second * at_point() / (4.0 * h * h);
        }
        point[j] = 0.0;
      }
      hessian[i][i] += (at_point() - centre) / (h * h);
    }
    point[i] = 0.0;
  }
  for (size_t i = 0; i < size; ++i) {
    for (size_t j = 0; j < i; ++j) hessian[i][j] = hessian[j][i];
  }
  return hessian;
}

double off_diagonal_share(const Matrix& h) {
  double all = 0.0, off = 0.0;
  for (size_t i = 0; i < h.size(); ++i) {
    for (size_t j = 0; j < h[i].size(); ++j) {
      all += std::abs(h[i][j]);
      if (i != j) off += std::abs(h[i][j]);
    }
  }
  return all == 0.0 ? 0.0 : off / all;
}

double mean_coupling(const Matrix& h, int64_t distance) {
  double sum = 0.0;
  int64_t pairs = 0;
  for (size_t i = 0, j = static_cast<size_t>(distance); j < h.size(); ++i, ++j) {
    const double scale = std::sqrt(std::abs(h[i][i] * h[j][j]));
    if (scale == 0.0) continue;
    sum += std::abs(h[i][j]) / scale;
    ++pairs;
  }
  return pairs == 0 ? 0.0 : sum / static_cast<double>(pairs);
}

Matrix mean_of(const std::vector<Matrix>& all) {
  check(!all.empty(), "mean of no matrix");
  Matrix mean(all.front().size(), std::vector<double>(all.front().front().size(), 0.0));
  for (const Matrix& one : all) {
    for (size_t i = 0; i < mean.size(); ++i) {
      for (size_t j = 0; j < mean[i].size(); ++j) {
        mean[i][j] += one.at(i).at(j) / static_cast<double>(all.size());
      }
    }
  }
  return mean;
}

}  // namespace cbq
