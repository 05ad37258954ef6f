// What settings may be: values that are known, and combinations that make sense.
#include <algorithm>
#include <cmath>

#include "cbq/global_transforms.h"
#include "cbq/layer_bits.h"
#include "cbq/setting_choices.h"
#include "cbq/setting_values.h"
#include "cbq/settings.h"
#include "quant/grid_scheme.h"
#include "quant/rounding.h"
#include "quant/solvers/solver.h"
#include "quant/transforms/local/preprocessor.h"

namespace cbq {
namespace {

void expect_one_of(const char* option, const std::string& value,
                   const std::vector<std::string>& known) {
  std::string list;
  for (const std::string& name : known) {
    if (name == value) return;
    list += (list.empty() ? "" : ", ") + name;
  }
  throw std::invalid_argument(message_of(option, ": unknown '", value, "'; known: ", list));
}

void expect_at_least(const char* option, double value, double low) {
  check(std::isfinite(value) && value >= low, option, ": ", value, "; expected at least ", low);
}

void expect_fraction(const char* option, double value) {
  check(value >= 0.0 && value <= 1.0, option, ": ", value, "; expected a fraction from 0 to 1");
}

void expect_bits(const char* option, int bits) {
  check((bits >= 1 && bits <= 8) || bits == float_bits, option, ": ", bits,
        "; expected 1 to 8, or ", float_bits, " for floating point");
}

/// Every setting whose values are listed has one of them.
void validate_listed(const Settings& settings) {
  visit_settings(settings, [](const char* name, const auto& value, const char*) {
    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string>) {
      const std::vector<std::string> known = values_of(name);
      if (!known.empty()) expect_one_of(name, value, known);
    }
  });
}

void validate_weights(const Settings& s) {
  expect_bits("wbits", s.wbits);
  if (s.fc2_first_last_bits != 0) expect_bits("fc2_first_last_bits", s.fc2_first_last_bits);
  check(s.granularity != "per_group" || s.group_size >= 1, "group_size: ", s.group_size,
        " with granularity per_group; give the inputs per group, as in 128");
  check(s.granularity == "per_group" || s.group_size == 0, "group_size: ", s.group_size,
        " without effect; set granularity to per_group, or leave the group size out");
  int lowest = s.fc2_first_last_bits > 0 ? std::min(s.wbits, s.fc2_first_last_bits) : s.wbits;
  for (const LayerBits& entry : parse_layer_bits(s.layer_bits)) {
    lowest = std::min(lowest, entry.bits);
  }
  check(!(s.symmetric && s.symmetric_form == "restricted" && lowest == 1),
        "symmetric_form: restricted has no grid at 1 bit (its scale would divide by 2^0 - 1 = 0); "
        "use full_range");
}

void validate_preprocess(const Settings& s) {
  try {
    parse_preprocessors(s.preprocess);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(message_of("preprocess: ", error.what()));
  }
}

void validate_clusters(const Settings& s) {
  if (s.act_granularity != "per_cluster" || s.abits == float_bits) return;
  const auto stages = parse_preprocessors(s.preprocess);
  check(std::any_of(stages.begin(), stages.end(),
                    [](const auto& stage) { return stage->makes_clusters(); }),
        "act_granularity: per_cluster needs clusters of channels; add reorder to preprocess, or "
        "take per_tensor");
}

void validate_solver(const Settings& s) {
  if (s.solver == "none") return;
  std::vector<std::string> known = solvers().names();
  known.insert(known.begin(), "none");
  const std::string name = s.solver.substr(0, s.solver.find(':'));
  expect_one_of("solver", name, known);
  check(name != "none", "solver: 'none' takes no arguments, got '", s.solver, "'");
  parse_solver(s.solver);
}

void validate_activations(const Settings& s) {
  expect_bits("abits", s.abits);
  check(s.act_dynamic || s.act_granularity != "per_token",
        "act_dynamic: false needs act_granularity per_tensor or per_cluster (tokens to come have "
        "no calibrated ranges of their own)");
  check(!s.act_dynamic || s.act_granularity == "per_token",
        "act_dynamic: true needs act_granularity per_token (a range of all tokens at hand would "
        "change with the batch, and a token would depend on those behind it); leave act_dynamic "
        "out, or set it to false");
  check(!s.act_symmetric || s.act_symmetric_form != "restricted" || s.abits > 1,
        "act_symmetric_form: restricted has no grid at 1 bit (its scale would divide by 2^0 - 1 = "
        "0); use 2 bits or more, full_range, or act_symmetric off");
  check(!s.quantize_attention || s.abits < float_bits, "quantize_attention: needs abits below ",
        float_bits, ", got ", s.abits);
}

void validate_reconstruction(const Settings& s) {
  check(!s.learn_zero_point || !s.symmetric,
        "learn_zero_point: the zero point of a symmetric grid is its middle code; leave "
        "learn_zero_point or symmetric out");
  check(s.polish_epochs >= 0, "polish_epochs: ", s.polish_epochs, "; expected at least 0");
  expect_at_least("rate_polish", s.rate_polish, 0.0);
  expect_at_least("rate_polish_codes", s.rate_polish_codes, 0.0);
  expect_at_least("rate_polish_norm", s.rate_polish_norm, 0.0);
  check(s.epochs >= 0, "epochs: ", s.epochs, "; expected at least 0");
  check(s.batch >= 1, "batch: ", s.batch, " segments per step; expected at least 1");
  check(s.rank >= 1, "rank: ", s.rank, "; expected at least 1");
  check(s.keep_segments >= 0, "keep_segments: ", s.keep_segments,
        "; expected at least 0 (0: all segments)");
  expect_fraction("hard_phase", s.hard_phase);
  expect_fraction("rate_floor", s.rate_floor);
  expect_fraction("warmup", s.warmup);
  expect_fraction("regularizer_warmup", s.regularizer_warmup);
  expect_at_least("rate_rounding", s.rate_rounding, 0.0);
  expect_at_least("rate_scale", s.rate_scale, 0.0);
  expect_at_least("rate_clip", s.rate_clip, 0.0);
  expect_at_least("rate_zero_point", s.rate_zero_point, 0.0);
  expect_at_least("rate_activation", s.rate_activation, 0.0);
  expect_at_least("rate_let", s.rate_let, 0.0);
  expect_at_least("l2_weight", s.l2_weight, 0.0);
  expect_at_least("kl_weight", s.kl_weight, 0.0);
  expect_at_least("regularizer", s.regularizer, 0.0);
  expect_at_least("beta_start", s.beta_start, 1.0);
  expect_at_least("beta_end", s.beta_end, 1.0);
  check(s.l2_weight + s.kl_weight > 0.0, "l2_weight and kl_weight: both 0 leave no loss; set one");
}

/// Factors that are learned change the weights and the inputs of linear layers at every step.
void validate_learned_factors(const Settings& s) {
  if (!s.reconstructs()) return;
  for (const auto& stage : parse_preprocessors(s.preprocess)) {
    if (!stage->leaves_factors()) continue;
    const std::string who = concat("preprocess: '", stage->name(), "' learns factors, ");
    std::string able;
    for (const std::string& name : grid_schemes().names()) {
      if (grid_schemes().make(name)->follows_weight()) able += (able.empty() ? "" : ", ") + name;
    }
    check(s.wbits == float_bits || grid_schemes().make(s.grid)->follows_weight(), who, "and grid '",
          s.grid, "' does not follow a weight that changes; set grid to ", able);
    check(s.wbits == float_bits || rounding_schemes().make(s.rounding)->gives_weight_gradient(),
          who, "and rounding '", s.rounding,
          "' gives no gradient of the weight; set rounding to nearest");
    check(!s.solves(), who, "and solver '", s.solver,
          "' would fix the weights; leave the solver out, or set reconstruct to none");
    check(s.act_dynamic || s.abits == float_bits, who,
          "and static ranges of activations would not follow; set act_granularity to per_token");
  }
}

}  // namespace

