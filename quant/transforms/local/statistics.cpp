#include "quant/transforms/local/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "kernels/ops.h"
#include "nn/block_walk.h"
#include "quant/transforms/local/arithmetic.h"

namespace cbq {
namespace {

constexpr int64_t tokens_per_pass = 1024;

/// Passes its input on and remembers what it was.
class Recorder : public LinearTransform {
 public:
  Recorder(std::string layer, int64_t in, Device device, int64_t stride, int64_t rows)
      : layer_(std::move(layer)),
        stride_(stride),
        low_({in}, Dtype::f64, device),
        high_({in}, Dtype::f64, device),
        magnitudes_(Tensor::zeros({in}, Dtype::f64, device)),
        sample_({rows, in}, Dtype::f32) {
    kernels::fill(low_, std::numeric_limits<double>::infinity());
    kernels::fill(high_, -std::numeric_limits<double>::infinity());
  }

  Var weight(const Var& w) override { return w; }
  Var input(const Var& x) override {
    record(x.value());
    return x;
  }

  InputStatistics result() const {
    InputStatistics s;
    if (tokens_ == 0) return of_zeros();  // an expert that no token reached
    s.min = low_.to_vector<double>();
    s.max = high_.to_vector<double>();
    for (size_t i = 0; i < s.min.size(); ++i) {
      s.abs_max.push_back(std::max(-s.min[i], s.max[i]));
    }
    for (const double sum : magnitudes_.to_vector<double>()) {
      s.abs_mean.push_back(sum / static_cast<double>(tokens_));
    }
    s.tokens = tokens_;
    s.sample = sample_.slice(0, kept_);
    return s;
  }

 private:
  /// As if the layer had read one row of zeros: no channel stands out, and every error is 0.
  InputStatistics of_zeros() const {
    const std::vector<double> zeros(static_cast<size_t>(low_.count()), 0.0);
    return {zeros, zeros, zeros, zeros, 0, Tensor::zeros({1, low_.count()}, Dtype::f32)};
  }

  void record(const Tensor& x) {
    if (kernels::has_non_finite(x)) {
      throw NonFiniteError(
          message_of("calibration: the input of ", layer_,
                     " holds NaN or infinity; is the checkpoint damaged, or its dtype "
                     "too narrow for its activations (--dtype f32)?"));
    }
    widen_column_range(x, low_, high_);
    add_column_magnitudes(x, magnitudes_);
    std::vector<int64_t> kept;
    for (int64_t r = 0; r < x.size(0); ++r) {
      if ((tokens_ + r) % stride_ == 0) kept.push_back(r);
    }
    tokens_ += x.size(0);
    if (kept.empty()) return;
    const Tensor rows = kernels::cast(kernels::gather_rows(x, kept), Dtype::f32);
    sample_.slice(kept_, kept_ + rows.size(0)).copy_from(rows);
    kept_ += rows.size(0);
  }

  std::string layer_;
  int64_t stride_;  // every stride-th token goes into the sample
  Tensor low_, high_, magnitudes_, sample_;
  int64_t tokens_ = 0, kept_ = 0;
};

/// Recorders on all linears of a block while it lives: one per activation, on the first linear that
/// reads it.
class StatisticsRecording {
 public:
  StatisticsRecording(Transformer& model, int64_t number, int64_t tokens, int64_t sample_rows) {
    const int64_t stride = (tokens + sample_rows - 1) / sample_rows;
    const int64_t rows = (tokens + stride - 1) / stride;
    for (const std::vector<NamedLinear>& group : linears_by_input(model.block(number))) {
      const std::string prefix = model.block_prefix(number);
      const Linear* first = group.front().linear;
      const auto recorder = std::make_shared<Recorder>(
          prefix + group.front().name, first->in_features(), model.device(), stride, rows);
      for (const auto& [name, linear] : group) {
        saved_.emplace_back(linear, linear->transform);
        linear->transform = linear == first ? recorder : nullptr;
        recorders_.emplace_back(prefix + name, recorder);
      }
    }
  }
  ~StatisticsRecording() {
    for (auto& [linear, transform] : saved_) linear->transform = transform;
  }
  StatisticsRecording(const StatisticsRecording&) = delete;
  StatisticsRecording& operator=(const StatisticsRecording&) = delete;

