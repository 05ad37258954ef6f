// The order of the rows that make the queries and keys of a block, for RPTQ (reorder.cpp).
#pragma once

#include <vector>

#include "nn/block.h"
#include "quant/transforms/local/channel_clusters.h"
#include "quant/transforms/local/statistics.h"

namespace cbq {

/// Row i of the weight and the bias becomes what row order[i] was.
void permute_rows(Linear& linear, const std::vector<int64_t>& order);

/// Rows of queries and keys that meet in a product move together, each within its head, so that
/// q k^T stays what it was. One order per head of keys, for all heads of queries that read it.
class HeadOrder {
 public:
  /// `rows` must live as long. Rows without a rotary embedding behind them. `input`: of the
  /// linears, whose ranges come from its sample.
  HeadOrder(const QueryKeyRows& rows, const InputStatistics& input);

  /// Of every dimension of a head of keys: the ranges of the queries that meet it, and its own.
  std::vector<ChannelRange> ranges(int64_t head) const;
  void set(int64_t head, const ChannelClusters& clusters);
  /// Permutes the rows.
  void apply() const;
  /// Sizes of the clusters, head by head.
  const std::vector<int64_t>& query_clusters() const { return query_clusters_; }
  const std::vector<int64_t>& key_clusters() const { return key_clusters_; }

 private:
  int64_t group() const { return rows_.heads / rows_.kv_heads; }
  bool fused() const { return rows_.keys == rows_.queries; }
  /// The first row of a head.
  int64_t query_row(int64_t head) const {
    return (head * rows_.parts + rows_.query_part) * rows_.head_dim;
  }
  int64_t key_row(int64_t head) const {
    return rows_.first_key_row + (head * rows_.parts + rows_.key_part) * rows_.head_dim;
  }
  /// The rows of a head, which begin at `first`, get the order `within` it.
  static void take(std::vector<int64_t>& order, int64_t first, const std::vector<int64_t>& within);

  const QueryKeyRows& rows_;
  std::vector<ChannelRange> of_queries_, of_keys_;  // by row
  std::vector<int64_t> queries_, keys_;             // orders; of one linear: queries_ alone
  std::vector<int64_t> query_clusters_, key_clusters_;
};

}  // namespace cbq
