// Naive references for tests: an array of doubles, and textbook loops over it.
//
// Nothing here includes or imitates kernels/: one source serves the CPU and CUDA, so that their
// agreement proves nothing, and only a second, independent statement of the mathematics does.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace cbq::reference {

struct Array {
  std::vector<int64_t> shape;
  std::vector<double> values;

  explicit Array(std::vector<int64_t> extents) : shape(std::move(extents)) {
    int64_t count = 1;
    for (int64_t extent : shape) count *= extent;
    values.assign(static_cast<size_t>(count), 0.0);
  }
  Array(std::vector<int64_t> extents, std::vector<double> elements)
      : shape(std::move(extents)), values(std::move(elements)) {}

  int64_t count() const { return static_cast<int64_t>(values.size()); }
  int64_t size(int64_t axis) const {
    return shape[static_cast<size_t>(axis < 0 ? axis + static_cast<int64_t>(shape.size()) : axis)];
  }
  /// Length of a row, and the number of rows.
  int64_t width() const { return shape.back(); }
  int64_t rows() const { return width() > 0 ? count() / width() : 0; }

  double& operator()(int64_t i) { return values[static_cast<size_t>(i)]; }
  double operator()(int64_t i) const { return values[static_cast<size_t>(i)]; }
  /// Element j of row r.
  double& operator()(int64_t r, int64_t j) { return values[static_cast<size_t>(r * width() + j)]; }
  double operator()(int64_t r, int64_t j) const {
    return values[static_cast<size_t>(r * width() + j)];
  }
};

using Arrays = std::vector<Array>;

}  // namespace cbq::reference
