// Everything that decides a quantization run, described once: name, default, help. Command line,
// configuration file, JSON dump and the hash that guards resuming and caching are visitors over
// visit_settings().
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cbq/window.h"
#include "quant/activation_quantizer.h"
#include "quant/weight_quantizer.h"

namespace cbq {

struct Settings {
  std::string method = "cbq";  // where the values came from; decides nothing by itself
  // What is quantized.
  int wbits = 4;
  int abits = 16;
  bool symmetric = false;
  std::string symmetric_form = "full_range";
  std::string granularity = "per_channel";
  int64_t group_size = 0;
  std::string scale_search = "squared_error";
  std::string scale_type = "f32";
  bool act_symmetric = false;
  std::string act_symmetric_form = "restricted";
  std::string act_granularity = "per_token";
  bool act_dynamic = true;
  bool quantize_attention = false;
  std::string layer_bits;
  int fc2_first_last_bits = 0;
  std::string transform = "none";
  std::string rotation = "none";
  uint64_t rotation_seed = 0;
  std::string preprocess = "none";
  std::string solver = "none";
  // Reconstruction.
  std::string reconstruct = "cbq";
  int64_t window = 2;
  int64_t overlap = 1;
  std::string schedule;
  int64_t epochs = 3;
  int64_t batch = 1;
  std::string rounding = "signround";
  std::string parameterization = "default";
  std::string start = "default";
  int64_t rank = 5;
  double hard_phase = 1.0;
  std::string grid = "log";
  bool learn_zero_point = false;
  bool learn_activation = true;
  std::string rounding_blocks = "window";
  // Optimizer.
  std::string optimizer = "adam";
  double rate_rounding = 0.0;
  double rate_scale = 1e-3;
  double rate_clip = 1e-2;
  double rate_zero_point = 1e-2;
  double rate_activation = 1e-3;
  double rate_let = 5e-3;
  double rate_floor = 0.0;
  double warmup = 0.0;
  // Loss.
  double l2_weight = 1.0;
  std::string l2 = "sum";
  double kl_weight = 1.0;
  bool homologous = false;
  double regularizer = 0.0;
  std::string regularizer_reduction = "mean";
  double regularizer_warmup = 0.2;
  double beta_start = 20.0;
  double beta_end = 2.0;
  // The last stage, over the whole model.
  int64_t polish_epochs = 0;
  double rate_polish = 1e-3;
  double rate_polish_codes = 0.0;
  double rate_polish_norm = 0.0;
  // Which parameters a window keeps.
  std::string keep = "best";
  int64_t keep_segments = 0;
  uint64_t seed = 0;

