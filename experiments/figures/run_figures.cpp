#include "experiments/figures/run_figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "experiments/figures/part_store.h"
#include "experiments/report_files.h"
#include "experiments/summary.h"
#include "experiments/text_table.h"
#include "nn/formats/atomic_file.h"

namespace cbq {
namespace {

/// What decides a part's result: model, calibration, device and program, and the part's own
/// parameters in the place of settings. The test texts have no part in it, unless a parameter says.
JobIdentity identity_of(const FigureContext& context, const std::string& key,
                        const FigurePart& part) {
  JobIdentity identity = context.model.inputs;
  identity.evaluation = "";
  identity.settings = {{"figure", key}, {"parameters", part.parameters}};
  return identity;
}

bool is_finite(const nlohmann::json& value) {
  if (value.is_number_float()) return std::isfinite(value.get<double>());
  return !value.is_structured() || std::all_of(value.begin(), value.end(), is_finite);
}

/// Parts of either kind, where they are kept between runs.
class Parts {
 public:
  explicit Parts(const FigureContext& context)
      : context_(context), parts_(context.bench.folder / "figures" / "parts") {}

  std::optional<nlohmann::json> find(const std::string& key, const FigurePart& part,
                                     const PartStore::Say& say) const {
    if (!part.cell) return parts_.find(identity_of(context_, key, part), say);
    if (!std::filesystem::is_directory(cells_folder())) return std::nullopt;
    const std::optional<CellResult> found = CellStore(cells_folder()).find(*part.cell, say);
    return found ? std::optional(to_json(*found)) : std::nullopt;
  }

  nlohmann::json compute(const std::string& key, const FigureMaker& maker, const FigurePart& part,
                         const FigureMaker::Progress& progress) const {
    if (part.cell) {
      const CellResult result = context_.runner(*part.cell, progress);
      CellStore(cells_folder()).put(*part.cell, result);
      return to_json(result);
    }
    nlohmann::json result = maker.compute(context_, part, progress);
    // JSON has no word for these numbers, so a stored part could not be read again.
    check(is_finite(result),
          "the result holds NaN or infinity, which cannot be drawn; look for "
          "overflow in the model, or give other --bits or --figure-tokens");
    parts_.put(identity_of(context_, key, part), result);
    return result;
  }

 private:
  std::filesystem::path cells_folder() const { return context_.bench.folder / "cells"; }

  const FigureContext& context_;
  PartStore parts_;
};

/// One figure with its parts, and those that are stored.
struct Job {
  std::string key;
  std::unique_ptr<FigureMaker> maker;
  std::vector<FigurePart> parts;
  std::vector<std::optional<nlohmann::json>> results;
};

std::vector<Job> jobs_of(const FigureContext& context, const std::vector<std::string>& keys,
                         bool fresh, const PartStore::Say& say) {
  const Parts store(context);
  std::vector<Job> jobs;
  for (const std::string& key : keys) {
    Job job{key, figures().make(key), {}, {}};
    job.parts = job.maker->parts(context);
    for (const FigurePart& part : job.parts) {
      job.results.push_back(fresh ? std::nullopt : store.find(key, part, say));
    }
    jobs.push_back(std::move(job));
  }
  return jobs;
}

class FigureRun {
 public:
  FigureRun(const FigureContext& context, const std::vector<std::string>& keys, bool fresh,
            std::ostream& out, Progress& progress)
      : context_(context), out_(out), progress_(progress), store_(context) {
    jobs_ = jobs_of(context, keys, fresh, [&](const std::string& line) { progress.line(line); });
    for (const Job& job : jobs_) {
      for (size_t i = 0; i < job.parts.size(); ++i) {
        if (!job.results[i]) to_do_ += job.parts[i].cost;
      }
    }
  }

  std::vector<Figure> run() {
    for (Job& job : jobs_) {
      for (size_t i = 0; i < job.parts.size(); ++i) {
        if (!job.results[i]) compute(job, i);
      }
      progress_.pause();
      finish(job);
    }
    progress_.finish();
    return std::move(figures_);
  }

