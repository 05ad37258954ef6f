// Figures of a real language model, SmolLM2-135M-Instruct, beside those of the library
// transformers.
#pragma once

#include <filesystem>

#include "tools/reference/report.h"

namespace cbq {

/// Numbers of token ids, and mean negative log-likelihoods (nats per token) in f32, of the texts in
/// `data` (docs/real-model.md says which). `fast`: two segments instead of all. Throws
/// std::runtime_error, naming the command that makes it, when the model is not there.
void real_model_rows(const std::filesystem::path& data, bool fast, Report& report);

}  // namespace cbq
