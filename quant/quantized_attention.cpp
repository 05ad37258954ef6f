#include "quant/quantized_attention.h"

#include "autograd/functions.h"

namespace cbq {
namespace {

ActivationConfig per_token(ActivationConfig config) {
  config.granularity = Granularity::per_token;
  config.dynamic = true;
  return config;
}

void keep_constant(const ActivationQuantizer& quantizer) {
  for (Var v : quantizer.variables()) v.set_requires_grad(false);
}

}  // namespace

QuantizedAttention::QuantizedAttention(const ActivationConfig& config, Device device,
                                       const std::string& prefix)
    : config_(config.granularity == Granularity::per_cluster ? config : per_token(config)),
      device_(device),
      prefix_(prefix),
      per_token_(per_token(config), device, attention_path(prefix)) {
  keep_constant(per_token_);
}

Var QuantizedAttention::operand(const Var& x, int64_t head_dim, AttentionOperand which) {
  if (clustered(which)) return clustered(which)->fake_quant(x);
  // Every token's part of a head is one row of its own.
  return ag::reshape(per_token_.fake_quant(ag::reshape(x, {-1, head_dim})), x.shape());
}

void QuantizedAttention::set_clusters(AttentionOperand which, std::vector<int64_t> sizes) {
  clustered(which) = std::make_unique<ActivationQuantizer>(
      config_, device_, attention_path(prefix_, which), std::move(sizes));
  keep_constant(*clustered(which));
}

void QuantizedAttention::observe(const Tensor& x, AttentionOperand which) {
  if (clustered(which)) clustered(which)->observe(x);
}

int64_t QuantizedAttention::clusters(AttentionOperand which) const {
  return clustered(which) ? static_cast<int64_t>(clustered(which)->clusters().size()) : 0;
}

std::vector<std::pair<std::string, Tensor>> QuantizedAttention::state() const {
  std::vector<std::pair<std::string, Tensor>> values;
  for (const AttentionOperand which : attention_operands) {
    if (!clustered(which)) continue;
    for (const auto& [name, tensor] : clustered(which)->snapshot()) {
      if (name != "clip") values.emplace_back(concat(name_of(which), ".", name), tensor);
    }
  }
  return values;
}

void QuantizedAttention::restore(const std::vector<std::pair<std::string, Tensor>>& values) {
  for (const AttentionOperand which : attention_operands) {
    std::vector<std::pair<std::string, Tensor>> own;
    const std::string prefix = concat(name_of(which), ".");
    for (const auto& [name, tensor] : values) {
      if (name.starts_with(prefix)) own.emplace_back(name.substr(prefix.size()), tensor);
    }
    if (own.empty()) continue;
    if (!clustered(which)) set_clusters(which, {});
    clustered(which)->restore(own);
  }
}

}  // namespace cbq
