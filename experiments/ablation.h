// Runs a plan: every cell once, every table printed and written as soon as it is complete.
#pragma once

#include <filesystem>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "experiments/figures/figure.h"
#include "experiments/plan.h"
#include "experiments/progress.h"
#include "experiments/report.h"

namespace cbq {

struct Ablation {
  Plan plan;
  CellInputs inputs;  // of the default model
  CellRunner runner;
  std::vector<std::string> texts;  // names, in the order of CellResult::texts
  /// Of each text the documents of its segments (TokenSet::documents); may be empty.
  std::vector<std::vector<int64_t>> documents = {};
  std::vector<std::string> budget;                    // footnotes of every table
  std::vector<std::vector<std::string>> model_lines;  // [model]: footnotes of tables with its cells
  std::string tasks;                                  // TaskSet::digest(); "": no accuracies
  std::vector<Figure> figures = {};                   // that the HTML page shows below the tables
  std::string version;
  std::filesystem::path output;       // cells/ and the reports (experiments/report_files.h)
  std::function<bool()> interrupted;  // may be empty
};

/// Prints the tables and their summary to `out`. Finished cells are stored in `output`/cells and
/// used by later runs; all reports are written anew after each table.
/// Throws Interrupted, with what to do, after a stop; whatever the runner throws.
void run_ablation(const Ablation& ablation, std::ostream& out, Progress& progress);

}  // namespace cbq
