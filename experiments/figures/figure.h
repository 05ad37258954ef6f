// A figure: data, picture and caption; and what a file of this folder defines to make one.
//
// One file figure_KEY.cpp defines a class and registers it. The key on the command line, --list,
// --dry-run, the files of a run and the section of the HTML page follow.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "experiments/cell.h"
#include "experiments/figures/svg.h"
#include "quant/registry.h"

namespace cbq {

struct FigureContext;

struct FigureColumn {
  std::string name, meaning;
};

/// The data of a figure in long format: one observation a line.
struct FigureData {
  std::vector<FigureColumn> columns;
  std::vector<std::vector<std::string>> rows;

  /// Throws std::invalid_argument unless there is one field for each column.
  void add(std::vector<std::string> fields);
  /// A header and the rows (RFC 4180, lines end in "\n").
  std::string to_csv() const;
};

struct Figure {
  std::string key, title;
  /// Sentences: what is drawn, by which method, what the paper's figure shows, and whether these
  /// data show the same.
  std::vector<std::string> caption;
  std::vector<std::pair<std::string, double>> numbers;  // that the caption speaks of, by name
  FigureData data;
  std::vector<Panel> panels;
  size_t panels_per_row = 2;
};

/// A part of a figure's work. Its result is stored and never computed twice.
struct FigurePart {
  std::string what;            // for progress and --dry-run: "loss surface at 2 bits"
  nlohmann::json parameters;   // all that decides the result, beside model and calibration
  double cost = 0.0;           // expected work in the unit of Cell::cost
  std::optional<Cell> cell{};  // the part is this cell of the tables' store; no parameters then
};

class FigureMaker {
 public:
  using Progress = std::function<void(double fraction)>;

  virtual ~FigureMaker() = default;
  /// One line for --list.
  virtual std::string title() const = 0;
  /// Why this figure cannot be drawn of this model, and what it needs; "" if it can.
  virtual std::string obstacle(const FigureContext& context) const;
  virtual std::vector<FigurePart> parts(const FigureContext& context) const = 0;
  /// The result of a part that is no cell. Deterministic. `progress` takes 0 to 1 and throws
  /// Interrupted when the run is to stop.
  virtual nlohmann::json compute(const FigureContext& context, const FigurePart& part,
                                 const Progress& progress) const = 0;
  /// The figure of the parts' results, in their order; of a cell, to_json(CellResult).
  virtual Figure draw(const FigureContext& context, const std::vector<FigurePart>& parts,
                      const std::vector<nlohmann::json>& results) const = 0;
};

/// By key: "1a", ..., "depth".
Registry<FigureMaker>& figures();

/// "1a,depth" or "all": keys, each once, in the order given. Throws std::invalid_argument with the
/// known ones.
std::vector<std::string> select_figures(const std::string& keys);
/// One line for each figure.
std::string list_of_figures();

/// What a report for other programs says of a figure: title, caption, numbers, columns.
nlohmann::json to_json(const Figure& figure);

}  // namespace cbq
