#include "nn/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <map>
#include <numeric>
#include <optional>

#include "autograd/functions.h"
#include "autograd/optim.h"
#include "kernels/formulas/philox.h"
#include "nn/formats/sealed_files.h"

namespace cbq {
namespace {

/// Which segments step t reads: a function of (seed, t) alone, so that resuming needs no state.
class SegmentOrder {
 public:
  SegmentOrder(const std::vector<int32_t>& stream, const TrainSettings& s)
      : stream_(stream), settings_(s) {
    const auto length = static_cast<int64_t>(stream.size());
    check(length >= 2 * s.tokens + 1, "train: the text has ", length,
          " tokens, too few for segments of ", s.tokens, "; give more text or a smaller --tokens");
    per_epoch_ = (length - 1 - s.tokens) / s.tokens;  // leaves room for the offset
  }

  /// Inputs and targets [batch * tokens] of a step.
  std::pair<std::vector<int32_t>, std::vector<int32_t>> step(int64_t t) {
    std::vector<int32_t> inputs, targets;
    for (int64_t b = 0; b < settings_.batch; ++b) {
      const int64_t index = t * settings_.batch + b;
      const auto begin = stream_.begin() + segment_begin(index / per_epoch_, index % per_epoch_);
      inputs.insert(inputs.end(), begin, begin + settings_.tokens);
      targets.insert(targets.end(), begin + 1, begin + settings_.tokens + 1);
    }
    return {inputs, targets};
  }

 private:
  int64_t segment_begin(int64_t epoch, int64_t i) {
    if (epoch != epoch_) {
      epoch_ = epoch;
      order_.resize(static_cast<size_t>(per_epoch_));
      std::iota(order_.begin(), order_.end(), 0);
      const auto stream_number = static_cast<uint64_t>(epoch);
      for (size_t k = order_.size() - 1; k > 0; --k) {  // Fisher-Yates
        std::swap(order_[k], order_[philox_bits(settings_.seed, stream_number, k) % (k + 1)]);
      }
      offset_ =
          philox_bits(settings_.seed, stream_number, 0) % static_cast<uint32_t>(settings_.tokens);
    }
    return offset_ + order_[static_cast<size_t>(i)] * settings_.tokens;
  }

