// Which channels of an activation are split and which are merged (Liu et al. 2024, QLLM).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "quant/transforms/channel_map.h"

namespace cbq {

/// T_c = max(1, ceil(max|X_c| / theta)): into how many copies x_c / T_c a channel is split, so that
/// none is larger than theta > 0.
std::vector<int64_t> copies_of(const std::vector<double>& abs_max, double theta);
/// sum_c T_c - n: channels that are added.
int64_t added_channels(const std::vector<int64_t>& copies);

/// Pairs of an even channel a and an odd one b, and what merging them would do to the layers that
/// read them. With m = (x_a + x_b) / 2 in the place of both,
///   x_a w_a + x_b w_b - m (w_a + w_b) = (x_a - x_b) (w_a - w_b) / 2,
/// so that the squared error, summed over tokens and outputs, is
///   D(a, b) = 1/4 ||x_a - x_b||^2 ||w_a - w_b||^2.
/// Bipartite soft matching as of ToMe (Bolya et al. 2023): each a has one partner, the nearest b.
class ChannelPairs {
 public:
  /// x [tokens, n]; weights [out, n] of all readers of x; n at least 2.
  ChannelPairs(const Tensor& x, const std::vector<Tensor>& weights);
  /// D of even channel a and odd channel b.
  double distance(int64_t a, int64_t b) const;

  using Merges = std::vector<std::pair<int64_t, int64_t>>;  // {a, b}: a goes into b
  /// The `count` pairs of channels that are not split (copies 1) with the least D, ties by a; fewer
  /// where there are no more of them.
  Merges closest(int64_t count, const std::vector<int64_t>& copies) const;

 private:
  int64_t odd_;                   // how many channels are odd
  std::vector<double> distance_;  // [even, odd]
};

/// The channels that remain, in their order: one that is split is there T_c times, one that was
/// merged stands where the odd channel of its group stood. As many as before where
/// added_channels(copies) is the number of merges.
std::vector<ChannelMap::Source> reassembled(const std::vector<int64_t>& copies,
                                            const ChannelPairs::Merges& merges);

}  // namespace cbq
