#include <fmt/format.h>

#include "experiments/format_text.h"
#include "experiments/report_files.h"
#include "experiments/statistics.h"

namespace cbq {
namespace {

/// The lines of one cell.
class CellLines {
 public:
  CellLines(std::string begin, size_t seed, const std::string& cell, std::string& out)
      : begin_(std::move(begin)), seed_(seed), cell_(cell), out_(out) {}

  void add(const std::string& text, const std::string& metric, double value) {
    out_ += fmt::format("{},{},{},{},{},{}\n", begin_, csv_field(text), seed_, csv_field(metric),
                        csv_number(value), cell_);
  }

 private:
  std::string begin_;
  size_t seed_;
  const std::string& cell_;
  std::string& out_;
};

void add_text(const TextScore& score, const ReportText& text, CellLines& lines) {
  lines.add(text.name, "perplexity", std::exp(score.mean_nll));
  lines.add(text.name, "mean_nll", score.mean_nll);
  if (!score.segment_nll.empty()) {
    const Estimate loss =
        mean_per_token({{score.segment_nll}, score.segment_tokens}, text.documents);
    if (loss.has_error()) lines.add(text.name, "mean_nll_error", loss.error);
  }
  lines.add(text.name, "kl", score.kl);
  lines.add(text.name, "kl_p99", score.kl_p99);
  lines.add(text.name, "top1", score.top1);
  lines.add(text.name, "tokens", static_cast<double>(score.tokens));
}

void add_row(const TableReport& report, const ReportRow& row, std::string& out) {
  const size_t seeds = row.results.empty() ? 0 : row.cells.size() / row.results.size();
  for (size_t g = 0; g < row.results.size(); ++g) {
    for (size_t seed = 0; seed < row.results[g].size(); ++seed) {
      const CellResult& result = row.results[g][seed];
      CellLines lines(fmt::format("{},{},{},{}", csv_field(report.spec.key), csv_field(row.bits),
                                  csv_field(row.name), csv_field(report.granularities[g])),
                      seed, row.cells[g * seeds + seed], out);
      for (size_t t = 0; t < result.texts.size() && t < report.texts.size(); ++t) {
        add_text(result.texts[t], report.texts[t], lines);
      }
      lines.add("", "seconds", result.seconds);
      lines.add("", "peak_bytes", static_cast<double>(result.peak_bytes));
      lines.add("", "windows", static_cast<double>(result.windows));
    }
  }
}

}  // namespace

std::string to_csv(const std::vector<TableReport>& reports) {
  std::string out = "table,bits,row,granularity,text,seed,metric,value,cell\n";
  for (const TableReport& report : reports) {
    for (const ReportRow& row : report.rows) add_row(report, row, out);
  }
  return out;
}

}  // namespace cbq
