#include "cbq/method_fit.h"

#include <fmt/format.h>

#include <algorithm>

#include "cbq/global_transforms.h"
#include "nn/transformer.h"
#include "tensor/error.h"
#include "tensor/runtime/shapes_only.h"

namespace cbq {
namespace {

constexpr int64_t polish_bytes_per_weight = 26, polish_bytes_per_parameter = 8,
                  polish_bytes_per_logit = 16, most_tokens = 2048;

std::string gigabytes(int64_t bytes) {
  return fmt::format("{:.1f} GB", static_cast<double>(bytes) / 1e9);
}

/// A model without memory: its shapes and the names of its parts.
std::unique_ptr<Transformer> shapes_of(const ModelConfig& config) {
  auto model = make_without_blocks(config, Dtype::f32, Device::cpu());
  model->open_blocks(config.num_layers, nullptr);
  return model;
}

std::string transform_obstacle(const Settings& settings, const ModelConfig& config) {
  const auto transforms = global_transforms_of(settings);
  if (transforms.empty()) return "";
  const ShapesOnly without_memory;
  const auto model = shapes_of(config);
  for (const auto& transform : transforms) {
    if (std::string reason = transform->obstacle(*model); !reason.empty()) return reason;
  }
  return "";
}

}  // namespace

int64_t polish_bytes(const ModelConfig& config) {
  const ShapesOnly without_memory;
  const auto model = shapes_of(config);
  int64_t weights = 0, others = 0;
  const auto add_to = [](int64_t& sum) -> ParameterVisitor {
    return [&sum](const std::string&, Var& p) { sum += p.value().count(); };
  };
  model->visit_embedding("", add_to(others));
  model->visit_head("", add_to(others));
  for (int64_t b = 0; b < model->block_count(); ++b) {
    const auto block = model->make_block_at(b);
    for (const NamedLinear& l : block->linears()) {
      weights += l.linear->in_features() * l.linear->out_features();
    }
  }
  const int64_t tokens = std::min(config.context(), most_tokens);
  return polish_bytes_per_weight * weights + polish_bytes_per_parameter * others +
         polish_bytes_per_logit * tokens * config.vocab_size;
}

std::optional<SettingObstacle> setting_obstacle(const Settings& settings, const ModelConfig& config,
                                                const RunPlace& place) {
  if (!settings.quantizes()) return std::nullopt;
  for (const char* name : {"transform", "rotation"}) {
    Settings only = settings;
    (std::string(name) == "rotation" ? only.transform : only.rotation) = "none";
    if (std::string reason = transform_obstacle(only, config); !reason.empty()) {
      return SettingObstacle{name, reason};
    }
  }
  if (!settings.polishes()) return std::nullopt;
  if (settings.rate_polish_norm > 0.0 && place.dtype != Dtype::f32) {
    return SettingObstacle{"rate_polish_norm", concat("norms are learned in f32, and the model is ",
                                                      "in ", place.dtype, " (--dtype f32)")};
  }
  const int64_t needed = polish_bytes(config);
  if (place.memory_bytes > 0 && needed > place.memory_bytes / 4 * 3) {
    return SettingObstacle{"polish_epochs", concat("the last stage takes about ", gigabytes(needed),
                                                   " of memory, more than three quarters of ",
                                                   gigabytes(place.memory_bytes))};
  }
  return std::nullopt;
}

FittedMethod fit_method(const MethodFile& method, int wbits, int abits,
                        const SettingChanges& changes, const FindObstacle& find_obstacle) {
  const auto changed = [&](const MethodFile& chosen) {
    Settings settings = chosen.at(wbits, abits);
    changes.apply(settings);
    return settings;
  };
  FittedMethod fitted{changed(method), ""};
  if (method.otherwise.empty() || !find_obstacle) return fitted;
  const std::optional<SettingObstacle> found = find_obstacle(fitted.settings);
  if (!found || changes.names(found->setting)) return fitted;
  fitted.note =
      concat("method ", method.otherwise, " in place of ", method.name, ": ", found->reason);
  fitted.settings = changed(find_method(method.otherwise));
  fitted.settings.method = method.otherwise;
  return fitted;
}

}  // namespace cbq
