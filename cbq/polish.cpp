#include "cbq/polish.h"

#include <chrono>
#include <cmath>
#include <memory>

#include "autograd/optim.h"
#include "cbq/loss.h"
#include "cbq/reconstructor.h"
#include "kernels/ops.h"
#include "quant/learned_codes.h"

namespace cbq {
namespace {

constexpr const char* doing = "polishing the whole model";
/// Of so many segments one is held out.
constexpr int64_t held_out_every = 8;
constexpr double seconds_between_saves = 600.0;

/// A frozen weight whose scales, and codes where they are asked for, are learned again; its input
/// is what the quantizers make of it.
class PolishedLinear : public LinearTransform {
 public:
  PolishedLinear(std::shared_ptr<LinearTransform> original, const PackedWeight& packed,
                 ScaleType scale_type, bool learn_codes, Dtype dtype, Device device)
      : original_(std::move(original)),
        packed_(packed),
        scale_type_(scale_type),
        dtype_(dtype),
        device_(device) {
    for (Tensor* t : {&packed_.codes, &packed_.scale, &packed_.zero_point}) *t = t->to(device);
    const WeightGrid start{packed_.scale, packed_.zero_point, packed.bits, packed.group};
    x_ = Var(grid_->start({}, start, {}).front().second, true);
    if (learn_codes) u_ = Var(real_codes(packed_), true);
  }

  Var weight(const Var& /*w*/) override {
    if (u_.defined()) return weight_of_learned_codes();
    if (!should_record({&x_})) return Var(dequantize(current(), dtype_, device_));
    const PackedWeight now = current();
    return differentiable(dequantize(now, dtype_, device_), {&x_},
                          [now, x = x_, grid = grid_](const Tensor& dw) {
                            const GridValues values{now.scale, now.zero_point};
                            const GridValues d{code_sums(now, dw), {}};
                            x.accumulate(grid->gradients({x.value()}, values, d).front());
                          });
  }
  Var input(const Var& x) override { return original_->input(x); }
  const FusedInput* fused_input() const override { return original_->fused_input(); }

  const Var& scale_variable() const { return x_; }
  /// Undefined where the codes are fixed.
  const Var& code_variable() const { return u_; }
  /// With what was learned.
  PackedWeight current() const {
    if (u_.defined()) return packed(learned_codes());
    PackedWeight now = packed_;
    now.scale = scale();
    return now;
  }

 private:
  Tensor scale() const { return stored_scales(grid_->values({x_.value()}).scale, scale_type_); }
  LearnedCodes learned_codes() const {
    return {packed_.bits, packed_.group, u_.value(), scale(), packed_.zero_point};
  }
  Var weight_of_learned_codes() const {
    const LearnedCodes now = learned_codes();
    return differentiable(
        dequantize(now, dtype_), {&x_, &u_}, [now, x = x_, u = u_, grid = grid_](const Tensor& dw) {
          const CodeGradients d = code_gradients(now, dw);
          const GridValues values{now.scale, now.zero_point};
          u.accumulate(d.u);
          x.accumulate(grid->gradients({x.value()}, values, {d.scale, {}}).front());
        });
  }

  std::shared_ptr<LinearTransform> original_;
  PackedWeight packed_;
  ScaleType scale_type_;
  Dtype dtype_;
  Device device_;
  std::shared_ptr<GridScheme> grid_ = grid_schemes().make("log");
  Var x_, u_;
};

/// The model with polished linears in the place of its quantized ones, while it lives.
class PolishedModel {
 public:
  PolishedModel(Transformer& model, const Settings& settings) {
    for (const WindowLinear& l : linears_of(model, {0, model.block_count()})) {
      if (QuantizedTransform* q = l.quantizers()) {
        add_clip(q->activation_quantizer.get());
        if (q->weight_quantizer) add(model, *l.linear, *q->weight_quantizer, settings);
      }
    }
    if (settings.rate_polish_norm > 0.0) find_norms(model);
  }
  ~PolishedModel() {
    for (const Place& p : places_) p.linear->transform = p.transform;
    for (const Norm& norm : norms_) {
      if (!kept_) norm.parameter->value().copy_from(norm.start);
      norm.parameter->set_requires_grad(false);
      norm.parameter->clear_grad();
    }
    if (kept_) return;
    for (const auto& [quantizer, start] : clips_) quantizer->restore(start);
  }
  PolishedModel(const PolishedModel&) = delete;
  PolishedModel& operator=(const PolishedModel&) = delete;

