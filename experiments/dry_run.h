// What a run would compute, said before it does.
#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "experiments/ablation.h"

namespace cbq {

/// What is known of a model of the plan.
struct DryModel {
  std::string name;
  int64_t parameter_bytes = 0, activation_bytes = 0;
  double seconds_per_cost = 0.0;  // of Cell::cost; measured
};

/// Prints each table with its rows and new cells, each new cell with its estimated time, and for
/// each model its bytes in memory and on disk. Writes nothing. Times are the measured speed of a
/// forward pass times the expected passes (Cell::cost), so they are rough.
void print_dry_run(const Ablation& ablation, const std::vector<DryModel>& models,
                   std::ostream& out);

}  // namespace cbq
