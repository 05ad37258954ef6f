// Everything that decides a quantization run, described once: name, default, help. Command line, configuration
// file, JSON dump and the hash that guards resuming and caching are visitors over visit_settings().
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/activation_quantizer.h"
#include "quant/weight_quantizer.h"

namespace cbq {

struct Settings {
  // What is quantized.
  int wbits = 4;
  int abits = 16;
  bool symmetric = false;
  std::string symmetric_form = "full_range";
  std::string granularity = "per_channel";  // per_tensor, per_channel, per_group
  int64_t group_size = 0;
  std::string scale_search = "squared_error";  // min_max, squared_error
  bool act_symmetric = false;
  std::string act_granularity = "per_token";
  bool act_dynamic = true;
  bool quantize_attention = false;     // operands of the attention products too (at abits)
  std::string layer_bits;              // overrides "pattern=bits,..." on layer names, first match wins
  int fc2_first_last_bits = 0;         // CBQ*: FC2 of the first and last block at these bits; 0: as wbits
  std::string preprocess = "none";     // registered preprocessors, joined by '+'
  // Reconstruction.
  std::string reconstruct = "cbq";     // cbq, or none (grid and nearest rounding only)
  int64_t window = 2;
  int64_t overlap = 1;
  std::string schedule;                // explicit windows; overrides window and overlap
  int64_t epochs = 3;
  int64_t batch = 1;                   // segments per step
  std::string rounding = "signround";
  std::string parameterization = "default";
  std::string start = "default";
  int64_t rank = 5;
  double hard_phase = 1.0;             // last fraction of the steps that round hard
  bool learn_scale = true;
  std::string scale_form = "log";
  bool learn_activation = true;
  std::string rounding_blocks = "window";  // window, overlap
  // Optimizer.
  std::string optimizer = "adam";
  double rate_rounding = 1e-2;
  double rate_scale = 1e-3;
  double rate_activation = 1e-3;
  double rate_floor = 0.0;             // cosine annealing ends at this fraction
  double warmup = 0.0;                 // fraction of the steps
  // Loss.
  double l2_weight = 1.0;
  std::string l2 = "sum";              // sum, mean, norm
  double kl_weight = 1.0;
  bool homologous = false;
  double regularizer = 0.0;            // gamma
  std::string regularizer_reduction = "mean";  // sum, mean
  double regularizer_warmup = 0.2;
  double beta_start = 20.0, beta_end = 2.0;
  // Which parameters a window keeps.
  std::string keep = "best";           // best hard loss at the ends of epochs, or last
  int64_t keep_segments = 0;           // segments that decide; 0: all
  uint64_t seed = 0;
  std::string profile = "tuned";

  /// Derived configurations.
  WeightConfig weight_config(const std::string& layer, bool first_or_last_fc2) const;
  ActivationConfig activation_config() const;
  RoundingConfig rounding_config() const;
};

/// Calls visitor(name, member reference, help) for every member. Names use '-' on the command line, '_' in JSON.
template <class S, class Visitor>
void visit_settings(S& s, Visitor&& visitor);

/// "tuned" (by bits: the winners of docs/experiments.md), "paper_iclr", "paper_v4".
/// Throws with the known names. The result depends on wbits and abits for `tuned`.
Settings profile_settings(const std::string& profile, int wbits, int abits);
std::vector<std::string> profile_names();

nlohmann::json to_json(const Settings& settings);
/// Unknown names and wrong types are errors that list the known names.
void apply_json(Settings& settings, const nlohmann::json& overrides);
/// Throws std::invalid_argument for impossible combinations, naming the option and the remedy.
void validate(const Settings& settings, int64_t blocks);
/// Hex digest of all members that decide the result.
std::string hash_of(const Settings& settings);

}  // namespace cbq