 private:
  void compute(Job& job, size_t i) {
    const FigurePart& part = job.parts[i];
    const std::string what = fmt::format("figure {}: {}", job.key, part.what);
    const auto show = [&](double fraction) {
      context_.watch().poll("making figures");
      const double done = done_ + fraction * part.cost;
      progress_.update(std::llround(1000.0 * done / std::max(to_do_, 1.0)), 1000, what);
    };
    try {
      show(0.0);
      job.results[i] = store_.compute(job.key, *job.maker, part, show);
    } catch (const Interrupted& stop) {
      progress_.finish();
      throw Interrupted(concat(stop.what(), ": finished parts of figures are kept in ",
                               (context_.bench.folder / "figures").string(),
                               "; the same command, without --fresh, goes on from there"));
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(message_of(what, ": ", error.what()));
    }
    done_ += part.cost;
  }

  void finish(const Job& job) {
    std::vector<nlohmann::json> results;
    for (const auto& result : job.results) results.push_back(*result);
    Figure figure = job.maker->draw(context_, job.parts, results);
    figure.key = job.key;
    figure.title = job.maker->title();
    figure.caption.insert(figure.caption.end(), context_.provenance.begin(),
                          context_.provenance.end());
    figures_.push_back(std::move(figure));
    write(figures_.back());
    out_ << "Figure " << job.key << ": " << figures_.back().title << "\n";
    for (const std::string& line : figures_.back().caption) {
      out_ << "  " << wrapped(line, 96, 4);
    }
    out_ << "\n" << std::flush;
  }

  void write(const Figure& figure) const {
    const std::filesystem::path folder = context_.bench.folder / "figures";
    std::filesystem::create_directories(folder);
    write_text_atomically(folder / (figure.key + ".csv"), figure.data.to_csv());
    write_text_atomically(folder / (figure.key + ".svg"),
                          svg_file(concat("Figure ", figure.key, ": ", figure.title), figure.panels,
                                   figure.panels_per_row));
    write_text_atomically(folder / "figures.json", listed_with(figure, folder).dump(2) + "\n");
    write_text_atomically(context_.bench.folder / "figures.html", to_html({}, {}, figures_));
  }

  /// figures.json as it is, with this figure in the place of an earlier one of its key: figures of
  /// other commands stay.
  static nlohmann::json listed_with(const Figure& figure, const std::filesystem::path& folder) {
    nlohmann::json all = nlohmann::json::array();
    std::ifstream file(folder / "figures.json");
    const nlohmann::json earlier = nlohmann::json::parse(file, nullptr, false);
    if (earlier.is_array()) {
      for (const nlohmann::json& one : earlier) {
        if (one.is_object() && one.value("figure", "") != figure.key) all.push_back(one);
      }
    }
    all.push_back(to_json(figure));
    return all;
  }

  const FigureContext& context_;
  std::ostream& out_;
  Progress& progress_;
  Parts store_;
  std::vector<Job> jobs_;
  double to_do_ = 0.0, done_ = 0.0;  // cost
  std::vector<Figure> figures_;
};

}  // namespace

void check_figures(const FigureContext& context, const std::vector<std::string>& keys) {
  for (const std::string& key : keys) {
    const std::string reason = figures().make(key)->obstacle(context);
    if (!reason.empty()) throw std::invalid_argument(message_of(reason));
  }
}

std::vector<Figure> run_figures(const FigureContext& context, const std::vector<std::string>& keys,
                                bool fresh, std::ostream& out, Progress& progress) {
  check_figures(context, keys);
  return FigureRun(context, keys, fresh, out, progress).run();
}

void print_figures_dry_run(const FigureContext& context, const std::vector<std::string>& keys,
                           double seconds_per_cost, std::ostream& out) {
  check_figures(context, keys);
  for (const Job& job : jobs_of(context, keys, false, {})) {
    double seconds = 0.0;
    for (size_t i = 0; i < job.parts.size(); ++i) {
      const double own = job.parts[i].cost * seconds_per_cost;
      if (!job.results[i]) seconds += own;
      out << fmt::format("figure {:<5} {:<16}  {}\n", job.key,
                         job.results[i] ? "finished" : "about " + duration_text(own),
                         job.parts[i].what);
    }
    out << fmt::format("figure {}: about {} to compute\n", job.key, duration_text(seconds));
  }
}

}  // namespace cbq
