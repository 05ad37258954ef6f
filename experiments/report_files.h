// Reports for other programs: a spreadsheet or a data frame, a paper, a browser, tools that read
// lm-evaluation-harness's results.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "experiments/figures/figure.h"
#include "experiments/report.h"
#include "experiments/summary.h"

namespace cbq {

/// Long format (RFC 4180, a header, lines end in "\n"), one value a line:
///   table,bits,row,granularity,text,seed,metric,value,cell
/// `text` is empty for what is measured without a text; `cell` is the key of the cell's file, so
/// that seeds which share a cell (nothing in it is random) can be told.
std::string to_csv(const std::vector<TableReport>& reports);

/// Every grid of every table as a float of its own, for \usepackage{booktabs}.
std::string to_latex(const std::vector<TableReport>& reports);

/// One page with all tables, trends, budget and provenance, and the figures with their pictures;
/// nothing is loaded from elsewhere. Without tables, the figures alone.
std::string to_html(const std::vector<TableReport>& reports, const Summary& summary,
                    const std::vector<Figure>& figures = {});

/// A file as lm-evaluation-harness writes it.
struct LmEvalFile {
  std::filesystem::path path;  // <model>/results_<date>.json
  nlohmann::json content;
};
/// One for every row, granularity and seed; the test texts are its tasks.
std::vector<LmEvalFile> to_lm_eval(const TableReport& report);

/// Writes all of them into `folder`: ablation.json, .md, .csv, .tex, .html (with `figures`) and
/// ablation_summary.json of all tables; into lm_eval/ only the last table, since the others were
/// written when they were the last. Throws std::runtime_error naming the path.
void write_reports(const std::filesystem::path& folder, const std::vector<TableReport>& reports,
                   const Summary& summary, const std::vector<Figure>& figures = {});

}  // namespace cbq
