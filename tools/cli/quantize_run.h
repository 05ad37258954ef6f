// A run of `cbq quantize`, for the program and for whoever else wants one.
#pragma once

#include <memory>

#include "tools/cli/quantize_job.h"

namespace cbq::cli {

/// The options of the command; what is returned gets their values when `app` has parsed.
std::shared_ptr<QuantizeOptions> add_quantize_options(CLI::App& app);

/// Quantizes the model folder and writes the result, or, with --resume where it is finished, scores
/// what --evaluate adds. Throws Interrupted when `listener` asks for it; what finished windows are
/// then on disk, --resume continues.
void run_quantize(const QuantizeOptions& options, Listener& listener);

}  // namespace cbq::cli
