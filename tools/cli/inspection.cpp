#include "tools/cli/inspection.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cbq/exporters/layer_parts.h"
#include "nn/formats/json.h"
#include "nn/formats/sealed_files.h"
#include "tensor/runtime/notice.h"

namespace cbq::cli {
namespace {

NumberRange extremes_of(const Tensor& t) {
  NumberRange range;
  if (t.dtype() == Dtype::f32) {  // a weight: not a second time, as double
    for (int64_t i = 0; i < t.count(); ++i) range.add(t.data<float>()[i]);
    return range;
  }
  for (const double x : t.to_vector<double>()) range.add(x);
  return range;
}

/// The group of each input of a row.
std::vector<size_t> groups_of(const PackedWeight& p) {
  std::vector<size_t> groups;
  if (p.group_index.defined()) {
    for (const int32_t of : p.group_index.to_vector<int32_t>()) {
      groups.push_back(static_cast<size_t>(of));
    }
    return groups;
  }
  for (int64_t j = 0; j < p.in; ++j) groups.push_back(static_cast<size_t>(j / p.group));
  return groups;
}

/// Mean over the groups of weights that share a scale: codes that occur / 2^bits.
double share_of_codes(const PackedWeight& p, const std::vector<uint8_t>& codes) {
  const std::vector<size_t> group_of = groups_of(p);
  const size_t levels = size_t{1} << p.bits, groups = static_cast<size_t>(p.in / p.group);
  double seen = 0.0;
  for (size_t row = 0; row < codes.size(); row += group_of.size()) {
    std::vector<bool> occurs(groups * levels);
    for (size_t j = 0; j < group_of.size(); ++j) {
      occurs[group_of[j] * levels + codes[row + j]] = true;
    }
    seen += static_cast<double>(std::count(occurs.begin(), occurs.end(), true));
  }
  return seen / static_cast<double>(static_cast<size_t>(p.out) * groups * levels);
}

CodeDistance distance_of(const PackedWeight& p, const std::vector<uint8_t>& codes,
                         const Tensor& w) {
  const float* weight = w.data<float>();
  const std::vector<double> scale = p.scale.to_vector<double>();
  const std::vector<double> zero = p.zero_point.to_vector<double>();
  const std::vector<size_t> group_of = groups_of(p);
  const size_t in = group_of.size(), groups = static_cast<size_t>(p.in / p.group);
  const auto top = static_cast<double>((1 << p.bits) - 1);
  CodeDistance d;
  for (size_t i = 0; i < codes.size(); ++i) {
    const size_t g = scale.size() == 1 ? 0 : i / in * groups + group_of[i % in];
    const double x = weight[i];
    const double nearest = std::clamp(std::nearbyint(x / scale[g]) + zero[g], 0.0, top);
    const auto squared = [&](double q) {
      const double e = scale[g] * (q - zero[g]) - x;
      return e * e;
    };
    d.squared += squared(codes[i]);
    d.nearest_squared += squared(nearest);
    d.moved += nearest != static_cast<double>(codes[i]);
    d.norm += x * x;
  }
  d.moved /= static_cast<double>(codes.size());
  return d;
}

std::string remarks_of(const Linear& linear, const LayerParts& parts) {
  std::string remarks;
  if (parts.activation) {
    const ActivationQuantizer& a = *parts.activation;
    const double clip = a.variables().empty() ? 0.0 : a.variables()[0].value().item();
    remarks += fmt::format("  inputs {} bits, clip {:.4f}", a.config().bits, std::exp(clip));
    if (const size_t n = a.clusters().size(); n > 0) remarks += fmt::format(", {} clusters", n);
  }
  if (parts.packed && parts.packed->group_index.defined()) remarks += "  act-order";
  if (linear.online) remarks += "  behind an online transform: " + linear.online->kind();
  return remarks;
}

/// A window as report.json has it (to_json of a WindowReport).
struct WindowRecord {
  int64_t finishes;
  WindowLosses losses;
};

WindowRecord window_record(const nlohmann::json& json, const std::string& what) {
  constexpr int64_t many = 1 << 20;
  const auto integer = [&](const char* key) {
    return json_int(json_at(json, key, what), key, what, 0, many);
  };
  const int64_t first = integer("first"), count = integer("count");
  return {integer("finishes"),
          {first, first + count - 1,
           json_double(json_at(json, "loss_before", what), "loss_before", what),
           json_double(json_at(json, "loss_hard", what), "loss_hard", what)}};
}

std::vector<std::optional<WindowLosses>> losses_in(const std::filesystem::path& report_file,
                                                   int64_t blocks) {
  const std::string what = report_file.string();
  const nlohmann::json report = read_json_file(report_file);
  if (!report.is_object()) fail(what, ": expected an object");
  const nlohmann::json& windows = json_find(report, "windows", what);
  if (!windows.is_array() || windows.empty()) return {};
  std::vector<std::optional<WindowLosses>> losses(static_cast<size_t>(blocks));
  for (const nlohmann::json& window : windows) {
    const WindowRecord record = window_record(window, what + ", \"windows\"");
    const int64_t end = std::min(record.losses.first + record.finishes, blocks);
    for (int64_t b = record.losses.first; b < end; ++b) {
      losses[static_cast<size_t>(b)] = record.losses;
    }
  }
  return losses;
}

}  // namespace

void NumberRange::add(double x) {
  low = std::min(low, x);
  high = std::max(high, x);
}

std::string to_string(const NumberRange& r) {
  return r.low == r.high ? fmt::format("{:.4g}", r.low)
                         : fmt::format("{:.4g}..{:.4g}", r.low, r.high);
}

InspectedLayer inspect_layer(const WindowLinear& l, const Linear* original) {
  const LayerParts parts = parts_of(*l.linear, l.path);
  InspectedLayer layer{.path = l.path, .shape = l.linear->weight.shape()};
  layer.remarks = remarks_of(*l.linear, parts);
  if (!parts.packed) {
    layer.stored_bits = element_count(layer.shape) * 32;
    layer.values = extremes_of(l.linear->weight.value());
    return layer;
  }
  const PackedWeight& p = *parts.packed;
  layer.has_codes = true;
  layer.bits = p.bits;
  layer.group = p.group;
  layer.act_order = p.group_index.defined();
  layer.values = extremes_of(p.scale);
  layer.zeros = extremes_of(p.zero_point);
  layer.stored_bits = 8 * (p.codes.bytes() + p.scale.bytes() + p.zero_point.bytes());
  if (p.group_index.defined()) layer.stored_bits += 8 * p.group_index.bytes();
  const auto codes = unpack_codes(p.codes.to(Device::cpu()), p.bits, p.in).to_vector<uint8_t>();
  layer.share = share_of_codes(p, codes);
  if (original) layer.distance = distance_of(p, codes, original->weight.value());
  return layer;
}

int64_t InspectedBlock::weights() const {
  int64_t all = 0;
  for (const InspectedLayer& layer : layers) all += element_count(layer.shape);
  return all;
}

double InspectedBlock::bits_per_weight() const {
  int64_t bits = 0;
  for (const InspectedLayer& layer : layers) bits += layer.stored_bits;
  return static_cast<double>(bits) / static_cast<double>(std::max<int64_t>(1, weights()));
}

std::optional<double> InspectedBlock::share() const {
  double sum = 0.0, count = 0.0;
  for (const InspectedLayer& layer : layers) {
    if (!layer.has_codes) continue;
    const auto n = static_cast<double>(element_count(layer.shape));
    sum += n * layer.share;
    count += n;
  }
  return count > 0.0 ? std::optional(sum / count) : std::nullopt;
}

std::optional<CodeDistance> InspectedBlock::distance() const {
  std::optional<CodeDistance> all;
  double weighted = 0.0, count = 0.0;
  for (const InspectedLayer& layer : layers) {
    if (!layer.distance) continue;
    if (!all) all.emplace();
    all->squared += layer.distance->squared;
    all->nearest_squared += layer.distance->nearest_squared;
    all->norm += layer.distance->norm;
    const auto n = static_cast<double>(element_count(layer.shape));
    weighted += n * layer.distance->moved;
    count += n;
  }
  if (all) all->moved = weighted / count;
  return all;
}

std::vector<std::optional<WindowLosses>> losses_of(const std::filesystem::path& folder,
                                                   int64_t blocks) {
  const std::filesystem::path path = folder / "report.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  try {
    return losses_in(path, blocks);
  } catch (const std::exception& error) {  // another program's, or damaged
    notice_once(concat("warning: no losses are shown: ", error.what()));
    return {};
  }
}

