#include "experiments/dry_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "experiments/task_store.h"

namespace cbq {
namespace {

std::string mebibytes(int64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

class DryRun {
 public:
  DryRun(const Ablation& ablation, const std::vector<DryModel>& models, std::ostream& out)
      : ablation_(ablation), models_(models), out_(out) {
    for (const Cell& cell : ablation.plan.cells) finished_.push_back(is_finished(cell));
  }

  void print() {
    for (const PlannedTable& table : ablation_.plan.tables) print_table(table);
    print_cells();
    print_models();
    double left = 0.0;
    size_t to_do = 0;
    for (size_t i = 0; i < finished_.size(); ++i) {
      if (finished_[i]) continue;
      left += seconds_of(i);
      ++to_do;
    }
    out_ << fmt::format(
        "{} cells, {} of them finished; the other {} take about {} (a rough estimate from one "
        "forward pass)\n",
        finished_.size(), finished_.size() - to_do, to_do, duration_text(left));
  }

 private:
  bool is_finished(const Cell& cell) const {
    const std::filesystem::path folder = ablation_.output / "cells";
    std::error_code error;
    if (!std::filesystem::is_directory(folder, error)) return false;
    if (!CellStore(folder).find(cell, {})) return false;
    return !cell.tasks || TaskStore(folder, ablation_.tasks).find(cell, {});
  }

  double seconds_of(size_t i) const {
    const Cell& cell = ablation_.plan.cells[i];
    return cell.model < models_.size() ? cell.cost * models_[cell.model].seconds_per_cost : 0.0;
  }

  void print_table(const PlannedTable& table) {
    std::set<size_t> used, fresh;
    size_t missing = 0, away = 0;
    for (const PlannedRow& row : table.rows) {
      if (!row.at_hand) {
        ++away;
      } else if (!row.missing.empty()) {
        ++missing;
      }
      for (const auto& seeds : row.cells) used.insert(seeds.begin(), seeds.end());
    }
    for (const size_t i : used) {
      if (asked_for_.insert(i).second) fresh.insert(i);
    }
    std::string line = fmt::format("table {}: {} rows, {} cells, {} of them not in a table above",
                                   table.spec.key, table.rows.size(), used.size(), fresh.size());
    if (away > 0) line += fmt::format("; {} rows of models that are not at hand", away);
    if (missing > 0) line += fmt::format("; {} rows missing", missing);
    out_ << line << "\n";
    for (const PlannedRow& row : table.rows) {
      for (const auto& seeds : row.cells) {
        for (const size_t i : seeds)
          first_.emplace(i, concat(table.spec.key, ": ", row.spec.label));
      }
    }
  }

  void print_cells() {
    for (const auto& [i, label] : first_) {
      const Cell& cell = ablation_.plan.cells[i];
      const std::string state = finished_[i] ? "finished" : "about " + duration_text(seconds_of(i));
      out_ << fmt::format("cell {}  {:<16}  {}{}\n", cell.key.substr(0, 12), state, label,
                          cell.tasks ? ", with tasks" : "");
    }
  }

  void print_models() {
    std::set<size_t> used;
    for (const Cell& cell : ablation_.plan.cells) used.insert(cell.model);
    for (const size_t i : used) {
      if (i >= models_.size()) continue;
      const DryModel& model = models_[i];
      out_ << fmt::format(
          "model {}: {} of parameters in memory, one model at a time; {} of original "
          "activations on disk, again for each transform of the whole model\n",
          model.name, mebibytes(model.parameter_bytes), mebibytes(model.activation_bytes));
    }
  }

  const Ablation& ablation_;
  const std::vector<DryModel>& models_;
  std::ostream& out_;
  std::vector<bool> finished_;
  std::set<size_t> asked_for_;
  std::map<size_t, std::string> first_;  // cell -> who asks for it first
};

}  // namespace

void print_dry_run(const Ablation& ablation, const std::vector<DryModel>& models,
                   std::ostream& out) {
  DryRun(ablation, models, out).print();
}

}  // namespace cbq
