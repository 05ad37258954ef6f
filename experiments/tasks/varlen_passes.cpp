#include "experiments/tasks/varlen_passes.h"

#include <algorithm>

#include "tensor/error.h"

namespace cbq {
namespace {

using Sequences = std::vector<std::vector<int32_t>>;

constexpr size_t most_members = 64;
// Every branch costs a product of its own in each head of each block: sharing less does not pay.
constexpr int64_t least_shared = 4;

int64_t length(const std::vector<int32_t>& ids) { return static_cast<int64_t>(ids.size()); }

int64_t common(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

/// Sequences [begin, end) share their first `shared` tokens.
struct Group {
  size_t begin, end;
  int64_t shared, rows;
};

/// best[i]: what the first i sequences save at most; groups are found from the last one back.
std::vector<Group> groups_of(const Sequences& s, int64_t tokens, int64_t longest_sharing) {
  std::vector<int64_t> with_previous(s.size(), 0), best(s.size() + 1, 0);
  std::vector<Group> last(s.size());  // the group that ends with sequence i
  for (size_t i = 0; i < s.size(); ++i) {
    if (i > 0) with_previous[i] = common(s[i - 1], s[i]);
    best[i + 1] = best[i];
    last[i] = {i, i + 1, 0, length(s[i])};
    int64_t shared = length(s[i]), sum = length(s[i]);
    for (size_t members = 2; members <= std::min(most_members, i + 1); ++members) {
      const size_t begin = i + 1 - members;
      if (std::max(length(s[i]), length(s[begin])) > longest_sharing) break;
      shared = std::min(shared, with_previous[begin + 1]);
      sum += length(s[begin]);
      const int64_t saved = static_cast<int64_t>(members - 1) * shared, rows = sum - saved;
      if (shared < least_shared) break;
      if (rows > tokens || best[begin] + saved <= best[i + 1]) continue;
      best[i + 1] = best[begin] + saved;
      last[i] = {begin, i + 1, shared, rows};
    }
  }
  std::vector<Group> groups;
  for (size_t end = s.size(); end > 0; end = groups.back().begin) groups.push_back(last[end - 1]);
  return groups;
}

void add(const Sequences& s, const Group& group, VarlenPass* pass) {
  const auto first = static_cast<int64_t>(pass->ids.size());
  VarlenGroup rows;
  rows.prefix = group.shared;
  const auto& front = s[group.begin];
  pass->ids.insert(pass->ids.end(), front.begin(), front.begin() + group.shared);
  for (size_t i = group.begin; i < group.end; ++i) {
    pass->members.push_back({i, first, group.shared, static_cast<int64_t>(pass->ids.size())});
    if (length(s[i]) == group.shared) continue;  // all of it is shared: another one continues it
    pass->ids.insert(pass->ids.end(), s[i].begin() + group.shared, s[i].end());
    rows.branches.push_back(length(s[i]) - group.shared);
  }
  pass->groups.push_back(std::move(rows));
}

}  // namespace

std::vector<VarlenPass> varlen_passes(const Sequences& sequences, int64_t tokens,
                                      int64_t longest_sharing) {
  check(tokens >= 1, "scoring: a pass must have at least 1 token, got ", tokens);
  std::vector<Group> groups = groups_of(sequences, tokens, longest_sharing);
  std::stable_sort(groups.begin(), groups.end(),
                   [](const Group& a, const Group& b) { return a.rows > b.rows; });
  std::vector<VarlenPass> passes;
  int64_t rows = 0;
  for (const Group& group : groups) {
    if (passes.empty() || rows + group.rows > tokens) {
      passes.emplace_back();
      rows = 0;
    }
    add(sequences, group, &passes.back());
    rows += group.rows;
  }
  return passes;
}

}  // namespace cbq