TextTable block_table(const std::vector<InspectedBlock>& blocks) {
  TextTable table{"block", {}, {}, {{"linear layers", {"bits per weight", "codes used"}, {}}}};
  const auto any = [&](const auto& has) { return std::any_of(blocks.begin(), blocks.end(), has); };
  const bool compared = any([](const InspectedBlock& b) { return b.distance().has_value(); });
  const bool trained = any([](const InspectedBlock& b) { return b.losses.has_value(); });
  if (compared) table.groups.push_back({"relative error", {"codes", "nearest", "moved"}, {}});
  if (trained) table.groups.push_back({"window", {"blocks", "loss before", "loss after"}, {}});
  for (const InspectedBlock& block : blocks) {
    table.labels.push_back(std::to_string(block.number));
    const std::optional<double> share = block.share();
    table.groups[0].rows.push_back({fmt::format("{:.3f}", block.bits_per_weight()),
                                    share ? fmt::format("{:.1f} %", 100.0 * *share) : "-"});
    if (compared) {
      const std::optional<CodeDistance> d = block.distance();
      table.groups[1].rows.push_back(d ? std::vector{fmt::format("{:.5f}", d->error()),
                                                     fmt::format("{:.5f}", d->nearest_error()),
                                                     fmt::format("{:.1f} %", 100.0 * d->moved)}
                                       : std::vector<std::string>(3, "-"));
    }
    if (trained) {
      const std::optional<WindowLosses>& w = block.losses;
      table.groups.back().rows.push_back(w ? std::vector{fmt::format("{}-{}", w->first, w->last),
                                                         fmt::format("{:.5g}", w->before),
                                                         fmt::format("{:.5g}", w->after)}
                                           : std::vector<std::string>(3, "-"));
    }
  }
  return table;
}

}  // namespace cbq::cli
