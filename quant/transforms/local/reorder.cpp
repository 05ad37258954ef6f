// Reordering of channels (Yuan et al. 2023, RPTQ): channels with similar ranges become neighbours,
// so that each cluster of them has a static range of its own.
//
//   clusters of the points (min X_c, max X_c) by k-means (channel_clusters.h),
//   X'_j = X_{order(j)},   W'[:, j] = W[:, order(j)]
//
// with the order cluster after cluster: the function stays what it was. Ranges, one per cluster,
// are what ActivationQuantizer observes later. Places and numbers of clusters as in the method's
// program: inputs of q, k and v, of the feed-forward part and of its last layer 32 each; values 4
// per head, because a channel cannot leave its head; queries and keys 4 per head, by the ranges of
// both, where no rotary embedding stands between their rows and their product. Where a linear
// writes the channels, its rows take the order, and nothing is left to do online. A norm's channels
// are those of the residual stream, which all blocks share: there the order stands before the
// linears as a ChannelMap, which a program made for speed writes as the norm's output (the
// published kernel does).
#include <algorithm>
#include <map>

#include "kernels/ops.h"
#include "quant/transforms/channel_map.h"
#include "quant/transforms/local/head_order.h"
#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

/// An activation that some linears read, as this stage sees it.
struct Place {
  std::string name;  // of the first reader
  std::vector<Linear*> readers;
  FoldSite site;                 // without readers: no site is known
  bool values_of_heads = false;  // each head keeps its channels
};

/// Linears whose rows take the order; empty: it stands before the readers.
std::vector<Linear*> writers_of(const Place& place) {
  const ScalingSite& site = place.site.site;
  if (!site.row_writers.empty()) return site.row_writers;
  if (site.producer == nullptr || !site.obstacle.empty()) return {};
  return {site.producer};
}

/// The places of a block in execution order.
std::vector<Place> places_of(Block& block) {
  const std::vector<ScalingSite> sites = block.scaling_sites();
  std::vector<Place> places;
  for (const std::vector<NamedLinear>& group : linears_by_input(block)) {
    Place& place = places.emplace_back();
    place.name = group.front().name;
    place.values_of_heads = place.name == block.attention_output_name();
    for (const NamedLinear& named : group) place.readers.push_back(named.linear);
    for (const ScalingSite& site : sites) {
      if (site.consumers.front() == place.readers.front()) place.site.site = site;
    }
    place.site.site.consumers = place.readers;
  }
  return places;
}

class Reorder : public Preprocessor {
 public:
  std::string name() const override { return "reorder"; }
  std::string help() const override {
    return "makes channels with similar ranges neighbours, whose clusters get static ranges with "
           "act_granularity per_cluster (Yuan et al. 2023, RPTQ); options: clusters of a layer's "
           "input and of a head's values, 32,4 by default";
  }
  bool handles_activation_outliers() const override { return true; }
  bool needs_statistics() const override { return true; }
  bool makes_clusters() const override { return true; }
  void configure(const std::string& arguments) override {
    const std::vector<std::string> counts = split_arguments(arguments);
    check(counts.size() <= 2, "pre-processing 'reorder' takes two numbers of clusters, as in ",
          "reorder:32,4; got '", arguments, "'");
    if (!counts.empty()) clusters_ = whole_number(counts[0]);
    if (counts.size() > 1) clusters_of_head_ = whole_number(counts[1]);
  }
  std::map<const Linear*, std::string> online_kinds(Block& block) const override {
    std::map<const Linear*, std::string> kinds;
    for (const Place& place : places_of(block)) {
      if (!writers_of(place).empty()) continue;
      for (const Linear* reader : place.readers) kinds[reader] = ChannelMap::kind_name;
    }
    return kinds;
  }

