// Whether a model and a machine can take a method, and which method runs where they cannot.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "cbq/methods.h"
#include "nn/config.h"
#include "tensor/dtype.h"

namespace cbq {

/// What a run has to do with.
struct RunPlace {
  Dtype dtype = Dtype::f32;  // that the model computes in
  int64_t memory_bytes = 0;  // that it can have (memory_limit); 0: not known
};

/// A setting that the run cannot have, and why, in half a sentence.
struct SettingObstacle {
  std::string setting, reason;
};

/// Memory of the last stage, about: 26 bytes per weight of the linear layers (weights, codes that
/// are learned, their gradients, activations; SmolLM2-135M with segments of 256 tokens: 3.1 GB for
/// 106 million), 8 per other parameter, and 16 per logit of one segment of at most 2,048 tokens.
int64_t polish_bytes(const ModelConfig& config);

/// The first of these that `settings` ask for and the run cannot have: a transform of the whole
/// model that the model's shape forbids (rotation, transform), norms that are learned in another
/// type than f32 (rate_polish_norm), a last stage that takes more than three quarters of the memory
/// (polish_epochs). The memory is all that the run can have, free now or not: the same command must
/// mean the same run tomorrow. Reads shapes and the config alone.
std::optional<SettingObstacle> setting_obstacle(const Settings& settings, const ModelConfig& config,
                                                const RunPlace& place);

/// Settings of a method at its bits, with a user's changes over them.
struct FittedMethod {
  Settings settings;
  std::string note;  // which method runs in place of which, and why; "" where it is the one named
};

/// What a user puts over a method's settings.
struct SettingChanges {
  std::function<void(Settings&)> apply;
  std::function<bool(const std::string& setting)> names;  // whether they set it
};

using FindObstacle = std::function<std::optional<SettingObstacle>(const Settings&)>;

/// The method with `changes`, or the one that its file names under "otherwise" with the same
/// changes, where `find_obstacle` (may be empty) finds one for a setting that the changes do not
/// name. An obstacle to a setting that they do name stays for the run to refuse: somebody asked for
/// it. Throws as MethodFile::at and `changes.apply` do.
FittedMethod fit_method(const MethodFile& method, int wbits, int abits,
                        const SettingChanges& changes, const FindObstacle& find_obstacle);

}  // namespace cbq
