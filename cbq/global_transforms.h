// Which global transforms the settings ask for (quant/transforms/global/global_transform.h).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cbq/settings.h"
#include "nn/transformer.h"
#include "quant/transforms/global/global_transform.h"

namespace cbq {

/// Configured, in the order in which they are applied: those of `transform`, then the rotation.
/// Throws std::invalid_argument, naming the setting, for an unknown name (with the known ones) or
/// variant.
std::vector<std::unique_ptr<GlobalTransform>> global_transforms_of(const Settings& settings);

/// Rewrites a model as it was opened. To be called before anybody asks for its digest, activations
/// or outputs: from here on it is the original model. Returns what a reader of the result must
/// know. Throws std::invalid_argument, naming the family, where a transform cannot be applied, and
/// for a model that has been transformed before.
std::vector<std::string> apply_global_transforms(Transformer& model, const Settings& settings);

/// Kinds of the StoredTransforms that these settings leave in every block. Throws
/// std::invalid_argument as global_transforms_of does, for two at one place, and for one of queries
/// and keys where these are not quantized: it would cost time at every token and change nothing.
std::map<OnlinePlace, std::string> online_kinds(const Settings& settings);

/// Throws std::invalid_argument unless `model` was transformed as `settings` ask: with another
/// model they would describe something that did not happen.
void check_global_transforms(const Transformer& model, const Settings& settings);

}  // namespace cbq
