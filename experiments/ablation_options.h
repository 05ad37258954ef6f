// The options of run_ablation: what they mean, their defaults, and what they make of the tables.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "experiments/figures/figure_options.h"
#include "experiments/model_groups.h"
#include "experiments/model_loading.h"
#include "experiments/plan.h"
#include "experiments/task_columns.h"

namespace cbq {

struct AblationOptions {
  std::filesystem::path model, output, tables_folder;
  std::vector<std::string> models;  // NAME=FOLDER
  std::string calibration;
  std::vector<std::string> texts;  // NAME=FILE
  std::vector<std::string> tasks;  // as load_task_list takes them
  std::string task_data, encoding = "separate";
  int64_t limit = 0;
  std::string table = "3b,3c";
  std::string axis;
  std::vector<std::string> bits;
  std::vector<std::string> granularities = {"per-channel"};
  std::string method;   // "": each table's own
  std::string profile;  // the former name, refused
  std::string outliers;
  std::string settings = "{}";
  int64_t segments = 64, segment_length = 128, epochs = 2, seeds = 1, eval_tokens = 16384;
  bool full = false, list = false, fresh = false, dry_run = false;
  std::string device = "auto";
  int threads = 0;
  LoadOptions loading;
  FigureOptions figures;

  void add_to(CLI::App& app);
  /// Models of the other families that come with the project. They stand beside the default model
  /// alone: set_defaults() leaves none where --model is given.
  std::vector<NamedModel> shipped;

  /// Values that nobody gave: files of the project at `root`, and those of --full.
  void set_defaults(const CLI::App& app, const std::filesystem::path& root);

  /// Throws std::invalid_argument for values that cannot be.
  PlanOptions plan() const;
  /// --models, and the shipped models of families that nobody named; as parse_models() throws.
  std::vector<NamedModel> named_models(const std::vector<TableSpec>& all) const;
  /// Of --table or --axis, out of `all`, for a default model of `blocks` blocks.
  std::vector<TableSpec> chosen_tables(const std::vector<TableSpec>& all, int64_t blocks,
                                       bool table_given) const;
  /// Reads --tasks, so that a missing file is found before any computing.
  TaskSet task_set() const;
  /// The model's folder and the texts are there. Throws std::runtime_error with the command that
  /// makes what is not.
  void require_model(const std::filesystem::path& folder) const;
  void require_texts() const;
};

/// The tables by the version of the paper, one line each.
std::string list_of_tables(const std::vector<TableSpec>& tables);

}  // namespace cbq
