// Channel disassembly and assembly (Liu et al. 2024, QLLM): a channel with outliers is split into
// copies that share its range, and as many pairs of similar channels are merged, so that the width
// of the layer stays what it was.
//
//   split:  T_c = ceil(max|X_c| / theta), x_c w_c = sum of T_c terms (x_c / T_c) w_c    exact
//   merge:  x_a w_a + x_b w_b ~ (x_a + x_b) / 2 (w_a + w_b)    error: reassembly.h
//
// theta is the one of a descending ladder with the least error of the layers that read the place,
//   sum over readers of ||X W^T - Q(X') Q(W')^T||^2,   min/max grids, nearest rounding,
// as long as no more than a share `ratio` of the channels is added; theta = max|X| changes nothing
// and is a candidate, too. The ladder is the program's (ziplab/QLLM): max(100, max|X| / 0.5) steps
// from max|X| down to the smallest of the channels' maxima. Places: behind norms, and in front of
// the last feed-forward layer. The map of channels stays online, before the layers (ChannelMap).
// Differences: the error is the linear layers', where the program runs attention and SwiGLU behind
// them; D is the published one, where the program sums (w_a + w_b) ||x_a - x_b|| before it squares.
#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/ops.h"
#include "quant/transforms/local/reassembly.h"
#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

constexpr int64_t ladder_rows = 256;
constexpr double least_steps = 100.0, range_of_step = 0.5;

/// One place of a block: an activation, and the layers that read it.
struct Place {
  std::vector<NamedLinear> readers;  // by path
  const InputStatistics& input;
};

/// Ranges of the channels behind the map: of a mean, those of the mean of the ends.
InputStatistics behind(const InputStatistics& input,
                       const std::vector<ChannelMap::Source>& sources) {
  InputStatistics result = input;
  for (size_t j = 0; j < sources.size(); ++j) {
    double low = 0.0, high = 0.0;
    for (const int64_t c : sources[j].channels) {
      low += input.min[static_cast<size_t>(c)];
      high += input.max[static_cast<size_t>(c)];
    }
    result.min[j] = sources[j].factor * low;
    result.max[j] = sources[j].factor * high;
  }
  return result;
}

/// Maps of channels for one place, and what they do to it.
class Search {
 public:
  Search(const Place& place, const PreprocessContext& context)
      : place_(place), context_(context), pairs_(place.input.sample, weights_of(place)) {
    const Tensor& w = place.readers.front().linear->weight.value();
    x_ = sample_rows(place.input, ladder_rows, w.dtype(), w.device());
    for (const NamedLinear& reader : place.readers) {
      answers_.push_back(kernels::matmul(x_, kernels::Trans::no, reader.linear->weight.value(),
                                         kernels::Trans::yes));
    }
  }

  /// The best map that adds at most `budget` channels; null: none is better than no map.
  std::shared_ptr<const ChannelMap> best(int64_t budget) {
    const std::vector<double>& maxima = place_.input.abs_max;
    const double top = *std::max_element(maxima.begin(), maxima.end());
    const double bottom = *std::min_element(maxima.begin(), maxima.end());
    const double steps = std::max(least_steps, std::floor(top / range_of_step));
    if (!(top > bottom)) return nullptr;
    std::shared_ptr<const ChannelMap> best;
    double least = error(unchanged());
    int64_t before = 0;
    for (double step = 1.0; step < steps; ++step) {
      const std::vector<int64_t> copies = copies_of(maxima, top - step / steps * (top - bottom));
      const int64_t added = added_channels(copies);
      if (added > budget) break;
      if (added == before) continue;
      before = added;
      const ChannelPairs::Merges merges = pairs_.closest(added, copies);
      if (static_cast<int64_t>(merges.size()) < added) break;
      const std::vector<ChannelMap::Source> sources = reassembled(copies, merges);
      if (const double its = error(sources); its < least) {
        least = its;
        best = std::make_shared<ChannelMap>(sources, x_.device());
        added_ = added;
      }
      if (context_.poll) context_.poll();
    }
    return best;
  }
  int64_t added() const { return added_; }

 private:
  static std::vector<Tensor> weights_of(const Place& place) {
    std::vector<Tensor> weights;
    for (const NamedLinear& r : place.readers) weights.push_back(r.linear->weight.value());
    return weights;
  }

