// Which requests share what: token sequences -> groups with a common beginning -> forward passes.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/attention/varlen_rows.h"

namespace cbq {

/// A forward pass: the tokens of all groups behind one another, and the row of every token of every
/// sequence that is in it.
struct VarlenPass {
  /// Sequence `index` is the group's first `shared` rows from `prefix` on, then rows from `own` on.
  struct Member {
    size_t index = 0;
    int64_t prefix = 0, shared = 0, own = 0;
    int64_t row_of(int64_t token) const {
      return token < shared ? prefix + token : own + token - shared;
    }
  };
  std::vector<VarlenGroup> groups;
  std::vector<int32_t> ids;
  std::vector<Member> members;
};

/// Every sequence (not empty, no two equal, sorted lexicographically) is in exactly one pass.
///
/// Neighbours in this order have the longest common beginnings, so groups are runs of them. A group
/// of n sequences whose shortest common beginning is c reads (n - 1) c tokens less than its
/// sequences one by one; the division into groups is the one that saves most, with at most 64
/// sequences and `tokens` tokens in a group of several. Passes are filled with groups, the largest
/// first, up to `tokens`; a longer sequence is a pass of its own. Sequences of more than
/// `longest_sharing` tokens share nothing: their positions mean something else than those of
/// shorter ones (uniform_length, nn/rope.h). Throws std::invalid_argument for
/// tokens < 1.
std::vector<VarlenPass> varlen_passes(
    const std::vector<std::vector<int32_t>>& sequences, int64_t tokens,
    int64_t longest_sharing = std::numeric_limits<int64_t>::max());

}  // namespace cbq
