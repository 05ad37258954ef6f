// What a run of `cbq quantize` will do, in a line: before it begins, and once its speed is known.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "cbq/exporters/export_plan.h"

namespace cbq::cli {

/// The grid of a run for which none was chosen: the larger of groups of 128 and 64 that divides
/// the inputs of every linear layer; a scale per channel where neither does.
void choose_default_groups(const ModelConfig& config, Settings& settings);

/// "12 windows, 1,152 steps of 4 segments, 128 calibration segments of 256 tokens; linear layers of
/// 5.3 MB become 0.7 MB (4.25 bits a weight), all else takes 0.1 MB". Bytes are those of codes, f32
/// scales and zero points of one byte, as the format "packed" has them, and of parameters in f32.
std::string plan_text(const ExportPlan& plan, const Settings& settings, int64_t segments,
                      int64_t tokens);

/// Measures steps: after ten of them, how long all will take, and the memory so far.
class StepClock {
 public:
  /// The line, once; none before and after. Called after every step.
  std::optional<std::string> after(int64_t done, int64_t total);

 private:
  std::optional<std::chrono::steady_clock::time_point> begin_;
  int64_t first_ = 0;
  bool told_ = false;
};

}  // namespace cbq::cli