  void apply(Transformer& model, int64_t block, const CalibrationStatistics& statistics,
             PreprocessContext& context) override {
    const std::string prefix = model.block_prefix(block);
    reorder_queries_and_keys(model, block, statistics, context);
    for (const Place& place : places_of(model.block(block))) {
      ++places_;
      if (place.readers.front()->online) {
        ++behind_online_;
        continue;
      }
      const InputStatistics& input = statistics.of(prefix + place.name);
      const Clustered clustered = cluster(place, input, model.config.head_dim, context.seed);
      reorder(place, clustered, model.device());
      for (const NamedLinear& named : model.block(block).linears()) {
        const auto& readers = place.readers;
        if (std::find(readers.begin(), readers.end(), named.linear) == readers.end()) continue;
        context.activation_clusters[prefix + named.name] = clustered.sizes;
      }
      if (place.values_of_heads && !writers_of(place).empty()) {
        context.activation_clusters[attention_path(prefix, AttentionOperand::values)] =
            clustered.sizes_of_slots;
      }
      made_ += static_cast<int64_t>(clustered.sizes.size());
    }
  }
  std::vector<std::string> notes(const PreprocessContext& context) const override {
    std::vector<std::string> notes = {
        concat(name(), ": ", made_, " clusters of channels in ", places_ - behind_online_, " of ",
               places_, " places; the order is in the weights of ", in_weights_, ", online in ",
               places_ - behind_online_ - in_weights_)};
    for (const auto& [reason, blocks] : no_queries_) {
      notes.push_back(
          concat(name(), ": queries and keys keep their order in ", blocks, " blocks: ", reason));
    }
    if (behind_online_ > 0) {
      notes.push_back(concat(name(), ": left out in ", behind_online_,
                             " places, which stand behind an online transform"));
    }
    if (context.activation.quantizes() &&
        context.activation.granularity != Granularity::per_cluster) {
      notes.push_back(name() + ": without act_granularity per_cluster the order changes no result");
    }
    return notes;
  }

 private:
  /// `slots`: order of the place's slots (FoldSite); sizes of the clusters of its slots, and of its
  /// channels.
  struct Clustered {
    std::vector<int64_t> slots, sizes_of_slots, sizes;
  };

  int64_t whole_number(const std::string& text) const {
    const double number = number_argument(name(), text, 1, 1e6);
    check(number == static_cast<double>(static_cast<int64_t>(number)), "pre-processing '", name(),
          "': expected a whole number of clusters, got '", text, "'");
    return static_cast<int64_t>(number);
  }

  /// Every head by itself, or all channels together.
  Clustered cluster(const Place& place, const InputStatistics& input, int64_t head_dim,
                    uint64_t seed) {
    std::vector<double> negated;
    for (const double low : input.min) negated.push_back(-low);
    const std::vector<double> low = place.site.largest_by_slot(negated);
    const std::vector<double> high = place.site.largest_by_slot(input.max);
    const auto slots = static_cast<int64_t>(high.size());
    const int64_t width = place.values_of_heads ? head_dim : slots;
    Clustered all;
    for (int64_t first = 0; first < slots; first += width) {
      std::vector<ChannelRange> ranges;
      for (int64_t s = first; s < first + width; ++s) {
        ranges.push_back({-low[static_cast<size_t>(s)], high[static_cast<size_t>(s)]});
      }
      const ChannelClusters part = cluster_channels(
          ranges, place.values_of_heads ? clusters_of_head_ : clusters_, seed, stream_++);
      for (const int64_t s : part.order) all.slots.push_back(first + s);
      all.sizes_of_slots.insert(all.sizes_of_slots.end(), part.sizes.begin(), part.sizes.end());
      // Query heads of a group read the same values, one after the other.
      const int64_t readers = place.values_of_heads ? place.site.site.head_group : 1;
      for (int64_t i = 0; i < readers; ++i) {
        all.sizes.insert(all.sizes.end(), part.sizes.begin(), part.sizes.end());
      }
    }
    return all;
  }

