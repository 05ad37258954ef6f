#include "experiments/ablation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "cbq/pipeline.h"
#include "experiments/report_files.h"
#include "experiments/task_store.h"

namespace cbq {
namespace {

class AblationRun {
 public:
  AblationRun(const Ablation& ablation, std::ostream& out, Progress& progress)
      : ablation_(ablation),
        out_(out),
        progress_(progress),
        store_(ablation.output / "cells"),
        task_store_(ablation.output / "cells", ablation.tasks),
        texts_(report_texts(ablation.texts, ablation.documents)),
        results_(ablation.plan.cells.size()) {}

  void run() {
    find_finished();
    for (const PlannedTable& table : ablation_.plan.tables) {
      for (const PlannedRow& row : table.rows) compute(table, row);
      progress_.pause();
      finish(table);
    }
    progress_.finish();
    out_ << to_terminal(summarize(reports_)) << "\n" << std::flush;
  }

 private:
  const std::vector<Cell>& cells() const { return ablation_.plan.cells; }

  void find_finished() {
    const auto say = [this](const std::string& line) { progress_.line(line); };
    for (size_t i = 0; i < cells().size(); ++i) {
      results_[i] = store_.find(cells()[i], say);
      if (results_[i] && cells()[i].tasks) {  // without its scores the model is needed again
        const std::optional<TaskScores> scores = task_store_.find(cells()[i], say);
        if (!scores) results_[i].reset();
        if (scores) results_[i]->tasks = *scores;
      }
      if (!results_[i]) to_do_ += cells()[i].cost;
    }
    stored_ = static_cast<size_t>(
        std::count_if(results_.begin(), results_.end(), [](const auto& r) { return bool(r); }));
    progress_.line(fmt::format("{} cells, {} of them finished earlier ({})", cells().size(),
                               stored_, (ablation_.output / "cells").string()));
  }

  void compute(const PlannedTable& table, const PlannedRow& row) {
    for (const std::vector<size_t>& seeds : row.cells) {
      for (const size_t i : seeds) {
        if (results_[i]) continue;
        compute(i, fmt::format("table {}: {}", table.spec.key, row.spec.label));
      }
    }
  }

  void compute(size_t i, const std::string& what) {
    const Cell& cell = cells()[i];
    const auto show = [&](double fraction) {
      progress_.update(std::llround(1000.0 * (done_ + fraction * cell.cost) / to_do_), 1000, what);
    };
    try {
      if (ablation_.interrupted && ablation_.interrupted()) throw Interrupted("interrupted");
      show(0.0);
      results_[i] = ablation_.runner(cell, show);
    } catch (const Interrupted& stop) {
      progress_.finish();
      const auto finished =
          std::count_if(results_.begin(), results_.end(), [](const auto& r) { return bool(r); });
      throw Interrupted(fmt::format(
          "{}: {} of {} cells are finished and kept in {}; the same command goes on from there",
          stop.what(), finished, cells().size(), (ablation_.output / "cells").string()));
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(message_of(what, ": ", error.what()));
    }
    if (cell.tasks) task_store_.put(cell, results_[i]->tasks);
    store_.put(cell, *results_[i]);
    done_ += cell.cost;
    show(0.0);
  }

  /// What is only known afterwards: where the cells come from, what they cost.
  std::string cell_footnote(const PlannedTable& table) const {
    std::set<size_t> used;
    for (const PlannedRow& row : table.rows) {
      for (const auto& seeds : row.cells) used.insert(seeds.begin(), seeds.end());
    }
    double seconds = 0.0;
    std::set<std::string> others;
    for (const size_t i : used) {
      seconds += results_[i]->seconds;
      if (results_[i]->version != ablation_.version) others.insert(results_[i]->version);
    }
    std::string text =
        fmt::format("{} cells, {} of reconstruction", used.size(), duration_text(seconds));
    for (const std::string& version : others) {
      text += fmt::format("; some computed by version {} (--fresh computes them anew)", version);
    }
    return text;
  }

  void finish(const PlannedTable& table) {
    std::vector<std::string> footnotes;
    if (table.spec.kind != TableKind::components) footnotes = ablation_.budget;
    for (const size_t model : table.models) {
      if (model >= ablation_.model_lines.size()) continue;
      const std::vector<std::string>& lines = ablation_.model_lines[model];
      footnotes.insert(footnotes.end(), lines.begin(), lines.end());
    }
    if (!table.models.empty()) footnotes.push_back(cell_footnote(table));
    reports_.push_back(make_report(table, ablation_.plan, results_, texts_, footnotes));
    out_ << to_terminal(reports_.back()) << "\n" << std::flush;
    write_reports(ablation_.output, reports_, summarize(reports_), ablation_.figures);
  }

  const Ablation& ablation_;
  std::ostream& out_;
  Progress& progress_;
  CellStore store_;
  TaskStore task_store_;
  std::vector<ReportText> texts_;
  std::vector<std::optional<CellResult>> results_;
  size_t stored_ = 0;
  double to_do_ = 0.0, done_ = 0.0;   // cost
  std::vector<TableReport> reports_;  // of the tables that are complete
};

}  // namespace

void run_ablation(const Ablation& ablation, std::ostream& out, Progress& progress) {
  AblationRun(ablation, out, progress).run();
}

}  // namespace cbq
