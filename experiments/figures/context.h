// What the figures of a run share: the model at hand, its tokens, and the options.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "experiments/figures/figure_options.h"
#include "experiments/plan.h"
#include "experiments/workbench.h"

namespace cbq {

struct FigureContext {
  WorkbenchConfig bench;  // the model, calibration, texts, output folder, what is said
  ModelConfig config;
  PlanModel model;   // name, number of blocks, identity of its cells
  PlanOptions plan;  // method, bits, granularity, seeds, planted outliers, settings
  FigureOptions options;
  CellRunner runner;                    // of cells of this model
  std::vector<std::string> texts;       // names of bench.texts
  std::vector<std::string> provenance;  // lines about model, tokens and budget

  int64_t blocks() const { return model.blocks; }
  Watch watch() const { return {bench.interrupted, {}}; }
  /// watch().poll_of(what), which may outlive the watch.
  Poll poll_of(const std::string& what) const {
    return [watch = watch(), what] { watch.poll(what); };
  }

  /// The untouched model with all blocks in memory.
  std::unique_ptr<Transformer> untouched() const;
  /// The same with these outliers planted ("outliers:4x30"); empty: none.
  std::unique_ptr<Transformer> with_outliers(const std::string& outliers) const;
  /// The model with the outliers of `--outliers`, where they are asked for.
  std::unique_ptr<Transformer> original() const { return with_outliers(plan.outliers); }
  /// The first segments of calibration that hold options.tokens tokens, at least one.
  Segments loss_segments() const;
  /// The grid of the run's method at these bits, rounded to nearest, with nothing learned or
  /// solved. The scales of a block can be multiplied: grid "relative" (ScaledBlocks).
  Settings nearest_settings(int wbits, int abits) const;
  /// Settings of a row of this method in a table at bits such as "W2A16". Throws
  /// std::invalid_argument where the method does not serve these bits.
  Settings method_settings_at(const std::string& method, const std::string& bits) const;
  /// In captions: "", or which outliers were planted.
  std::string planted() const;
};

/// Tokens times blocks times weights of a block: the unit of Cell::cost.
double pass_cost(const FigureContext& context, int64_t tokens, double blocks);

}  // namespace cbq
