#include "tools/cli/run_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "cbq/settings.h"
#include "experiments/progress.h"
#include "nn/transformer.h"
#include "tensor/runtime/device_memory.h"
#include "tensor/runtime/shapes_only.h"

namespace cbq::cli {
namespace {

constexpr int64_t timed_steps = 10;

/// 1234567 -> "1,234,567".
std::string with_commas(int64_t n) {
  std::string text = std::to_string(n);
  for (auto at = static_cast<int64_t>(text.size()) - 3; at > 0; at -= 3) {
    text.insert(static_cast<size_t>(at), ",");
  }
  return text;
}

std::string megabytes(double bytes) {
  return bytes < 1e9 ? fmt::format("{:.1f} MB", bytes / 1e6)
                     : fmt::format("{:.2f} GB", bytes / 1e9);
}

struct Sizes {
  double weights = 0.0;  // of linear layers
  double bytes = 0.0;    // that they take in the result
  double others = 0.0;   // elements of all other parameters
};

double groups_of(const PlannedLayer& layer) {
  const auto out = static_cast<double>(layer.out), in = static_cast<double>(layer.in);
  if (layer.weight.granularity == Granularity::per_tensor) return 1.0;
  return layer.weight.group_size > 0 ? out * in / static_cast<double>(layer.weight.group_size)
                                     : out;
}

Sizes sizes_of(const ExportPlan& plan) {
  Sizes sizes;
  for (const PlannedLayer& layer : plan.layers) {
    const double weights = static_cast<double>(layer.out) * static_cast<double>(layer.in);
    sizes.weights += weights;
    sizes.bytes += layer.weight.quantizes() ? weights * layer.weight.bits / 8 + 5 * groups_of(layer)
                                            : weights * 4;
  }
  const ShapesOnly without_memory;
  const auto model = make_without_blocks(plan.model, Dtype::f32, Device::cpu());
  const ParameterVisitor add = [&](const std::string&, Var& p) {
    sizes.others += static_cast<double>(p.value().count());
  };
  model->visit_embedding("", add);
  model->visit_head("", add);
  model->open_blocks(plan.model.num_layers, nullptr);
  for (int64_t b = 0; b < model->block_count(); ++b) {
    const auto block = model->make_block_at(b);
    block->visit("", add);
    for (const NamedLinear& l : block->linears()) {
      sizes.others -= static_cast<double>(l.linear->in_features() * l.linear->out_features());
    }
  }
  return sizes;
}

}  // namespace

void choose_default_groups(const ModelConfig& config, Settings& settings) {
  const ExportPlan plan = export_plan(config, settings);
  for (const int64_t group : {128, 64}) {
    if (plan.first_layer([&](const PlannedLayer& l) { return l.in % group != 0; })) continue;
    settings.granularity = "per_group";
    settings.group_size = group;
    return;
  }
}

std::string plan_text(const ExportPlan& plan, const Settings& settings, int64_t segments,
                      int64_t tokens) {
  std::string text;
  if (settings.reconstructs()) {
    const auto windows = static_cast<int64_t>(schedule_of(settings, plan.model.num_layers).size());
    const int64_t steps =
        windows * settings.epochs * ((segments + settings.batch - 1) / settings.batch);
    text =
        fmt::format("{} windows, {} steps of {} segments, {} calibration segments of {} tokens; ",
                    windows, with_commas(steps), settings.batch, segments, tokens);
  }
  const Sizes sizes = sizes_of(plan);
  return text + fmt::format(
                    "linear layers of {} become {} ({:.2f} bits a weight), all else takes {} or "
                    "half of that",
                    megabytes(4 * sizes.weights), megabytes(sizes.bytes),
                    8 * sizes.bytes / std::max(sizes.weights, 1.0), megabytes(4 * sizes.others));
}

std::optional<std::string> StepClock::after(int64_t done, int64_t total) {
  const auto now = std::chrono::steady_clock::now();
  if (!begin_ || done < first_) {
    begin_ = now;
    first_ = done;
  }
  if (told_ || done - first_ < timed_steps) return std::nullopt;
  told_ = true;
  const double each =
      std::chrono::duration<double>(now - *begin_).count() / static_cast<double>(done - first_);
  return fmt::format(
      "after {} steps: {:.3g} s a step, about {} for the {} that are left; {} of "
      "memory so far",
      done - first_, each, duration_text(each * static_cast<double>(total - done)),
      with_commas(total - done), megabytes(static_cast<double>(peak_resident_bytes())));
}

}  // namespace cbq::cli
