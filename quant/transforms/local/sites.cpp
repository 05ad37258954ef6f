#include "quant/transforms/local/sites.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "kernels/ops.h"
#include "quant/transforms/local/arithmetic.h"

namespace cbq {

int64_t FoldSite::slots() const { return channels() / site.head_group; }

int64_t FoldSite::slot_of(int64_t channel) const {
  if (site.head_group == 1) return channel;
  return channel / (site.head_group * site.head_dim) * site.head_dim + channel % site.head_dim;
}

std::vector<double> FoldSite::largest_by_slot(const std::vector<double>& of_channels) const {
  std::vector<double> largest(static_cast<size_t>(slots()), -INFINITY);
  for (int64_t c = 0; c < channels(); ++c) {
    double& slot = largest[static_cast<size_t>(slot_of(c))];
    slot = std::max(slot, of_channels[static_cast<size_t>(c)]);
  }
  return largest;
}

std::vector<double> FoldSite::by_channel(const std::vector<double>& of_slots) const {
  std::vector<double> values;
  for (int64_t c = 0; c < channels(); ++c) {
    values.push_back(of_slots[static_cast<size_t>(slot_of(c))]);
  }
  return values;
}

std::vector<int64_t> FoldSite::slot_of_rows() const {
  std::vector<int64_t> slots_of(static_cast<size_t>(site.producer->out_features()), -1);
  for (int64_t slot = 0; slot < slots(); ++slot) {
    int64_t row = site.first_row + slot;
    if (site.parts > 1) {
      const int64_t head = slot / site.head_dim, within = slot % site.head_dim;
      row = (head * site.parts + site.part) * site.head_dim + within;
    }
    slots_of[static_cast<size_t>(row)] = slot;
  }
  return slots_of;
}

std::vector<double> FoldSite::by_producer_row(const std::vector<double>& of_slots,
                                              double other) const {
  std::vector<double> values;
  for (const int64_t slot : slot_of_rows()) {
    values.push_back(slot < 0 ? other : of_slots[static_cast<size_t>(slot)]);
  }
  return values;
}

std::vector<std::string> skipped_notes(const std::string& who, const SkippedSites& skipped) {
  std::vector<std::string> notes;
  for (const auto& [reason, blocks] : skipped) {
    notes.push_back(concat(who, ": skipped in ", blocks, " blocks: ", reason));
  }
  return notes;
}

namespace {

/// One name for all experts: "mlp.experts.*.up_proj".
std::string without_expert(const std::string& name, const Linear& linear) {
  if (linear.expert < 0) return name;
  const std::string number = concat(".", linear.expert, ".");
  const size_t at = name.find(number);
  return at == std::string::npos ? name
                                 : name.substr(0, at) + ".*." + name.substr(at + number.size());
}

}  // namespace

std::vector<FoldSite> fold_sites(Transformer& model, int64_t number, SkippedSites& skipped) {
  std::vector<FoldSite> sites;
  std::set<std::string> reasons;  // a block with many experts counts once
  Block& block = model.block(number);
  const std::string prefix = model.block_prefix(number);
  std::map<const Linear*, std::string> unfed;  // not read from any site so far
  for (const auto& [name, linear] : block.linears()) unfed[linear] = name;
  const std::map<const Linear*, std::string> name_of_linear = unfed;
  for (ScalingSite& site : block.scaling_sites()) {
    FoldSite fold_site{prefix + site.name, site, {}};
    for (const Linear* reader : site.consumers) {
      if (reader->online) site.obstacle = "an online transform stands in between";
      if (site.router != nullptr) site.obstacle = "a router reads it beside its experts";
      fold_site.consumers.push_back(prefix + name_of_linear.at(reader));
      unfed.erase(reader);
    }
    if (!site.obstacle.empty()) {
      reasons.insert(without_expert(site.name, *site.consumers.front()) + ": " + site.obstacle);
    } else {
      sites.push_back(std::move(fold_site));
    }
  }
  for (const auto& [linear, name] : unfed) {
    reasons.insert("inputs of " + without_expert(name, *linear) +
                   ": no producer that a factor could be folded into");
  }
  for (const std::string& reason : reasons) ++skipped[reason];
  return sites;
}

std::vector<FoldSite> fold_sites(Transformer& model, const std::string& who,
                                 std::vector<std::string>& notes) {
  std::vector<FoldSite> all;
  SkippedSites skipped;
  for (int64_t b = 0; b < model.block_count(); ++b) {
    for (FoldSite& site : fold_sites(model, b, skipped)) all.push_back(std::move(site));
  }
  for (std::string& note : skipped_notes(who, skipped)) notes.push_back(std::move(note));
  return all;
}

void fold(const FoldSite& site, const std::vector<double>& s) {
  check(static_cast<int64_t>(s.size()) == site.slots(), site.path, ": ", s.size(), " factors for ",
        site.slots(), " channels");
  for (const double factor : s) {
    check(std::isfinite(factor) && factor != 0.0, site.path, ": a channel's factor is ", factor);
    check(factor > 0.0 || !site.site.positive_only, site.path, ": a channel's factor is ", factor,
          ", and what follows takes positive ones only");
  }
  const auto divide = [](Var& v, const std::vector<double>& by) {
    v.set_value(divide_rows(v.value(), by));
  };
  if (site.site.norm_weight != nullptr) divide(*site.site.norm_weight, s);
  if (site.site.norm_bias != nullptr) divide(*site.site.norm_bias, s);
  if (site.site.producer != nullptr) {
    const std::vector<double> per_row = site.by_producer_row(s);
    divide(site.site.producer->weight, per_row);
    if (site.site.producer->bias.defined()) divide(site.site.producer->bias, per_row);
  }
  const std::vector<double> per_channel = site.by_channel(s);
  for (Linear* consumer : site.site.consumers) {
    consumer->weight.set_value(multiply_columns(consumer->weight.value(), per_channel));
  }
}

bool can_shift(const FoldSite& site) {
  const bool produced = site.site.norm_weight != nullptr
                            ? site.site.norm_bias != nullptr && site.site.norm_bias->defined()
                            : site.site.producer->bias.defined();
  return produced && !site.site.positive_only &&
         std::all_of(site.site.consumers.begin(), site.site.consumers.end(),
                     [](const Linear* reader) { return reader->bias.defined(); });
}

void fold_shift(const FoldSite& site, const std::vector<double>& z) {
  check(can_shift(site), site.path, ": a shift needs biases of the producer and of all readers");
  check(static_cast<int64_t>(z.size()) == site.slots(), site.path, ": ", z.size(), " shifts for ",
        site.slots(), " channels");
  for (const double shift : z) {
    check(std::isfinite(shift), site.path, ": a channel's shift is ", shift);
  }
  const auto add = [](Var& bias, const std::vector<double>& by, double sign) {
    std::vector<double> values = bias.value().to_vector<double>();
    for (size_t i = 0; i < values.size(); ++i) values[i] += sign * by[i];
    bias.set_value(Tensor::from(values, bias.shape(), bias.dtype(), bias.device()));
  };
  site.site.norm_bias != nullptr
      ? add(*site.site.norm_bias, z, -1.0)
      : add(site.site.producer->bias, site.by_producer_row(z, 0.0), -1.0);
  const std::vector<double> channels = site.by_channel(z);
  for (Linear* consumer : site.site.consumers) {
    const Tensor w = consumer->weight.value();
    const Tensor row = Tensor::from(channels, {1, site.channels()}, w.dtype(), w.device());
    add(consumer->bias,
        kernels::matmul(row, kernels::Trans::no, w, kernels::Trans::yes).to_vector<double>(), 1.0);
  }
}

std::vector<double> column_abs_max(const FoldSite& site) {
  std::vector<double> largest(static_cast<size_t>(site.channels()), 0.0);
  for (const Linear* consumer : site.site.consumers) {
    const std::vector<double> own =
        kernels::abs_max_columns(consumer->weight.value()).to_vector<double>();
    for (size_t c = 0; c < own.size(); ++c) largest[c] = std::max(largest[c], own[c]);
  }
  return largest;
}

}  // namespace cbq
