// What all tables of a run say together: how many of the paper's orderings hold here.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "experiments/report.h"

namespace cbq {

struct OrderingCounts {
  int holds = 0, refuted = 0, unresolved = 0;
  int same = 0;  // both rows are one and the same cell here
  int open = 0;  // no value here
  int judged() const { return holds + refuted + unresolved; }
  void add(Verdict verdict);
};

struct Summary {
  int tables = 0;
  /// Every two rows of a table (of the same bits) of which the paper prints different perplexities
  /// for one text, under every granularity.
  OrderingCounts pairs;
  /// The steps of all trends, under all their metrics.
  OrderingCounts claims;
  std::vector<std::string> refuted;  // a line for each refuted pair
};

Summary summarize(const std::vector<TableReport>& reports);

std::string to_terminal(const Summary& summary);
std::string to_markdown(const Summary& summary);
nlohmann::json to_json(const Summary& summary);
/// "171 orderings of 8 tables: 120 hold, 20 are refuted, ...", and what else a reader must know.
std::vector<std::string> lines_of(const Summary& summary);

}  // namespace cbq