  /// The codes, which SignSgd moves: a code needs to know in which direction most segments want
  /// it, and two moments of Adam would take twice the memory of the codes themselves.
  std::vector<ParameterGroup> codes(const Settings& settings) const {
    ParameterGroup codes;
    codes.settings.rate = settings.rate_polish_codes;
    for (const Place& p : places_) {
      if (p.polished->code_variable().defined()) {
        codes.variables.push_back(p.polished->code_variable());
      }
    }
    if (codes.variables.empty()) return {};
    return {codes};
  }
  /// What Adam moves; groups of nothing are left out.
  std::vector<ParameterGroup> groups(const Settings& settings) const {
    ParameterGroup scales, clips;
    scales.settings.rate = settings.rate_polish;
    clips.settings.rate = settings.rate_activation;
    for (const Place& p : places_) scales.variables.push_back(p.polished->scale_variable());
    for (const auto& [quantizer, start] : clips_) {
      for (Var a : quantizer->variables()) {
        a.set_requires_grad(settings.learn_activation);
        a.clear_grad();
        if (settings.learn_activation) clips.variables.push_back(a);
      }
    }
    std::vector<ParameterGroup> all;
    for (const ParameterGroup& group : {scales, clips}) {
      if (!group.variables.empty()) all.push_back(group);
    }
    for (const Norm& norm : norms_) {
      ParameterGroup group;
      group.variables.push_back(*norm.parameter);
      group.settings.rate = settings.rate_polish_norm * norm.unit;
      all.push_back(group);
    }
    return all;
  }
  /// What is learned, under names that are the same in every run of the same settings.
  std::map<std::string, Tensor> variables() const {
    std::map<std::string, Tensor> all;
    for (size_t i = 0; i < places_.size(); ++i) {
      const PolishedLinear& linear = *places_[i].polished;
      all[concat("scale.", i)] = linear.scale_variable().value();
      if (linear.code_variable().defined()) {
        all[concat("code.", i)] = linear.code_variable().value();
      }
    }
    for (size_t i = 0; i < clips_.size(); ++i) {
      const std::vector<Var> of_clip = clips_[i].first->variables();
      for (size_t k = 0; k < of_clip.size(); ++k) {
        all[concat("clip.", i, ".", k)] = of_clip[k].value();
      }
    }
    for (size_t i = 0; i < norms_.size(); ++i) {
      all[concat("norm.", i)] = norms_[i].parameter->value();
    }
    return all;
  }
  /// The head as it was before this stage: that of the targets.
  Var original_head(Transformer& model, const Var& hidden) const {
    std::vector<std::pair<Var*, Var>> learned;
    for (const Norm& norm : norms_) {
      if (!norm.of_head) continue;
      learned.emplace_back(norm.parameter, *norm.parameter);
      *norm.parameter = Var(norm.start);
    }
    Var logits = model.head(hidden);
    for (const auto& [parameter, value] : learned) *parameter = value;
    return logits;
  }
  /// What was learned goes to the quantizers.
  void keep() {
    kept_ = true;
    for (const Place& p : places_) {
      const PackedWeight now = p.polished->current();
      p.quantizer->restore(
          {{"codes", now.codes}, {"scale", now.scale}, {"zero_point", now.zero_point}});
    }
  }

 private:
  struct Place {
    Linear* linear;
    std::shared_ptr<LinearTransform> transform;
    WeightQuantizer* quantizer;
    std::shared_ptr<PolishedLinear> polished;
  };
  /// A parameter of a norm, and its value before this stage.
  struct Norm {
    Var* parameter;
    Tensor start;
    double unit;  // of its learning rate
    bool of_head;
  };

  void add_clip(ActivationQuantizer* quantizer) {
    if (quantizer != nullptr) clips_.push_back({quantizer, quantizer->snapshot()});
  }
  void add(const Transformer& model, Linear& linear, WeightQuantizer& quantizer,
           const Settings& settings) {
    const auto polished = std::make_shared<PolishedLinear>(
        linear.transform, quantizer.packed(), quantizer.config().scale_type,
        settings.rate_polish_codes > 0.0, model.dtype(), model.device());
    places_.push_back({&linear, linear.transform, &quantizer, polished});
    linear.transform = polished;
  }

