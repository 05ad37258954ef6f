// What a method is made of, for tables and for readers: derived from its settings and from the
// registered parts, so that a new file of a method needs no line here.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cbq/methods.h"

namespace cbq {

/// Bits at which a method is shown where none are asked for: W4A4 if it serves them, else W4A16,
/// else the first that it serves.
std::pair<int, int> example_bits(const MethodFile& method);

/// The part that settings take for each slot, in words: {"transform", "smoothquant:0.5"}, ...;
/// "-" where there is none.
std::vector<std::pair<std::string, std::string>> parts_of(const Settings& settings);

/// A setting that the run at hand reads, beside its default.
struct SlotSetting {
  SettingSlot slot;
  std::string name;
  nlohmann::json value, standard;
};
/// In the order of the slots. Left out: the label, and what only reconstruction reads where there
/// is none.
std::vector<SlotSetting> slot_settings(const Settings& settings);

/// The marks of the paper's table of components (ICLR table 4; arXiv v4 table 8, v1 table 8), in
/// its order and under the names of its columns.
///   quantize_weight, quantize_activation: bits below 16 that the method serves
///   gradient_based: something is reconstructed
///   cross_block_dependency: some block belongs to more than one window
///   weight_outlier_handling: a transform, or a stage of the pre-processing, is for weights
///   activation_outlier_handling: a transform, as rotation, or a stage is for activations
///   rounding_error_handling: the rounding is learned (so in the paper's sense, which gives GPTQ,
///     whose solver makes up for rounding errors, no mark)
std::vector<std::pair<std::string, bool>> components_of(const MethodFile& method);

}  // namespace cbq