  /// Rows of queries and keys that meet in a product move together, each within its head. To be
  /// called before the inputs of these linears get another order.
  void reorder_queries_and_keys(Transformer& model, int64_t number,
                                const CalibrationStatistics& statistics,
                                PreprocessContext& context) {
    Block& block = model.block(number);
    const QueryKeyRows rows = block.query_key_rows();
    const std::string reason = rows.rotary              ? "the rotary embedding fixes their places"
                               : !rows.obstacle.empty() ? rows.obstacle
                               : block.attention_online != nullptr
                                   ? "an online transform mixes them"
                               : rows.queries->online || rows.keys->online
                                   ? "their input stands behind an online transform"
                                   : "";
    if (!reason.empty()) {
      ++no_queries_[reason];
      return;
    }
    const std::string prefix = model.block_prefix(number);
    std::string name_of_queries;
    for (const NamedLinear& named : block.linears()) {
      if (named.linear == rows.queries) name_of_queries = prefix + named.name;
    }
    HeadOrder order(rows, statistics.of(name_of_queries));
    for (int64_t head = 0; head < rows.kv_heads; ++head) {
      order.set(head,
                cluster_channels(order.ranges(head), clusters_of_head_, context.seed, stream_++));
    }
    order.apply();
    auto& clusters = context.activation_clusters;
    clusters[attention_path(prefix, AttentionOperand::queries)] = order.query_clusters();
    clusters[attention_path(prefix, AttentionOperand::keys)] = order.key_clusters();
  }

  void reorder(const Place& place, const Clustered& clustered, Device device) {
    const std::vector<int64_t> channels = order_of_channels(place.site, clustered.slots);
    const auto map = ChannelMap::in_order(channels, device);
    const std::vector<Linear*> writers = writers_of(place);
    for (Linear* reader : place.readers) {
      reader->weight.set_value(map->weight_behind(reader->weight.value()));
      if (writers.empty()) reader->online = map;
    }
    if (!writers.empty()) ++in_weights_;
    for (Linear* writer : writers) {
      const std::vector<int64_t> rows = order_of_rows(place.site, *writer, clustered.slots);
      permute_rows(*writer, rows);
    }
  }

  /// Channel c of the readers becomes what channel order[c] was: each stays with its query head.
  static std::vector<int64_t> order_of_channels(const FoldSite& site,
                                                const std::vector<int64_t>& slots) {
    if (site.site.head_group == 1) return slots;
    const int64_t d = site.site.head_dim;
    std::vector<int64_t> order;
    for (int64_t c = 0; c < site.channels(); ++c) {
      order.push_back(c / d * d + slots[static_cast<size_t>(site.slot_of(c))] % d);
    }
    return order;
  }

  /// Rows that make other activations stay where they are. Where gate and up are one linear, both
  /// halves of its rows take the order.
  static std::vector<int64_t> order_of_rows(const FoldSite& site, const Linear& writer,
                                            const std::vector<int64_t>& slots) {
    std::vector<int64_t> row_of_slot(slots.size()), rows;
    if (!site.site.row_writers.empty()) {
      const auto width = static_cast<int64_t>(slots.size());
      for (int64_t first = 0; first < writer.out_features(); first += width) {
        for (const int64_t slot : slots) rows.push_back(first + slot);
      }
      return rows;
    }
    const std::vector<int64_t> slot_of_rows = site.slot_of_rows();
    for (size_t r = 0; r < slot_of_rows.size(); ++r) {
      if (slot_of_rows[r] >= 0) {
        row_of_slot[static_cast<size_t>(slot_of_rows[r])] = static_cast<int64_t>(r);
      }
    }
    for (size_t r = 0; r < slot_of_rows.size(); ++r) {
      const int64_t slot = slot_of_rows[r];
      const bool moves = slot >= 0;
      rows.push_back(moves ? row_of_slot[static_cast<size_t>(slots[static_cast<size_t>(slot)])]
                           : static_cast<int64_t>(r));
    }
    return rows;
  }

  int64_t clusters_ = 32, clusters_of_head_ = 4;
  SkippedSites no_queries_;
  uint64_t stream_ = 0;  // of the next clusters: blocks come in order
  int64_t places_ = 0, behind_online_ = 0, in_weights_ = 0, made_ = 0;
};

[[maybe_unused]] const bool registered =
    preprocessors().add("reorder", [] { return std::make_unique<Reorder>(); });

}  // namespace
}  // namespace cbq