  static double root_mean_square(const Tensor& x) {
    double sum = 0.0;
    for (const double value : x.to_vector<double>()) sum += value * value;
    return std::sqrt(sum / static_cast<double>(x.count()));
  }
  void find_norms(Transformer& model) {
    const auto add = [&](Var* weight, Var* bias, bool of_head) {
      if (weight == nullptr || !weight->defined()) return;
      const double unit = root_mean_square(weight->value());  // biases are often all zero
      for (Var* parameter : {weight, bias}) {
        if (parameter == nullptr || !parameter->defined()) continue;
        parameter->set_requires_grad(true);
        norms_.push_back({parameter, parameter->value().clone(), unit, of_head});
      }
    };
    for (int64_t b = 0; b < model.block_count(); ++b) {
      for (const ScalingSite& site : model.block(b).scaling_sites()) {
        add(site.norm_weight, site.norm_bias, false);
      }
    }
    const ResidualEnds ends = model.residual_ends();
    add(ends.norm_weight, ends.norm_bias, true);
  }

  std::vector<Place> places_;
  std::vector<Norm> norms_;
  std::vector<std::pair<ActivationQuantizer*, std::vector<std::pair<std::string, Tensor>>>> clips_;
  bool kept_ = false;
};

class Polish {
 public:
  Polish(Transformer& model, const Segments& segments, ActivationCache& original,
         const Settings& settings, const Watch& watch, PolishHooks hooks)
      : model_(model),
        segments_(segments),
        settings_(settings),
        watch_(watch),
        hooks_(std::move(hooks)),
        polished_(model, settings) {
    const auto count = static_cast<int64_t>(segments.size());
    targets_ = original.get(model.block_count(), 0, count);
    for (int64_t i = 0; i < count; ++i) {
      const bool out = count < held_out_every ? i + 1 == count : i % held_out_every == 0;
      (out ? held_out_ : trained_).push_back(i);
    }
    if (trained_.empty()) trained_ = held_out_;
    loss_.l2_weight = 0.0;
    loss_.kl_weight = 1.0;
  }

  PolishReport run() {
    PolishReport report;
    report.trained = static_cast<int64_t>(trained_.size());
    report.held_out = static_cast<int64_t>(held_out_.size());
    report.before = report.after = hooks_.start ? hooks_.start->before : held_out_loss();
    if (!std::isfinite(report.before)) {
      throw NonFiniteError(concat(doing, ": KL to the original model is ", report.before));
    }
    const std::vector<ParameterGroup> groups = polished_.groups(settings_);
    if (!groups.empty()) {
      try {
        train(groups, report);
      } catch (const NonFiniteError&) {  // held_out_loss() decides
      }
      report.after = held_out_loss();
      report.kept = report.after < report.before;  // false for NaN
      if (report.kept) polished_.keep();
    }
    report.seconds = seconds();
    return report;
  }

 private:
  struct Batch {
    Tensor ids;
    Sequence sequence;
    Tensor targets;  // the original's residual stream behind the last block
  };

  Batch batch_of(const std::vector<int64_t>& chosen) const {
    std::vector<int32_t> ids;
    const int64_t tokens = targets_.size(1), hidden = targets_.size(2);
    const auto count = static_cast<int64_t>(chosen.size());
    Tensor targets({count * tokens, hidden}, targets_.dtype(), model_.device());
    for (int64_t k = 0; k < count; ++k) {
      const int64_t i = chosen[static_cast<size_t>(k)];
      const std::vector<int32_t>& segment = segments_[static_cast<size_t>(i)];
      ids.insert(ids.end(), segment.begin(), segment.end());
      targets.slice(k * tokens, (k + 1) * tokens)
          .copy_from(targets_.slice(i, i + 1).reshape({tokens, hidden}));
    }
    return {
        Tensor::from(ids, {count * tokens}, Dtype::i32, model_.device()), {count, tokens}, targets};
  }

  Tensor original_logits(const Batch& batch) const {
    NoGrad none;
    return polished_.original_head(model_, Var(batch.targets)).value();
  }
  Var quantized_logits(const Batch& batch) const {
    Var x = model_.embed(batch.ids, batch.sequence);
    for (int64_t b = 0; b < model_.block_count(); ++b) {
      x = model_.block(b).forward(x, batch.sequence);
    }
    return model_.head(x);
  }