void check_layer_bits(const Settings& settings, const std::vector<std::string>& layers) {
  for (const LayerBits& entry : parse_layer_bits(settings.layer_bits)) {
    const bool found = std::any_of(layers.begin(), layers.end(), [&](const std::string& layer) {
      return layer_matches(entry.pattern, layer);
    });
    check(found, "layer_bits: '", entry.pattern,
          "' matches no linear layer of the model; they are ",
          layers.empty() ? "none" : layers.front(), " ... ", layers.empty() ? "" : layers.back());
  }
}

void validate_values(const Settings& settings) {
  validate_listed(settings);
  online_kinds(settings);
  validate_weights(settings);
  validate_activations(settings);
  validate_preprocess(settings);
  validate_clusters(settings);
  validate_solver(settings);
  validate_reconstruction(settings);
  validate_learned_factors(settings);
  // An explicit schedule is of one model; this is what can be said without it.
  if (settings.schedule.empty()) sliding_windows(1, settings.window, settings.overlap);
  if (widest_of_schedule(settings.schedule)) schedule_of(settings, 1);
  check(rounding_blocks_from_name(settings.rounding_blocks) == RoundingBlocks::window ||
            !settings.schedule.empty() || settings.overlap >= 1,
        "rounding_blocks: overlap with an overlap of 0 would learn no rounding; set overlap to 1 "
        "or more, or rounding_blocks to window");
}

void validate(const Settings& settings, int64_t blocks) {
  validate_values(settings);
  schedule_of(settings, blocks);
}

}  // namespace cbq
