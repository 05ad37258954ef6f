#include "experiments/figures/figure.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "experiments/format_text.h"

namespace cbq {

void FigureData::add(std::vector<std::string> fields) {
  check(fields.size() == columns.size(), "figure: a row of ", fields.size(), " fields for ",
        columns.size(), " columns");
  rows.push_back(std::move(fields));
}

std::string FigureData::to_csv() const {
  std::string out;
  for (size_t c = 0; c < columns.size(); ++c) {
    out += (c == 0 ? "" : ",") + csv_field(columns[c].name);
  }
  out += "\n";
  for (const std::vector<std::string>& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) out += (c == 0 ? "" : ",") + csv_field(row[c]);
    out += "\n";
  }
  return out;
}

std::string FigureMaker::obstacle(const FigureContext&) const { return ""; }

Registry<FigureMaker>& figures() {
  static Registry<FigureMaker> registry("figure");
  return registry;
}

std::vector<std::string> select_figures(const std::string& keys) {
  if (keys == "all") return figures().names();
  std::vector<std::string> chosen;
  std::istringstream list(keys);
  for (std::string key; std::getline(list, key, ',');) {
    figures().make(key);  // throws with the known ones
    if (std::find(chosen.begin(), chosen.end(), key) == chosen.end()) chosen.push_back(key);
  }
  return chosen;
}

std::string list_of_figures() {
  std::string text = "Figures (--figure)\n";
  for (const std::string& key : figures().names()) {
    text += fmt::format("  {:<5} {}\n", key, figures().make(key)->title());
  }
  return text;
}

nlohmann::json to_json(const Figure& figure) {
  nlohmann::json numbers = nlohmann::json::object(), columns = nlohmann::json::array();
  for (const auto& [name, value] : figure.numbers) numbers[name] = value;
  for (const FigureColumn& column : figure.data.columns) {
    columns.push_back({{"name", column.name}, {"meaning", column.meaning}});
  }
  return {{"figure", figure.key},
          {"title", figure.title},
          {"caption", figure.caption},
          {"numbers", numbers},
          {"columns", columns}};
}

}  // namespace cbq
