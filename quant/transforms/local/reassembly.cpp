#include "quant/transforms/local/reassembly.h"

#include <algorithm>
#include <cmath>

#include "kernels/ops.h"

namespace cbq {
namespace {

/// ||m_a - m_b||^2 of the even columns a and the odd columns b of m [rows, n]: [even, odd].
std::vector<double> squared_distances(const Tensor& m) {
  const Tensor wide = kernels::cast(m, Dtype::f64), columns = kernels::transpose(wide);
  std::vector<int64_t> even, odd;
  for (int64_t c = 0; c < columns.size(0); ++c) (c % 2 == 0 ? even : odd).push_back(c);
  const std::vector<double> squares =
      kernels::column_sums(kernels::mul(wide, wide)).to_vector<double>();
  std::vector<double> d = kernels::matmul(kernels::gather_rows(columns, even), kernels::Trans::no,
                                          kernels::gather_rows(columns, odd), kernels::Trans::yes)
                              .to_vector<double>();
  for (size_t i = 0; i < d.size(); ++i) {
    const size_t a = 2 * (i / odd.size()), b = 2 * (i % odd.size()) + 1;
    d[i] = std::max(0.0, squares[a] + squares[b] - 2.0 * d[i]);
  }
  return d;
}

}  // namespace

std::vector<int64_t> copies_of(const std::vector<double>& abs_max, double theta) {
  std::vector<int64_t> copies;
  for (const double m : abs_max) {
    copies.push_back(std::max<int64_t>(1, static_cast<int64_t>(std::ceil(m / theta))));
  }
  return copies;
}

int64_t added_channels(const std::vector<int64_t>& copies) {
  int64_t added = 0;
  for (const int64_t count : copies) added += count - 1;
  return added;
}

ChannelPairs::ChannelPairs(const Tensor& x, const std::vector<Tensor>& weights)
    : odd_(x.size(1) / 2), distance_(squared_distances(x)) {
  std::vector<double> of_weights(distance_.size(), 0.0);
  for (const Tensor& w : weights) {
    const std::vector<double> own = squared_distances(w);
    for (size_t i = 0; i < own.size(); ++i) of_weights[i] += own[i];
  }
  for (size_t i = 0; i < distance_.size(); ++i) distance_[i] *= 0.25 * of_weights[i];
}

double ChannelPairs::distance(int64_t a, int64_t b) const {
  return distance_[static_cast<size_t>(a / 2 * odd_ + b / 2)];
}

ChannelPairs::Merges ChannelPairs::closest(int64_t count,
                                           const std::vector<int64_t>& copies) const {
  struct Edge {
    double distance;
    int64_t a, b;
  };
  std::vector<Edge> edges;
  const auto n = static_cast<int64_t>(copies.size());
  for (int64_t a = 0; a < n; a += 2) {
    if (copies[static_cast<size_t>(a)] > 1) continue;
    Edge nearest{INFINITY, a, -1};
    for (int64_t b = 1; b < n; b += 2) {
      if (copies[static_cast<size_t>(b)] > 1 || distance(a, b) >= nearest.distance) continue;
      nearest = {distance(a, b), a, b};
    }
    if (nearest.b >= 0) edges.push_back(nearest);
  }
  std::stable_sort(edges.begin(), edges.end(),
                   [](const Edge& p, const Edge& q) { return p.distance < q.distance; });
  Merges merges;
  for (size_t i = 0; i < edges.size() && static_cast<int64_t>(i) < count; ++i) {
    merges.emplace_back(edges[i].a, edges[i].b);
  }
  return merges;
}

std::vector<ChannelMap::Source> reassembled(const std::vector<int64_t>& copies,
                                            const ChannelPairs::Merges& merges) {
  std::vector<std::vector<int64_t>> groups;
  for (size_t c = 0; c < copies.size(); ++c) groups.push_back({static_cast<int64_t>(c)});
  for (const auto& [a, b] : merges) {
    groups[static_cast<size_t>(a)].clear();
    groups[static_cast<size_t>(b)].push_back(a);
  }
  std::vector<ChannelMap::Source> sources;
  for (size_t c = 0; c < copies.size(); ++c) {
    if (groups[c].empty()) continue;
    const auto parts = static_cast<double>(groups[c].size()) * static_cast<double>(copies[c]);
    sources.insert(sources.end(), static_cast<size_t>(copies[c]), {groups[c], 1.0 / parts});
  }
  return sources;
}

}  // namespace cbq
