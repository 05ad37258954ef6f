#include "quant/transforms/local/channel_clusters.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/formulas/philox.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr int starts = 10;
constexpr int most_rounds = 300;

constexpr double ChannelRange::*coordinates[] = {
    &ChannelRange::low, &ChannelRange::high, &ChannelRange::other_low, &ChannelRange::other_high};

double squared_distance(const ChannelRange& a, const ChannelRange& b) {
  const double low = a.low - b.low, high = a.high - b.high;
  const double other_low = a.other_low - b.other_low, other_high = a.other_high - b.other_high;
  return low * low + high * high + other_low * other_low + other_high * other_high;
}

/// Numbers in (0, 1), in their order.
class Draws {
 public:
  Draws(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}
  double next() { return philox_uniform(philox_bits(seed_, stream_, drawn_++)); }

 private:
  uint64_t seed_, stream_, drawn_ = 0;
};

struct Partition {
  std::vector<size_t> part;  // of every point
  double distance = INFINITY;
};

/// Means that lie apart; fewer than `count` where the points have no more places.
std::vector<ChannelRange> drawn_means(const std::vector<ChannelRange>& points, size_t count,
                                      Draws& draws) {
  const auto n = static_cast<double>(points.size());
  std::vector<ChannelRange> means = {points[static_cast<size_t>(draws.next() * n)]};
  std::vector<double> nearest(points.size(), INFINITY);
  while (means.size() < count) {
    for (size_t i = 0; i < points.size(); ++i) {
      nearest[i] = std::min(nearest[i], squared_distance(points[i], means.back()));
    }
    const double sum = std::accumulate(nearest.begin(), nearest.end(), 0.0);
    if (sum == 0.0) break;
    double left = draws.next() * sum;
    size_t chosen = points.size();
    for (size_t i = 0; i < points.size() && left >= 0.0; ++i) {
      if (nearest[i] == 0.0) continue;
      chosen = i;
      left -= nearest[i];
    }
    means.push_back(points[chosen]);
  }
  return means;
}

Partition nearest_means(const std::vector<ChannelRange>& points,
                        const std::vector<ChannelRange>& means) {
  Partition partition;
  partition.distance = 0.0;
  for (const ChannelRange& point : points) {
    size_t best = 0;
    double least = INFINITY;
    for (size_t m = 0; m < means.size(); ++m) {
      const double distance = squared_distance(point, means[m]);
      if (distance < least) {
        least = distance;
        best = m;
      }
    }
    partition.part.push_back(best);
    partition.distance += least;
  }
  return partition;
}

/// A mean that has lost its points stays where it is.
void move_means(const std::vector<ChannelRange>& points, const Partition& partition,
                std::vector<ChannelRange>& means) {
  std::vector<ChannelRange> sums(means.size());
  std::vector<double> counts(means.size(), 0.0);
  for (size_t i = 0; i < points.size(); ++i) {
    const size_t m = partition.part[i];
    for (const auto x : coordinates) sums[m].*x += points[i].*x;
    counts[m] += 1.0;
  }
  for (size_t m = 0; m < means.size(); ++m) {
    if (counts[m] == 0.0) continue;
    for (const auto x : coordinates) means[m].*x = sums[m].*x / counts[m];
  }
}

Partition partition_from(const std::vector<ChannelRange>& points, std::vector<ChannelRange> means) {
  Partition partition = nearest_means(points, means);
  for (int round = 0; round < most_rounds; ++round) {
    move_means(points, partition, means);
    Partition next = nearest_means(points, means);
    const bool moved = next.part != partition.part;
    partition = std::move(next);
    if (!moved) break;
  }
  return partition;
}

ChannelClusters clusters_of(const std::vector<ChannelRange>& points, const Partition& partition) {
  std::vector<std::vector<int64_t>> parts(
      *std::max_element(partition.part.begin(), partition.part.end()) + 1);
  for (size_t i = 0; i < points.size(); ++i) {
    parts[partition.part[i]].push_back(static_cast<int64_t>(i));
  }
  std::erase_if(parts, [](const auto& part) { return part.empty(); });
  const auto reach = [&](const std::vector<int64_t>& part) {
    double far = 0.0;
    for (const int64_t c : part) {
      const ChannelRange& range = points[static_cast<size_t>(c)];
      for (const auto x : coordinates) far = std::max(far, std::abs(range.*x));
    }
    return far;
  };
  std::stable_sort(parts.begin(), parts.end(),
                   [&](const auto& a, const auto& b) { return reach(a) < reach(b); });
  ChannelClusters clusters;
  for (const std::vector<int64_t>& part : parts) {
    clusters.order.insert(clusters.order.end(), part.begin(), part.end());
    clusters.sizes.push_back(static_cast<int64_t>(part.size()));
  }
  return clusters;
}

}  // namespace

ChannelClusters cluster_channels(const std::vector<ChannelRange>& ranges, int64_t clusters,
                                 uint64_t seed, uint64_t stream) {
  check(!ranges.empty() && clusters >= 1, "clusters of channels: ", ranges.size(), " channels in ",
        clusters, " clusters; expected at least one of both");
  for (size_t c = 0; c < ranges.size(); ++c) {
    for (const auto x : coordinates) {
      check(std::isfinite(ranges[c].*x), "clusters of channels: channel ", c, " reaches to ",
            ranges[c].*x);
    }
  }
  Draws draws(seed, stream);
  Partition best;
  for (int start = 0; start < starts; ++start) {
    Partition next =
        partition_from(ranges, drawn_means(ranges, static_cast<size_t>(clusters), draws));
    if (next.distance < best.distance) best = std::move(next);
  }
  return clusters_of(ranges, best);
}

}  // namespace cbq
