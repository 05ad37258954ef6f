// The paper's tables on models at hand: what is opened, planned and run, and the way out.
#include <fmt/format.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <set>

#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "experiments/ablation.h"
#include "experiments/command_line.h"
#include "experiments/dry_run.h"
#include "experiments/figures/run_figures.h"
#include "experiments/inputs.h"
#include "experiments/model_at_hand.h"
#include "experiments/task_store.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/output_lock.h"
#include "tensor/runtime/device_error.h"
#include "tensor/runtime/environment.h"
#include "tensor/runtime/program.h"
#include "tensor/runtime/program_version.h"

namespace cbq {
namespace {

/// The models of a run: [0] the default one, [i + 1] the i-th of --models; none where no table uses
/// it.
using Models = std::vector<std::unique_ptr<ModelAtHand>>;

/// Which of them the tables use.
std::set<size_t> used_models(const std::vector<TableSpec>& tables,
                             const std::vector<NamedModel>& named, const std::string& family) {
  std::set<size_t> used;
  for (const TableSpec& table : tables) {
    if (table.kind == TableKind::components) continue;
    for (const GroupModel& group : models_of_groups(table, named, family)) {
      if (group.model) used.insert(*group.model);
    }
  }
  return used;
}

/// What is known of the calibration and the texts once a model, whose tokens they are, is open.
void add_work(const ModelAtHand& model, const TaskSet& tasks, const std::vector<TableSpec>& tables,
              PlanOptions& options) {
  options.work = {model.calibration().token_count(), model.test_tokens()};
  options.calibration_segments = model.calibration().count();
  options.task_tokens = tasks.approximate_tokens();
  for (const TableSpec& table : tables) {
    for (const std::string& column : table.columns) {
      if (tasks.serves(column)) options.task_metrics.push_back(column);
    }
  }
}

/// "cbq_windows", or "cbq, cbq_windows, as each table says".
std::string methods_of(const std::vector<TableSpec>& tables) {
  std::set<std::string> names;
  for (const TableSpec& table : tables) names.insert(table.method);
  if (names.empty()) return TableSpec().method;  // figures alone
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return names.size() > 1 ? text + ", as each table says" : text;
}

std::vector<std::string> budget_lines(const AblationOptions& o, const TaskSet& tasks,
                                      const std::vector<TableSpec>& tables, Device device,
                                      const std::string& version) {
  std::vector<std::string> lines = {fmt::format(
      "budget: {} segments, {} epochs, {} seed{} (from 0), method {}{}", o.segments, o.epochs,
      o.seeds, o.seeds == 1 ? "" : "s", o.method.empty() ? methods_of(tables) : o.method,
      o.settings == "{}" ? "" : ", settings " + o.settings)};
  if (!o.outliers.empty()) {
    lines.push_back("planted outliers: " + o.outliers +
                    " (a transform that keeps the original model's function)");
  }
  for (const Task& task : tasks.tasks) {
    lines.push_back(
        fmt::format("task {}: {}, {} of {} items, {} encoding", task.name, task.source,
                    o.limit > 0 ? std::min<size_t>(task.items.size(), static_cast<size_t>(o.limit))
                                : task.items.size(),
                    task.items.size(), o.encoding));
  }
  lines.push_back(fmt::format("device {}, {} threads; version {}", name_of(device),
                              omp_get_max_threads(), version));
  return lines;
}

void forget_finished(const Ablation& ablation) {
  const TaskStore tasks(ablation.output / "cells", ablation.tasks);
  for (const Cell& cell : ablation.plan.cells) {  // others in the folder stay finished
    std::filesystem::remove(ablation.output / "cells" / (cell.key + ".json"));
    std::filesystem::remove_all(ablation.output / "unfinished" / cell.key);
    if (cell.tasks) tasks.remove(cell);
  }
}

std::vector<DryModel> dry_models(const Models& models) {
  std::vector<DryModel> dry;
  for (const auto& model : models) {
    dry.emplace_back();
    if (model == nullptr) continue;
    dry.back() = {model->plan_model().name, model->parameter_bytes(), model->activation_bytes(),
                  model->seconds_per_cost()};
  }
  return dry;
}

/// Opens the models that the tables use and plans their cells.
Models open_models(const AblationOptions& o, const std::vector<NamedModel>& named,
                   const std::vector<TableSpec>& tables, const std::string& family,
                   const RunSurroundings& surroundings, PlanOptions options, Ablation& ablation) {
  Models models(named.size() + 1);
  std::vector<PlanModel> planned(models.size());
  planned.front().family = family;
  ablation.model_lines.resize(models.size());
  std::set<size_t> used = used_models(tables, named, family);
  if (!o.figures.keys.empty()) used.insert(0);  // figures are of the default model
  for (const size_t i : used) {
    const std::filesystem::path folder =
        i == 0 ? o.model : std::filesystem::path(named[i - 1].folder);
    models[i] = std::make_unique<ModelAtHand>(folder, surroundings);
    planned[i] = models[i]->plan_model();
    ablation.model_lines[i] = models[i]->lines();
    ablation.texts = models[i]->text_names();
    // Another tokenizer divides the text into other segments: then each counts by itself.
    if (used.size() == 1) ablation.documents = models[i]->documents();
  }
  if (!used.empty()) add_work(*models[*used.begin()], surroundings.tasks, tables, options);
  ablation.budget =
      budget_lines(o, surroundings.tasks, tables, surroundings.device, ablation.version);
  ablation.plan = make_plan(tables, named, planned, options);
  return models;
}

FigureContext figure_context(const AblationOptions& o, ModelAtHand& model,
                             const Ablation& ablation) {
  FigureContext context;
  context.bench = model.bench();
  context.config = model.config();
  context.model = model.plan_model();
  context.plan = ablation.plan.options;
  if (context.plan.method.empty()) context.plan.method = TableSpec().method;
  context.options = o.figures;
  context.runner = [&model](const Cell& cell, const std::function<void(double)>& show) {
    return model.run(cell, show);
  };
  context.texts = model.text_names();
  context.provenance = model.lines();
  context.provenance.insert(context.provenance.end(), ablation.budget.begin(),
                            ablation.budget.end());
  return context;
}

/// The figures of the run, or what they would take.
void make_figures(const AblationOptions& o, const Models& models,
                  const std::vector<std::string>& keys, Progress& progress, Ablation& ablation) {
  if (keys.empty()) return;
  const FigureContext context = figure_context(o, *models.front(), ablation);
  if (o.dry_run) {
    return print_figures_dry_run(context, keys, models.front()->seconds_per_cost(), std::cout);
  }
  ablation.figures = run_figures(context, keys, o.fresh, std::cout, progress);
  std::cout << "written: " << (o.output / "figures.html").string() << ", "
            << (o.output / "figures").string() << ": KEY.csv, KEY.svg, figures.json\n";
}

void run(const CLI::App& app, AblationOptions& o) {
  if (app.count("--profile") > 0) refuse_profile_option(o.profile);
  o.set_defaults(app, project_root());
  const std::vector<TableSpec> all = load_tables(o.tables_folder);
  if (o.list) {
    std::cout << list_of_tables(all) << list_of_figures();
    return;
  }
  const PlanOptions options = o.plan();
  const std::vector<std::string> figure_keys = select_figures(o.figures.keys);
  const std::vector<NamedModel> named = o.named_models(all);
  o.require_model(o.model);
  const ModelConfig config = ModelConfig::load(o.model);
  const bool has_tables = figure_keys.empty() || app.count("--table") > 0 || !o.axis.empty();
  std::vector<TableSpec> tables;
  if (has_tables) tables = o.chosen_tables(all, config.num_layers, app.count("--table") > 0);
  for (const NamedModel& model : named) o.require_model(model.folder);
  o.require_texts();
  Progress progress(std::cerr, stderr_is_terminal());
  const std::set<size_t> used = used_models(tables, named, config.model_type);
  for (size_t i = 0; i < named.size(); ++i) {
    if (used.count(i + 1) > 0 || !named[i].is_given) continue;
    progress.line(concat("note: --models ", named[i].name, "=", named[i].folder,
                         " is not used: no table asked for has this model"));
  }
  Ablation ablation;
  ablation.output = o.output;
  ablation.version = program_version();
  ablation.interrupted = interrupted;
  RunSurroundings surroundings{o,
                               Device::cpu(),
                               o.task_set(),
                               ablation.version,
                               [&](const std::string& line) { progress.line(line); },
                               ablation.interrupted};
  ablation.tasks = surroundings.tasks.digest();
  std::optional<OutputLock> lock;
  if (!o.dry_run) {
    lock.emplace(o.output, OutputLock::Parents::are_made);
    for (const char* folder : {"", "cells", "cache"}) sweep_temporaries(o.output / folder);
  }
  surroundings.device = device_from_name(o.device);
  const Models models =
      open_models(o, named, tables, config.model_type, surroundings, options, ablation);
  if (o.dry_run && has_tables) print_dry_run(ablation, dry_models(models), std::cout);
  ablation.runner = [&](const Cell& cell, const std::function<void(double)>& show) {
    return models[cell.model]->run(cell, show);
  };
  if (o.fresh && !o.dry_run) forget_finished(ablation);
  make_figures(o, models, figure_keys, progress, ablation);
  if (o.dry_run || !has_tables) return;
  run_ablation(ablation, std::cout, progress);
  std::cout << "written: " << (o.output / "ablation.md").string() << ", .json, .csv, .tex, .html; "
            << (o.output / "lm_eval").string() << "\n";
}

}  // namespace
}  // namespace cbq

int main(int argc, char** argv) {
  cbq::start_program(argv);
  CLI::App app(
      "The paper's ablation tables on a model at hand. Without options: tables 3b and 3c at "
      "W2A16 on the embedded model.");
  cbq::AblationOptions options;
  options.add_to(app);
  cbq::let_later_values_win(app);
  app.footer(cbq::environment_help());
  app.set_version_flag("--version", cbq::program_version());
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;  // as cbq: 2 for a wrong command line
  }
  cbq::catch_interrupts();
  try {
    cbq::check_environment();
    cbq::set_command_advice(
        {"a shorter --segment-length, fewer --segments and --load blockwise "
         "need less memory",
         "finished cells are on disk: the same command continues after them"});
    cbq::run(app, options);
    return cbq::finish_output();
  } catch (const cbq::Interrupted& stop) {
    std::cerr << stop.what() << "\n";
    return cbq::interrupted_exit_code();
  } catch (const std::exception& error) {
    std::cerr << "run_ablation: " << cbq::message_of(error.what()) << "\n";
    return 1;
  }
}
