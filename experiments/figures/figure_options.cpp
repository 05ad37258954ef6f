#include "experiments/figures/figure_options.h"

#include <CLI/CLI.hpp>

namespace cbq {

void FigureOptions::add_to(CLI::App& app) {
  app.add_option("--figure", keys,
                 "figures of the paper and our own, as in 1b,depth; or all. Without --table or "
                 "--axis, no table is computed");
  app.add_option("--figure-layer", layer,
                 "layer of figure 1a, by its path in the checkpoint; default: the first one of the "
                 "first block");
  app.add_option("--figure-tokens", tokens,
                 "tokens on which figures 1b, 1c and depth compute a loss or an error, in whole "
                 "segments")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--figure-methods", methods, "methods that figures depth and bits compare")
      ->delimiter(',')
      ->capture_default_str();
}

}  // namespace cbq
