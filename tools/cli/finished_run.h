// --resume where the result is there already.
#pragma once

#include "tools/cli/quantize_job.h"

namespace cbq::cli {

/// Whether --resume was given and there is something at the output that looks like a result, whole
/// or not.
bool is_finished_run(const QuantizeOptions& options);

/// Whether an earlier program wrote this recipe.json, one that knew neither identities nor
/// checksums.
bool of_an_earlier_program(const std::filesystem::path& recipe);

/// Compares the result with what is asked for, scores the texts of --evaluate that it has no scores
/// of, and removes the state of a run that made it and was killed then. Throws std::runtime_error,
/// naming what differs, for another run's result and for a damaged one, which it leaves as it is.
void run_finished(const QuantizeOptions& options, Listener& listener);

}  // namespace cbq::cli
