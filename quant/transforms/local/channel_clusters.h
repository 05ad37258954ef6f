// Clusters of channels whose activations have similar ranges.
#pragma once

#include <cstdint>
#include <vector>

namespace cbq {

/// A channel's smallest and largest activation: a point of the plane; or those of two activations
/// whose channels share an order (queries and keys): a point of four coordinates.
struct ChannelRange {
  double low = 0.0, high = 0.0;
  double other_low = 0.0, other_high = 0.0;
};

/// Channels, cluster after cluster.
struct ChannelClusters {
  std::vector<int64_t> order;  // all channels once; within a cluster from the first to the last
  std::vector<int64_t> sizes;  // of the clusters, none of them empty
};

/// k-means of these points (Yuan et al. 2023, RPTQ): partitions of at most `clusters`
/// parts, with the least sum of squared distances of the points to the mean of their part that ten
/// starts reach. A start draws its means one after the other with a probability in proportion to
/// the squared distance from those drawn before (k-means++, Arthur and Vassilvitskii 2007), by
/// Philox(seed, stream); then points go to the nearest mean and means to the middle of their points
/// until nothing moves. Clusters are ordered by how far they reach from 0. Fewer
/// different points than clusters give a cluster to each.
/// Throws std::invalid_argument without points, without clusters, and for a range that is not
/// finite.
ChannelClusters cluster_channels(const std::vector<ChannelRange>& ranges, int64_t clusters,
                                 uint64_t seed, uint64_t stream);

}  // namespace cbq