  const std::vector<int32_t>& stream_;
  TrainSettings settings_;
  int64_t per_epoch_ = 0, epoch_ = -1, offset_ = 0;
  std::vector<int64_t> order_;
};

Adam make_adam(Transformer& model, const TrainSettings& s) {
  kernels::AdamSettings decayed{s.rate, s.beta1, s.beta2, 1e-8, s.weight_decay};
  kernels::AdamSettings plain = decayed;
  plain.decay = 0.0;
  ParameterGroup matrices{{}, decayed}, others{{}, plain};
  for (auto& [path, p] : parameters_of(model)) {
    p.set_requires_grad(true);
    (p.value().rank() == 2 ? matrices : others).variables.push_back(p);
  }
  return Adam({matrices, others});
}

/// Scales all gradients so that their common norm is at most `bound`; returns the norm before.
double clip_gradients(Transformer& model, double bound) {
  double squares = 0.0;
  const auto parameters = parameters_of(model);
  for (const auto& [path, p] : parameters) {
    if (p.grad().defined()) squares += kernels::sum_of_squares(p.grad());
  }
  const double norm = std::sqrt(squares);
  if (!std::isfinite(norm)) {  // before the optimizer, and a checkpoint, can take it in
    throw NonFiniteError(message_of("train: the gradient's norm is ", norm,
                                    "; lower --rate, or resume from the last checkpoint"));
  }
  if (norm > bound) {
    for (const auto& [path, p] : parameters) {
      if (p.grad().defined()) p.grad().copy_from(kernels::scale(p.grad(), bound / norm));
    }
  }
  return norm;
}

void save_checkpoint(Transformer& model, Adam& adam, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  // One file, published at once: model and optimizer can never belong to different steps.
  std::map<std::string, Tensor> tensors;
  for (auto& [path, p] : parameters_of(model)) tensors["model." + path] = p.value();
  for (auto& [name, t] : adam.state()) tensors["adam." + name] = t;
  write_sealed_safetensors(folder / "training.safetensors", tensors,
                           {{"format", "pt"}, {"step", std::to_string(adam.steps())}});
}

/// Step to go on from; 0 without a checkpoint, and with a damaged one, which is renamed.
int64_t load_checkpoint(Transformer& model, Adam& adam, const TrainHooks& hooks) {
  const std::filesystem::path path = hooks.folder / "training.safetensors";
  if (hooks.folder.empty() || !std::filesystem::exists(path)) return 0;
  std::optional<SafetensorsFile> opened;
  try {
    opened = open_sealed_safetensors(path, /*needs_seal=*/false);
  } catch (const DamagedFile& damage) {
    const std::filesystem::path kept = hooks.folder / "training.damaged";
    std::filesystem::rename(path, kept);  // somebody may still get something out of it
    if (hooks.say) {
      hooks.say(concat("started from the first step: ", damage.what(), "; it is kept as ",
                       kept.string()));
    }
    return 0;
  }
  const SafetensorsFile& file = *opened;
  const int64_t step = metadata_int(file, "step", 0);
  const auto load_into = [&](const std::string& name, const Tensor& t) {
    const Tensor saved = file.load(name, t.device());
    check(saved.shape() == t.shape(), path, ": ", name, " is ", saved.shape(), ", this model has ",
          t.shape(), "; use an empty --output folder");
    t.copy_from(saved);
  };
  for (auto& [name, p] : parameters_of(model)) load_into("model." + name, p.value());
  for (auto& [name, t] : adam.state()) load_into("adam." + name, t);
  adam.set_steps(step);
  return step;
}

}  // namespace

double rate_factor(const TrainSettings& s, int64_t step) {
  if (step < s.warmup) return static_cast<double>(step + 1) / static_cast<double>(s.warmup);
  const double decay_steps = s.decay_fraction * static_cast<double>(s.steps);
  const double left = static_cast<double>(s.steps - step);
  if (left >= decay_steps) return 1.0;
  return 0.05 + 0.95 * left / decay_steps;
}

double train(Transformer& model, const std::vector<int32_t>& stream, const TrainSettings& settings,
             const TrainHooks& hooks) {
  SegmentOrder order(stream, settings);
  Adam adam = make_adam(model, settings);
  const int64_t first = load_checkpoint(model, adam, hooks);
  const Sequence sequence{settings.batch, settings.tokens};
  std::deque<double> recent;
  auto last_time = std::chrono::steady_clock::now();
  for (int64_t step = first; step < settings.steps; ++step) {
    const auto [inputs, targets] = order.step(step);
    const Shape shape = {settings.batch * settings.tokens};
    const Tensor ids = Tensor::from(inputs, shape, Dtype::i32, model.device());
    const Tensor next = Tensor::from(targets, shape, Dtype::i32, model.device());
    double loss = 0.0;
    {
      Tape tape;
      const Var mean = ag::cross_entropy(model.forward(ids, sequence), next);
      loss = mean.value().item();
      if (!std::isfinite(loss)) {
        throw NonFiniteError(message_of("train: the loss is ", loss, " at step ", step,
                                        "; lower --rate, or resume from the last checkpoint"));
      }
      tape.backward(mean);
    }
    clip_gradients(model, settings.clip);
    const double factor = rate_factor(settings, step);
    adam.step(factor);
    recent.push_back(loss);
    if (recent.size() > 20) recent.pop_front();
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - last_time).count();
    last_time = now;
    if (hooks.progress) {
      hooks.progress(step + 1, loss, settings.rate * factor,
                     static_cast<double>(shape[0]) / std::max(seconds, 1e-9));
    }
    const bool stop = hooks.interrupted && hooks.interrupted();
    const bool last = step + 1 == settings.steps;
    if (!hooks.folder.empty() && (stop || last || (step + 1) % settings.save_every == 0)) {
      save_checkpoint(model, adam, hooks.folder);
    }
    if (stop) break;
  }
  for (auto& [path, p] : parameters_of(model)) p.set_requires_grad(false);
  return std::accumulate(recent.begin(), recent.end(), 0.0) /
         static_cast<double>(std::max<size_t>(recent.size(), 1));
}

}  // namespace cbq
