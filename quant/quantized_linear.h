// What a quantizer plugs into a Linear: weight and activation quantizer together.
#pragma once

#include <memory>
#include <optional>
#include <typeinfo>

#include "nn/linear.h"
#include "quant/activation_quantizer.h"
#include "quant/weight_quantizer.h"

namespace cbq {

class QuantizedTransform : public LinearTransform {
 public:
  /// Either may be absent (W4A16 has no activation quantizer).
  QuantizedTransform(std::unique_ptr<WeightQuantizer> weight,
                     std::unique_ptr<ActivationQuantizer> activation)
      : weight_quantizer(std::move(weight)), activation_quantizer(std::move(activation)) {}

  Var weight(const Var& w) override {
    return weight_quantizer ? weight_quantizer->fake_quant(w) : w;
  }
  Var input(const Var& x) override {
    return activation_quantizer ? activation_quantizer->fake_quant(x) : x;
  }

  /// Null for a derived class, because its input() may do more.
  const FusedInput* fused_input() const override {
    return typeid(*this) == typeid(QuantizedTransform) ? activation_quantizer.get() : nullptr;
  }
  QuantizedTransform* quantizers() override { return this; }

  std::unique_ptr<WeightQuantizer> weight_quantizer;
  std::unique_ptr<ActivationQuantizer> activation_quantizer;
};

}  // namespace cbq
