// VarlenRows: sequences of different lengths as the rows of one matrix, without padding, sharing
// their beginnings.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace cbq {

/// Rows that stand behind one another: `prefix` rows that all branches read, then the rows of each
/// branch. A branch's row sees the prefix and its own branch up to itself. Either part may be
/// missing: a plain sequence is one branch without a prefix, or a prefix without branches.
struct VarlenGroup {
  int64_t prefix = 0;
  std::vector<int64_t> branches;  // rows of each, at least 1
};

/// What a row sees: rows [prefix, prefix + prefix_count), then [own, own + own_count), itself the
/// last of them. Its position is prefix_count + own_count - 1.
struct VarlenView {
  int32_t prefix = 0, prefix_count = 0, own = 0, own_count = 0;
};

class VarlenRows {
 public:
  /// Throws std::invalid_argument for an empty group, an empty branch, no rows, or more than 2^31
  /// - 1.
  VarlenRows(std::vector<VarlenGroup> groups, Device device);

  int64_t rows() const { return rows_; }
  /// Positions in use: the longest prefix with its branch.
  int64_t longest() const { return longest_; }
  const std::vector<VarlenGroup>& groups() const { return groups_; }
  /// The first row of every group.
  const std::vector<int64_t>& begins() const { return begins_; }
  /// i32 [rows], on the device: of every row, from 0.
  const Tensor& positions() const { return positions_; }
  /// i32 [rows, 4], on the device: the VarlenView of every row.
  const Tensor& views() const { return views_; }

 private:
  std::vector<VarlenGroup> groups_;
  std::vector<int64_t> begins_;
  int64_t rows_ = 0, longest_ = 0;
  Tensor positions_, views_;
};

}  // namespace cbq
