#include "kernels/attention/varlen_rows.h"

#include <algorithm>
#include <limits>

namespace cbq {

VarlenRows::VarlenRows(std::vector<VarlenGroup> groups, Device device)
    : groups_(std::move(groups)) {
  for (const VarlenGroup& group : groups_) {
    int64_t longest = 0, rows = group.prefix;
    for (const int64_t branch : group.branches) {
      check(branch >= 1, "VarlenRows: a branch of ", branch, " rows");
      longest = std::max(longest, branch);
      rows += branch;
    }
    check(group.prefix >= 0 && rows >= 1, "VarlenRows: a group of ", rows, " rows, ", group.prefix,
          " of them shared");
    begins_.push_back(rows_);
    rows_ += rows;
    longest_ = std::max(longest_, group.prefix + longest);
  }
  check(rows_ >= 1 && rows_ <= std::numeric_limits<int32_t>::max(), "VarlenRows: ", rows_, " rows");
  std::vector<int32_t> positions, views;
  const auto part = [&](int64_t prefix, int64_t prefix_count, int64_t count) {
    const auto own = static_cast<int32_t>(positions.size());
    for (int64_t i = 0; i < count; ++i) {
      positions.push_back(static_cast<int32_t>(prefix_count + i));
      for (const int64_t value : {prefix, prefix_count, int64_t{own}, i + 1}) {
        views.push_back(static_cast<int32_t>(value));
      }
    }
  };
  for (size_t g = 0; g < groups_.size(); ++g) {
    part(begins_[g], 0, groups_[g].prefix);
    for (const int64_t branch : groups_[g].branches) part(begins_[g], groups_[g].prefix, branch);
  }
  positions_ = Tensor::from(positions, {rows_}, Dtype::i32, device);
  views_ = Tensor::from(views, {rows_, 4}, Dtype::i32, device);
}

}  // namespace cbq
