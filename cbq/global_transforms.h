// Which global transforms the settings ask for (quant/transforms/global/global_transform.h).
#pragma once

#include <string>
#include <vector>

#include "cbq/settings.h"
#include "nn/transformer.h"

namespace cbq {

/// Rewrites a model as it was opened. To be called before anybody asks for its digest, activations
/// or outputs: from here on it is the original model. Returns what a reader of the result must
/// know. Throws std::invalid_argument, naming the family, where a transform cannot be applied, and
/// for a model that has been transformed before.
std::vector<std::string> apply_global_transforms(Transformer& model, const Settings& settings);

/// The kind of StoredTransform that these settings leave before the last linear of every
/// feed-forward part; "" for none.
std::string online_kind(const Settings& settings);

/// Throws std::invalid_argument unless `model` was transformed as `settings` ask: with another
/// model they would describe something that did not happen.
void check_global_transforms(const Transformer& model, const Settings& settings);

}  // namespace cbq
