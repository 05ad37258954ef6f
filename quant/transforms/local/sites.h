// The places of a model where factors per channel can move from activations into weights.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "quant/transforms/local/statistics.h"

namespace cbq {

/// One ScalingSite of one block, and what its factors are about.
///
/// A *slot* is a channel of the producer: what can have a factor of its own. Behind a norm or a
/// linear read one to one, slots are the channels of the consumers' input. With grouped queries
/// o_proj reads every channel of v_proj once per query head of the group: these share a slot.
struct FoldSite {
  std::string path;  // of the producer, e.g. "model.layers.0.input_layernorm"
  ScalingSite site;
  std::vector<std::string> consumers;  // paths of site.consumers

  int64_t channels() const { return site.consumers.front()->in_features(); }
  int64_t slots() const;
  int64_t slot_of(int64_t channel) const;
  /// Per slot the largest of its channels' values.
  std::vector<double> largest_by_slot(const std::vector<double>& of_channels) const;
  /// Per channel its slot's value.
  std::vector<double> by_channel(const std::vector<double>& of_slots) const;
  /// Per row of the producing linear its slot; -1 for rows that produce something else.
  std::vector<int64_t> slot_of_rows() const;
  /// Per row of the producer its slot's value; `other` for rows that produce something else.
  std::vector<double> by_producer_row(const std::vector<double>& of_slots,
                                      double other = 1.0) const;
};

/// Places where nothing can be folded: reason -> blocks.
using SkippedSites = std::map<std::string, int64_t>;
/// One line per reason, prefixed with `who`.
std::vector<std::string> skipped_notes(const std::string& who, const SkippedSites& skipped);

/// The sites of one block. Those with an obstacle are left out and counted, by reason, in
/// `skipped`; so is every linear that no site feeds.
std::vector<FoldSite> fold_sites(Transformer& model, int64_t block, SkippedSites& skipped);
/// All sites of a model in memory, block by block; `notes` gets the lines of those skipped.
std::vector<FoldSite> fold_sites(Transformer& model, const std::string& who,
                                 std::vector<std::string>& notes);

/// The equivalent transformation with one factor per slot, all finite and not 0:
///   X_c /= s_slot(c)   (the producer's row, bias and norm weight are divided),
///   W[:, c] *= s_slot(c)   for all consumers.
/// A site promises that its activation is linear in the producer's output (for positive factors,
/// where it says so), so no more is needed for the function to stay what it was.
void fold(const FoldSite& site, const std::vector<double>& s);

/// The equivalent transformation with one offset per slot, all finite:
///   X_c -= z_slot(c)   (from the producer's bias),   b += W z   for all consumers.
/// The producer and all consumers must have biases (can_shift). Behind attention it holds because
/// the probabilities of a token add up to 1.
void fold_shift(const FoldSite& site, const std::vector<double>& z);
bool can_shift(const FoldSite& site);

/// max over all consumers and their rows of |W[:, c]|, per channel.
std::vector<double> column_abs_max(const FoldSite& site);

}  // namespace cbq