  std::vector<ChannelMap::Source> unchanged() const {
    return reassembled(std::vector<int64_t>(place_.input.abs_max.size(), 1), {});
  }

  double error(const std::vector<ChannelMap::Source>& sources) const {
    const NoGrad none;
    const ChannelMap map(sources, x_.device());
    const Tensor x = map.apply(Var(x_)).value();
    const InputStatistics statistics = behind(place_.input, sources);
    double sum = 0.0;
    for (size_t i = 0; i < place_.readers.size(); ++i) {
      const NamedLinear& reader = place_.readers[i];
      sum += quantized_error(context_, reader.name, statistics, x,
                             map.weight_behind(reader.linear->weight.value()), answers_[i]);
    }
    return sum;
  }

  const Place& place_;
  const PreprocessContext& context_;
  ChannelPairs pairs_;
  Tensor x_;
  std::vector<Tensor> answers_;
  int64_t added_ = 0;
};

class ChannelAssembly : public Preprocessor {
 public:
  std::string name() const override { return "channel_assembly"; }
  std::string help() const override {
    return "splits channels with outliers into copies and merges as many pairs of similar ones "
           "(Liu et al. 2024, QLLM); option: the share of channels that may be added, 0.2 by "
           "default";
  }
  bool handles_activation_outliers() const override { return true; }
  bool needs_statistics() const override { return true; }
  void configure(const std::string& arguments) override {
    if (!arguments.empty()) ratio_ = number_argument(name(), arguments, 0.0, 0.5);
  }
  std::map<const Linear*, std::string> online_kinds(Block& block) const override {
    std::map<const Linear*, std::string> kinds;
    for (const std::vector<NamedLinear>& group : linears_by_input(block)) {
      if (group.front().name == block.attention_output_name()) continue;
      for (const NamedLinear& reader : group) kinds[reader.linear] = ChannelMap::kind_name;
    }
    return kinds;
  }

  void apply(Transformer& model, int64_t number, const CalibrationStatistics& statistics,
             PreprocessContext& context) override {
    if (!context.activation.quantizes()) return;
    Block& block = model.block(number);
    const std::string prefix = model.block_prefix(number);
    for (const std::vector<NamedLinear>& group : linears_by_input(block)) {
      if (group.front().name == block.attention_output_name()) continue;
      ++places_;
      if (group.front().linear->online) {
        ++behind_online_;
        continue;
      }
      Place place{{}, statistics.of(prefix + group.front().name)};
      for (const NamedLinear& reader : group) {
        place.readers.push_back({prefix + reader.name, reader.linear});
      }
      assemble(place, context);
    }
  }
  std::vector<std::string> notes(const PreprocessContext& context) const override {
    if (!context.activation.quantizes()) {
      return {name() + ": activations stay in floating point, so nothing was changed"};
    }
    std::vector<std::string> notes = {concat(name(), ": added and merged ", added_, " of ",
                                             channels_, " channels, in ", changed_, " of ", places_,
                                             " places")};
    if (behind_online_ > 0) {
      notes.push_back(concat(name(), ": left out in ", behind_online_,
                             " places, which stand behind an online transform"));
    }
    return notes;
  }

 private:
  void assemble(const Place& place, const PreprocessContext& context) {
    const auto channels = static_cast<int64_t>(place.input.abs_max.size());
    channels_ += channels;
    if (channels < 2) return;
    Search search(place, context);
    const auto map = search.best(static_cast<int64_t>(ratio_ * static_cast<double>(channels)));
    if (map == nullptr) return;
    for (const NamedLinear& reader : place.readers) {
      reader.linear->weight.set_value(map->weight_behind(reader.linear->weight.value()));
      reader.linear->online = map;
    }
    added_ += search.added();
    ++changed_;
  }

  double ratio_ = 0.2;
  int64_t places_ = 0, changed_ = 0, behind_online_ = 0, channels_ = 0, added_ = 0;
};

[[maybe_unused]] const bool registered =
    preprocessors().add("channel_assembly", [] { return std::make_unique<ChannelAssembly>(); });

}  // namespace
}  // namespace cbq
