// Makes the figures of a run: parts once, pictures, data and captions as files.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "experiments/figures/context.h"
#include "experiments/figures/figure.h"
#include "experiments/progress.h"

namespace cbq {

/// Throws std::invalid_argument, before anything is computed, for a figure that cannot be drawn of
/// this model, with what it needs.
void check_figures(const FigureContext& context, const std::vector<std::string>& keys);

/// Computes the parts that are not stored (all with `fresh`), draws each figure and writes it as
/// soon as it is complete: OUTPUT/figures/KEY.csv and KEY.svg, its entry in figures.json, and
/// OUTPUT/figures.html. Captions go to `out`. Throws Interrupted, with what to do, after a stop;
/// finished parts are kept then.
std::vector<Figure> run_figures(const FigureContext& context, const std::vector<std::string>& keys,
                                bool fresh, std::ostream& out, Progress& progress);

/// Says which parts would be computed and about how long that takes; computes and writes none.
/// `seconds_per_cost`: as in DryModel.
void print_figures_dry_run(const FigureContext& context, const std::vector<std::string>& keys,
                           double seconds_per_cost, std::ostream& out);

}  // namespace cbq
