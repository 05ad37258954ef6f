#include "quant/transforms/local/head_order.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/ops.h"
#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

std::vector<int64_t> first_numbers(int64_t count) {
  std::vector<int64_t> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), int64_t{0});
  return numbers;
}

/// Of every output of a linear, for a sample of its inputs.
std::vector<ChannelRange> output_ranges(const Linear& linear, const InputStatistics& input) {
  const NoGrad none;
  const Tensor& w = linear.weight.value();
  const Tensor x = sample_rows(input, input.sample.size(0), w.dtype(), w.device());
  const Tensor y = linear.multiply(Var(x)).value();
  const auto [lows, highs] = kernels::min_max_rows(kernels::transpose(y));
  const std::vector<double> low = lows.to_vector<double>(), high = highs.to_vector<double>();
  std::vector<ChannelRange> ranges;
  for (size_t r = 0; r < low.size(); ++r) ranges.push_back({low[r], high[r]});
  return ranges;
}

}  // namespace

void permute_rows(Linear& linear, const std::vector<int64_t>& order) {
  for (Var* parameter : {&linear.weight, &linear.bias}) {
    if (!parameter->defined()) continue;
    parameter->set_value(kernels::gather_rows(parameter->value(), order));
  }
}

HeadOrder::HeadOrder(const QueryKeyRows& rows, const InputStatistics& input)
    : rows_(rows),
      of_queries_(output_ranges(*rows.queries, input)),
      of_keys_(output_ranges(*rows.keys, input)),
      queries_(first_numbers(rows.queries->out_features())),
      keys_(first_numbers(rows.keys->out_features())) {}

std::vector<ChannelRange> HeadOrder::ranges(int64_t head) const {
  std::vector<ChannelRange> ranges;
  for (int64_t i = 0; i < rows_.head_dim; ++i) {
    const ChannelRange& key = of_keys_[static_cast<size_t>(key_row(head) + i)];
    ChannelRange range{INFINITY, -INFINITY, key.low, key.high};
    for (int64_t h = head * group(); h < (head + 1) * group(); ++h) {
      const ChannelRange& query = of_queries_[static_cast<size_t>(query_row(h) + i)];
      range.low = std::min(range.low, query.low);
      range.high = std::max(range.high, query.high);
    }
    ranges.push_back(range);
  }
  return ranges;
}

void HeadOrder::set(int64_t head, const ChannelClusters& clusters) {
  const auto append = [&](std::vector<int64_t>& sizes) {
    sizes.insert(sizes.end(), clusters.sizes.begin(), clusters.sizes.end());
  };
  for (int64_t h = head * group(); h < (head + 1) * group(); ++h) {
    take(queries_, query_row(h), clusters.order);
    append(query_clusters_);
  }
  take(fused() ? queries_ : keys_, key_row(head), clusters.order);
  append(key_clusters_);
}

void HeadOrder::take(std::vector<int64_t>& order, int64_t first,
                     const std::vector<int64_t>& within) {
  for (size_t i = 0; i < within.size(); ++i) {
    order[static_cast<size_t>(first) + i] = first + within[i];
  }
}

void HeadOrder::apply() const {
  permute_rows(*rows_.queries, queries_);
  if (!fused()) permute_rows(*rows_.keys, keys_);
}

}  // namespace cbq