  double held_out_loss() const {
    NoGrad none;
    double sum = 0.0;
    for (const int64_t i : held_out_) {
      watch_.poll(doing);
      const Batch batch = batch_of({i});
      const Tensor target = original_logits(batch);
      sum +=
          reconstruction_loss(quantized_logits(batch).value(), {target}, loss_, false).mean.item();
    }
    return sum / static_cast<double>(held_out_.size());
  }

  void train(const std::vector<ParameterGroup>& groups, PolishReport& report) {
    Adam adam(groups);
    SignSgd sign(polished_.codes(settings_));
    const std::map<std::string, Tensor> state = state_of(adam);
    if (hooks_.start) restore(*hooks_.start, state, adam, report);
    const auto per_step = static_cast<size_t>(settings_.batch);
    const auto steps_per_epoch = static_cast<int64_t>((trained_.size() + per_step - 1) / per_step);
    const int64_t total = settings_.polish_epochs * steps_per_epoch;
    const int64_t first_epoch = report.steps / steps_per_epoch + 1;
    for (int64_t epoch = first_epoch; epoch <= settings_.polish_epochs; ++epoch) {
      const std::vector<int64_t> order =
          segment_order(report.trained, settings_.seed, polish_stream, epoch);
      const auto done = static_cast<size_t>(report.steps - (epoch - 1) * steps_per_epoch);
      for (size_t begin = done * per_step; begin < order.size(); begin += per_step) {
        watch_.step(report.steps, total, doing);
        std::vector<int64_t> chosen;
        for (size_t i = begin; i < std::min(order.size(), begin + per_step); ++i) {
          chosen.push_back(trained_[static_cast<size_t>(order[i])]);
        }
        const Batch batch = batch_of(chosen);
        const Tensor target = original_logits(batch);
        Tape tape;
        const Var logits = quantized_logits(batch);
        const LossValue loss = reconstruction_loss(logits.value(), {target}, loss_, true);
        tape.backward(logits, loss.gradient);
        const double factor = cosine_annealing(report.steps, total, settings_.rate_floor);
        adam.step(factor);
        sign.step(factor);
        ++report.steps;
        const bool ends_pass = report.steps % steps_per_epoch == 0 && report.steps < total;
        if (ends_pass || since(saved_) > seconds_between_saves) save(state, report);
      }
    }
    watch_.step(report.steps, total, doing);
  }

  using Clock = std::chrono::steady_clock;
  static double since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }
  double seconds() const { return (hooks_.start ? hooks_.start->seconds : 0.0) + since(start_); }

  /// All that changes from step to step; the tensors themselves, no copies.
  std::map<std::string, Tensor> state_of(Adam& adam) const {
    std::map<std::string, Tensor> state = polished_.variables();
    for (const auto& [name, moment] : adam.state()) state[concat("adam.", name)] = moment;
    return state;
  }
  void save(const std::map<std::string, Tensor>& state, const PolishReport& report) {
    if (hooks_.save) hooks_.save({report.steps, report.before, seconds(), state});
    saved_ = Clock::now();
  }
  void restore(const PolishState& from, const std::map<std::string, Tensor>& state, Adam& adam,
               PolishReport& report) const {
    for (const auto& [name, value] : state) {
      const auto saved = from.tensors.find(name);
      check(saved != from.tensors.end() && saved->second.shape() == value.shape() &&
                saved->second.dtype() == value.dtype(),
            doing, ": the state of the interrupted run has no fitting '", name, "'");
      value.copy_from(saved->second);
    }
    report.steps = from.steps;
    adam.set_steps(from.steps);
  }

  /// A window number that no window has: the order of segments is one of its own.
  static constexpr int64_t polish_stream = (int64_t{1} << 30) - 1;

  Transformer& model_;
  const Segments& segments_;
  const Settings& settings_;
  const Watch& watch_;
  const PolishHooks hooks_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point saved_ = start_;
  PolishedModel polished_;
  Tensor targets_;
  std::vector<int64_t> trained_, held_out_;
  LossConfig loss_;
};

}  // namespace

PolishReport polish(Transformer& model, const Segments& segments, ActivationCache& original,
                    const Settings& settings, const Watch& watch, PolishHooks hooks) {
  return Polish(model, segments, original, settings, watch, std::move(hooks)).run();
}

}  // namespace cbq