  /// Grid of the layer with this checkpoint path ("model.layers.0.mlp.down_proj"). Bits: the first
  /// match in layer_bits, else fc2_first_last_bits where asked for, else wbits.
  WeightConfig weight_config(const std::string& layer, bool first_or_last_fc2) const;
  ActivationConfig activation_config() const;
  /// False when every layer stays in floating point.
  bool quantizes() const {
    return wbits < float_bits || abits < float_bits || !layer_bits.empty() ||
           fc2_first_last_bits > 0;
  }
  /// Whether anything is learned window by window.
  bool reconstructs() const;
  /// Whether a solver runs on the weights.
  bool solves() const {
    return solver != "none" &&
           (wbits < float_bits || !layer_bits.empty() || fc2_first_last_bits > 0);
  }
  /// Whether there is a last stage over the whole model.
  bool polishes() const { return polish_epochs > 0 && quantizes(); }
  RoundingConfig rounding_config() const;
  /// rate_rounding, or where that is 0 the rounding scheme's default_rate(): their variables mean
  /// different things, so that one rate cannot serve two schemes.
  double rounding_rate() const;
  /// Learning rate of the variables that name it `rate` (LearnedGroup): the setting rate_<rate>.
  /// Throws std::logic_error where there is none.
  double rate_of(const std::string& rate) const;
  /// Whether variables with this rate are learned at all.
  bool learns(const std::string& rate) const { return rate != "activation" || learn_activation; }
};

/// Which part of a run reads a setting. A setting has no effect when that part does not run.
enum class SettingStage {
  label,           // by nobody: it says where values came from
  bits,            // how wide integers are: whether anything is quantized at all
  grid,            // everything that is quantized
  model,           // how the whole model is rewritten before anything else sees it
  preprocessing,   // what is done to the model before
  reconstruction,  // what is learned: without reconstruction nobody reads it
  polish,          // what is learned last, over the whole model
  random,          // transforms, pre-processing, reconstruction and polish
};

/// Which part of a method a setting belongs to; every setting of a slot chooses or tunes its part.
enum class SettingSlot {
  label,      // none: where values came from
  bits,       // how wide integers are, and in which layers
  grid,       // of weights and activations, and what is learned of it
  transform,  // what is done to the model before it is quantized
  solver,     // codes without gradients
  windows,    // what is reconstructed together, and how long
  rounding,   // what is learned of the rounding
  optimizer,
  rates,
  loss,
  polish,  // the last stage, over the whole model
  kept,    // which parameters a window keeps
  seed,
};
const char* name_of(SettingSlot slot);

/// Calls visit(name, member reference, help, stage, slot) for every member. Names use '-' on the
/// command line, '_' in JSON.
template <class S, class Visit>
void visit_slotted_settings(S& s, Visit&& visit) {
  using enum SettingStage;
  SettingSlot slot = SettingSlot::label;
  const auto visitor = [&](const char* name, auto& member, const char* help, SettingStage stage) {
    visit(name, member, help, stage, slot);
  };
  // clang-format off
  visitor("method", s.method, "published method that the other settings start from: a name (cbq methods lists them), or a file PATH.json", label);
  slot = SettingSlot::bits;
  visitor("wbits", s.wbits, "bits of the weights; 16 leaves them in floating point", bits);
  visitor("abits", s.abits, "bits of the inputs of linear layers; 16 leaves them in floating point", bits);
  slot = SettingSlot::grid;
  visitor("symmetric", s.symmetric, "symmetric weight grid (zero point in the middle)", grid);
  visitor("symmetric_form", s.symmetric_form, "full_range: all 2^b codes; restricted: max|w| on the grid", grid);
  visitor("granularity", s.granularity, "weights that share a scale: per_tensor, per_channel, per_group, or g128 for groups of 128", grid);
  visitor("group_size", s.group_size, "inputs per group (64, 128); alone it means granularity per_group", grid);
  visitor("scale_search", s.scale_search, "start of the scale: min_max, squared_error", grid);
  visitor("scale_type", s.scale_type, "type that holds the scales of weights, which are rounded to it from the start: f32, bf16, f16 (as GPTQ and GGUF store them), e5m6 (f16 with 7 significant bits, whose products with 4-bit zero points are f16, too)", grid);
  visitor("act_symmetric", s.act_symmetric, "symmetric activation grid", grid);
  visitor("act_symmetric_form", s.act_symmetric_form, "of act_symmetric; full_range: all 2^b codes (as compressed-tensors has it); restricted: max|x| on the grid", grid);
  visitor("act_granularity", s.act_granularity, "activations that share a scale: per_token (dynamic), per_tensor (static), per_cluster (static, of the clusters of channels that pre-processing reorder makes)", grid);
  visitor("act_dynamic", s.act_dynamic, "activation ranges from the token at hand; false: from calibration, as per_tensor and per_cluster need", grid);
  visitor("quantize_attention", s.quantize_attention, "queries, keys and values at abits too, per token and head (where pre-processing has made clusters of them, and with act_granularity per_cluster, static)", grid);
  slot = SettingSlot::bits;
  visitor("layer_bits", s.layer_bits, "bits by layer name, 'down_proj=4,*.0.self_attn.*=8'; first match wins", bits);
  visitor("fc2_first_last_bits", s.fc2_first_last_bits, "bits of FC2 in the first and last block (CBQ*: 4); 0: wbits", bits);
  slot = SettingSlot::transform;
  visitor("transform", s.transform, "transforms of the whole model before its rotation, NAME or NAME:VARIANT, joined by '+'; none", model);
  visitor("rotation", s.rotation, "rotation of the whole model before everything that follows: none, or parts joined by '_': r1 (residual stream) or block64 (the same in blocks of 64 channels), r2 (values of each head), r3 (queries and keys, online; needs quantize_attention), r4 (online, before the last feed-forward layer)", model);
  visitor("rotation_seed", s.rotation_seed, "of the rotation's random signs", model);
  visitor("preprocess", s.preprocess, "transformations before quantization, joined by '+'; none", preprocessing);
  slot = SettingSlot::solver;
  visitor("solver", s.solver, "finds a layer's codes from X^T X of its inputs before anything is learned, arguments as in gptq:damping=0.05,act_order,block=128", grid);
  slot = SettingSlot::windows;
  visitor("reconstruct", s.reconstruct, "cbq: cross-block reconstruction; none: nothing is learned (nearest rounding, or the solver's codes)", reconstruction);
  visitor("window", s.window, "blocks reconstructed together", reconstruction);
  visitor("overlap", s.overlap, "blocks that consecutive windows share", reconstruction);
  visitor("schedule", s.schedule, "explicit windows '0,0-1,1-2' instead of window and overlap; or widening:4, from 1 to 4 blocks at the first ones and back at the last, windows one block apart between", reconstruction);
  visitor("epochs", s.epochs, "passes over the calibration segments per window", reconstruction);
  visitor("batch", s.batch, "segments per step", reconstruction);
  slot = SettingSlot::rounding;
  visitor("rounding", s.rounding, "rounding scheme", reconstruction);
  visitor("parameterization", s.parameterization, "rounding variables: default (the scheme's own), none, dense, low_rank", reconstruction);
  visitor("start", s.start, "start of the rounding: default (the scheme's own), fraction, nearest, zero", reconstruction);
  visitor("rank", s.rank, "rank of low-rank rounding variables", reconstruction);
  visitor("hard_phase", s.hard_phase, "last fraction of the steps whose forward pass rounds hard", reconstruction);
  slot = SettingSlot::grid;
  visitor("grid", s.grid, "what is learned of a weight's grid, and how: log, relative, raw (of the scale), clip (the ends of the range), fixed (nothing)", reconstruction);
  visitor("learn_zero_point", s.learn_zero_point, "learn an offset of the zero points, too", reconstruction);
  visitor("learn_activation", s.learn_activation, "learn the clip ratio or scale of activations", reconstruction);
  slot = SettingSlot::rounding;
  visitor("rounding_blocks", s.rounding_blocks, "blocks whose rounding is learned: window, overlap (its last ones)", reconstruction);
  slot = SettingSlot::optimizer;
  visitor("optimizer", s.optimizer, "adam, signsgd", reconstruction);
  slot = SettingSlot::rates;
  visitor("rate_rounding", s.rate_rounding, "learning rate of rounding variables; 0: what tuning found for the scheme", reconstruction);
  visitor("rate_scale", s.rate_scale, "learning rate of weight scales", reconstruction);
  visitor("rate_clip", s.rate_clip, "learning rate of the logits of grid clip", reconstruction);
  visitor("rate_zero_point", s.rate_zero_point, "learning rate of learned zero points, in codes", reconstruction);
  visitor("rate_activation", s.rate_activation, "learning rate of activation scales", reconstruction);
  visitor("rate_let", s.rate_let, "learning rate of the factors that pre-processing let leaves", reconstruction);
  visitor("rate_floor", s.rate_floor, "cosine annealing ends at this fraction of the rates", reconstruction);
  visitor("warmup", s.warmup, "fraction of the steps over which the rates rise", reconstruction);
  slot = SettingSlot::loss;
  visitor("l2_weight", s.l2_weight, "weight of the squared error", reconstruction);
  visitor("l2", s.l2, "squared error per token: sum or mean over the hidden dimension, its norm, or relative to the token's square", reconstruction);
  visitor("kl_weight", s.kl_weight, "weight of KL(softmax(original) || softmax(quantized))", reconstruction);
  visitor("homologous", s.homologous, "mean with the error against original blocks fed with the quantized stream", reconstruction);
  visitor("regularizer", s.regularizer, "gamma: weight of the rounding regularizer", reconstruction);
  visitor("regularizer_reduction", s.regularizer_reduction, "regularizer as sum or mean over the weights of the window", reconstruction);
  visitor("regularizer_warmup", s.regularizer_warmup, "fraction of the steps without regularizer", reconstruction);
  visitor("beta_start", s.beta_start, "regularizer's exponent after the warm-up", reconstruction);
  visitor("beta_end", s.beta_end, "regularizer's exponent at the end", reconstruction);
  slot = SettingSlot::polish;
  visitor("polish_epochs", s.polish_epochs, "passes of the last stage, in which the whole model learns the original's predictions by its scales and clip ratios; 0: none", polish);
  visitor("rate_polish", s.rate_polish, "learning rate of weight scales in the last stage", polish);
  visitor("rate_polish_codes", s.rate_polish_codes, "learning rate of the codes in the last stage, in codes; 0: they stay", polish);
  visitor("rate_polish_norm", s.rate_polish_norm, "learning rate of the norms' parameters in the last stage, in units of their root mean square; 0: they stay", polish);
  slot = SettingSlot::kept;
  visitor("keep", s.keep, "parameters a window keeps: best (hard loss at the ends of epochs), last", reconstruction);
  visitor("keep_segments", s.keep_segments, "segments that decide what is best; 0: all", reconstruction);
  slot = SettingSlot::seed;
  visitor("seed", s.seed, "of everything random", random);
  // clang-format on
}

/// The same without slots: visitor(name, member reference, help, stage).
template <class S, class Visitor>
void visit_staged_settings(S& s, Visitor&& visitor) {
  visit_slotted_settings(
      s, [&](const char* name, auto& member, const char* help, SettingStage stage, SettingSlot) {
        visitor(name, member, help, stage);
      });
}

/// The same without stages: visitor(name, member reference, help).
template <class S, class Visitor>
void visit_settings(S& s, Visitor&& visitor) {
  visit_staged_settings(s, [&](const char* name, auto& member, const char* help, SettingStage) {
    visitor(name, member, help);
  });
}

/// Which weights share a scale, as it is written everywhere: "per_channel", "per_tensor" and
/// "per_group" (also with '-'), and "g128" for groups of 128 inputs.
struct WeightGranularity {
  std::string name;        // of Settings::granularity
  int64_t group_size = 0;  // of "g128", else 0
};
/// The words for `name`.
const std::vector<std::string>& weight_granularity_names();
/// Throws std::invalid_argument with the known words.
WeightGranularity weight_granularity_from_word(const std::string& word);

nlohmann::json to_json(const Settings& settings);
/// Overwrites the members that `overrides` names. One word is enough where another one follows from
/// it: a group size means per_group, another granularity means no group size, per_tensor
/// and per_cluster activations mean act_dynamic false, per_token ones true. Throws
/// std::invalid_argument for an unknown name (with the known ones) or a wrong type.
void apply_json(Settings& settings, const nlohmann::json& overrides);
/// Throws std::invalid_argument for impossible values and combinations, naming the option and the
/// remedy. `blocks`: of the model, for the schedule.
void validate(const Settings& settings, int64_t blocks);
/// The same as far as no model is needed: all but an explicit schedule.
void validate_values(const Settings& settings);
/// Throws std::invalid_argument, with a few of the names, if an entry of layer_bits matches none of
/// `layers` (checkpoint paths of all linears): bits that were asked for would silently not be
/// there.
void check_layer_bits(const Settings& settings, const std::vector<std::string>& layers);
/// 32 hexadecimal digits over all members that decide the result (all but the method's name).
std::string hash_of(const Settings& settings);

/// The settings' schedule for a model of this many blocks.
std::vector<ScheduledWindow> schedule_of(const Settings& settings, int64_t blocks);

/// `settings` with everything taken out that does not change the result for a model of `blocks`
/// blocks: windows become a schedule (window 8 overlap 0 and window 4 overlap 0 are one schedule of
/// 4 blocks), and settings of stages that do not happen have their defaults. For comparing, not for
/// running.
Settings canonical(const Settings& settings, int64_t blocks);

}  // namespace cbq