  CalibrationStatistics result() const {
    CalibrationStatistics statistics;
    std::map<const Recorder*, std::shared_ptr<const InputStatistics>> shared;
    for (const auto& [path, recorder] : recorders_) {
      auto& entry = shared[recorder.get()];
      if (entry == nullptr) entry = std::make_shared<InputStatistics>(recorder->result());
      statistics.set(path, entry);
    }
    return statistics;
  }

 private:
  std::vector<std::pair<Linear*, std::shared_ptr<LinearTransform>>> saved_;
  std::vector<std::pair<std::string, std::shared_ptr<Recorder>>> recorders_;
};

int64_t checked_token_count(const Transformer& model,
                            const std::vector<std::vector<int32_t>>& segments) {
  int64_t tokens = 0;
  for (size_t s = 0; s < segments.size(); ++s) {
    tokens += static_cast<int64_t>(segments[s].size());
    for (const int32_t id : segments[s]) {
      check(id >= 0 && id < model.config.vocab_size, "calibration: segment ", s, " holds token id ",
            id, ", outside the model's vocabulary of ", model.config.vocab_size,
            " (was the text tokenized for another model?)");
    }
  }
  check(tokens > 0, "calibration: no tokens to collect statistics from");
  return tokens;
}

}  // namespace

const InputStatistics& CalibrationStatistics::of(const std::string& layer) const {
  const auto found = inputs_.find(layer);
  check(found != inputs_.end(), "no calibration statistics of the input of ", layer);
  return *found->second;
}

StatisticsStream::StatisticsStream(Transformer& model,
                                   const std::vector<std::vector<int32_t>>& segments,
                                   const StatisticsConfig& config)
    : model_(model), config_(config) {
  check(config.sample_rows > 0, "calibration: sample_rows must be positive, got ",
        config.sample_rows);
  tokens_ = checked_token_count(model, segments);
  NoGrad none;
  for (size_t first = 0; first < segments.size();) {
    const auto length = static_cast<int64_t>(segments[first].size());
    std::vector<int32_t> ids;
    int64_t batch = 0;
    size_t next = first;
    while (next < segments.size() && static_cast<int64_t>(segments[next].size()) == length &&
           (batch == 0 || (batch + 1) * length <= tokens_per_pass)) {
      ids.insert(ids.end(), segments[next].begin(), segments[next].end());
      ++batch;
      ++next;
    }
    first = next;
    if (length == 0) continue;
    const Sequence sequence{batch, length};
    const Tensor read = Tensor::from(ids, {batch * length}, Dtype::i32, model.device());
    batches_.push_back({sequence, model.embed(read, sequence)});
  }
}

CalibrationStatistics StatisticsStream::pass_block(const std::function<void()>& poll) {
  NoGrad none;
  const StatisticsRecording recording(model_, next_, tokens_, config_.sample_rows);
  Block& block = model_.block(next_);
  std::vector<BlockInput> first;
  int64_t kept = 0;
  for (Batch& batch : batches_) {
    if (poll) poll();
    if (kept < config_.block_tokens) {
      first.push_back({batch.sequence, batch.hidden.value()});
      kept += batch.hidden.value().size(0);
    }
    batch.hidden = block.forward(batch.hidden, batch.sequence);
  }
  ++next_;
  CalibrationStatistics statistics = recording.result();
  statistics.set_block_inputs(std::move(first));
  return statistics;
}

CalibrationStatistics collect_statistics(Transformer& model,
                                         const std::vector<std::vector<int32_t>>& segments,
                                         const StatisticsConfig& config) {
  StatisticsStream stream(model, segments, config);
  CalibrationStatistics all;
  for_each_block(model, [&](Block&, int64_t) { all.merge(stream.pass_block()); });
  return all;
}

}  // namespace cbq
