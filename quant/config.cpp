#include "quant/config.h"

#include "quant/name_table.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr NameTable<Granularity, 5> granularities{{{Granularity::per_tensor, "per_tensor"},
                                                   {Granularity::per_channel, "per_channel"},
                                                   {Granularity::per_group, "per_group"},
                                                   {Granularity::per_token, "per_token"},
                                                   {Granularity::per_cluster, "per_cluster"}}};
constexpr NameTable<SymmetricForm, 2> symmetric_forms{
    {{SymmetricForm::full_range, "full_range"}, {SymmetricForm::restricted, "restricted"}}};
constexpr NameTable<ScaleSearch, 2> scale_searches{
    {{ScaleSearch::min_max, "min_max"}, {ScaleSearch::squared_error, "squared_error"}}};
constexpr NameTable<ScaleType, 4> scale_types{{{ScaleType::f32, "f32"},
                                               {ScaleType::bf16, "bf16"},
                                               {ScaleType::f16, "f16"},
                                               {ScaleType::e5m6, "e5m6"}}};

/// Divisors of n from 16 up, which is what a group size can be: "32, 64, 128".
std::string group_sizes_of(int64_t n) {
  std::string sizes;
  for (int64_t size = 16; size <= n; ++size) {
    if (n % size == 0) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
  }
  return sizes.empty() ? std::to_string(n) : sizes;
}

}  // namespace

std::string name_of(Granularity granularity) { return name_in(granularities, granularity); }
std::string name_of(SymmetricForm form) { return name_in(symmetric_forms, form); }
std::string name_of(ScaleSearch search) { return name_in(scale_searches, search); }
std::string name_of(ScaleType type) { return name_in(scale_types, type); }
Granularity granularity_from_name(const std::string& name) {
  return value_in(granularities, "granularity", name);
}
SymmetricForm symmetric_form_from_name(const std::string& name) {
  return value_in(symmetric_forms, "symmetric form", name);
}
ScaleSearch scale_search_from_name(const std::string& name) {
  return value_in(scale_searches, "scale search", name);
}
ScaleType scale_type_from_name(const std::string& name) {
  return value_in(scale_types, "type of scales", name);
}

std::vector<std::string> symmetric_form_names() { return names_in(symmetric_forms); }
std::vector<std::string> scale_search_names() { return names_in(scale_searches); }
std::vector<std::string> scale_type_names() { return names_in(scale_types); }

void check_weight_config(const WeightConfig& config, const std::string& layer,
                         int64_t in_features) {
  if (!config.quantizes()) return;
  check(config.bits >= 1 && config.bits <= 8, layer, ": weights can have 1 to 8 bits (or ",
        float_bits, " for floating point), not ", config.bits);
  check(!(config.symmetric && config.form == SymmetricForm::restricted && config.bits == 1), layer,
        ": a symmetric 1-bit grid with s = max|w| / (2^(b-1) - 1) divides by zero; use the "
        "full_range form or an asymmetric grid");
  check(config.granularity != Granularity::per_token &&
            config.granularity != Granularity::per_cluster,
        layer, ": ", config.granularity,
        " is for activations; weights take per_tensor, per_channel or per_group");
  if (config.granularity != Granularity::per_group) return;
  check(config.group_size > 0 && in_features % config.group_size == 0, layer, ": group size ",
        config.group_size, " does not divide the ", in_features,
        " inputs; sizes that do: ", [&] { return group_sizes_of(in_features); });
}

void check_activation_config(const ActivationConfig& config, const std::string& layer) {
  if (!config.quantizes()) return;
  check(config.bits >= 1 && config.bits < float_bits, layer, ": activations can have 1 to ",
        float_bits - 1, " bits (or ", float_bits, " for floating point), not ", config.bits);
  check(!(config.symmetric && config.form == SymmetricForm::restricted && config.bits == 1), layer,
        ": a symmetric 1-bit grid with s = max|x| / (2^(b-1) - 1) divides by zero; use the "
        "full_range form or an asymmetric grid");
  const bool per_token = config.granularity == Granularity::per_token;
  check(per_token || config.granularity == Granularity::per_tensor ||
            config.granularity == Granularity::per_cluster,
        layer, ": activations take per_token, per_tensor or per_cluster, not ", config.granularity,
        ": a scale per input channel cannot be taken out of the product");
  check(config.dynamic || !per_token, layer,
        ": a static scale per token does not exist (tokens are not known in advance); static "
        "activations are per_tensor or per_cluster");
  check(
      !config.dynamic || per_token, layer,
      ": a dynamic scale per tensor would change with the batch, and with tokens to come; dynamic "
      "activations are per_token");
}

}  // namespace cbq
