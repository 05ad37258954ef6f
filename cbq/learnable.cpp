#include "cbq/learnable.h"

#include "cbq/stream.h"
#include "quant/quantized_attention.h"
#include "quant/transforms/local/learned_scaling.h"

namespace cbq {
namespace {

/// The weight of one linear.
class LearnedWeight : public Learnable {
 public:
  /// `weight`: of the linear, whose value may be replaced until freeze().
  LearnedWeight(const std::string& path, WeightQuantizer& quantizer, Var weight)
      : name_(path + ".weight_quantizer"), quantizer_(quantizer), weight_(std::move(weight)) {}

  const std::string& name() const override { return name_; }
  std::vector<LearnedGroup> groups() const override { return quantizer_.groups(); }
  void set_hard(bool hard) override { quantizer_.set_hard(hard); }
  void set_regularizer(const RoundingRegularizer& r) override { quantizer_.set_regularizer(r); }
  int64_t regularized_weights() const override { return weight_.value().count(); }
  State snapshot() const override { return quantizer_.snapshot(); }
  void restore(const State& values) override { quantizer_.restore(values); }
  State state() const override {
    State all = quantizer_.snapshot();
    for (auto& value : quantizer_.solution()) all.push_back(std::move(value));
    return all;
  }
  void freeze() override {
    if (!quantizer_.hardened()) quantizer_.harden(weight_.value());
  }

 private:
  std::string name_;
  WeightQuantizer& quantizer_;
  Var weight_;
};

/// The range of one linear's input.
class LearnedInput : public Learnable {
 public:
  LearnedInput(const std::string& path, ActivationQuantizer& quantizer)
      : name_(path + ".activation_quantizer"), quantizer_(quantizer) {}

  const std::string& name() const override { return name_; }
  std::vector<LearnedGroup> groups() const override {
    return {{"activation", quantizer_.variables()}};
  }
  State snapshot() const override { return quantizer_.snapshot(); }
  void restore(const State& values) override { quantizer_.restore(values); }

 private:
  std::string name_;
  ActivationQuantizer& quantizer_;
};

/// Static ranges of a block's attention: nothing that is learned, but a resumed run needs them.
class AttentionRanges : public Learnable {
 public:
  AttentionRanges(const std::string& prefix, QuantizedAttention& attention)
      : name_(attention_path(prefix)), attention_(attention) {}

  const std::string& name() const override { return name_; }
  std::vector<LearnedGroup> groups() const override { return {}; }
  State snapshot() const override { return {}; }
  void restore(const State& values) override { attention_.restore(values); }
  State state() const override { return attention_.state(); }

 private:
  std::string name_;
  QuantizedAttention& attention_;
};

/// The factors of a block's equivalent transformation.
class LearnedFactors : public Learnable {
 public:
  LearnedFactors(const std::string& prefix, BlockTransform& transform)
      : name_(prefix + transform.kind()), transform_(transform) {}

  const std::string& name() const override { return name_; }
  std::vector<LearnedGroup> groups() const override {
    if (transform_.folded()) return {};
    LearnedGroup group{transform_.kind(), {}};
    for (const auto& [name, variable] : transform_.variables()) group.variables.push_back(variable);
    return {group};
  }
  State snapshot() const override { return transform_.snapshot(); }
  void restore(const State& values) override { transform_.restore(values); }
  void freeze() override { transform_.fold(); }

 private:
  std::string name_;
  BlockTransform& transform_;
};

}  // namespace

std::vector<WindowLearnable> learnables_of(Transformer& model, const Window& window) {
  std::vector<WindowLearnable> all;
  int64_t block = -1;
  for (const WindowLinear& l : linears_of(model, window)) {
    if (l.block != block) {
      const Block& entered = model.block(l.block);
      const std::string prefix = model.block_prefix(l.block);
      // Before the weights of its block: these are frozen as the factors leave them.
      if (entered.equivalent) {
        all.push_back({l.block, std::make_unique<LearnedFactors>(prefix, *entered.equivalent)});
      }
      if (QuantizedAttention* attention = entered.attention_quantizers()) {
        all.push_back({l.block, std::make_unique<AttentionRanges>(prefix, *attention)});
      }
      block = l.block;
    }
    QuantizedTransform* q = l.quantizers();
    if (q == nullptr) continue;
    if (q->weight_quantizer) {
      all.push_back({l.block, std::make_unique<LearnedWeight>(l.path, *q->weight_quantizer,
                                                              l.linear->weight)});
    }
    if (q->activation_quantizer) {
      all.push_back({l.block, std::make_unique<LearnedInput>(l.path, *q->activation_quantizer)});
    }
  }
  return all;
}

}  // namespace cbq
