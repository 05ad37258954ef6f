#include "experiments/report.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace cbq {
namespace {

/// Mean and standard deviation.
Measured mean_of(const std::vector<double>& values) {
  Measured m;
  m.seeds = static_cast<int>(values.size());
  if (values.empty()) return m;
  for (const double v : values) m.mean += v / static_cast<double>(values.size());
  if (values.size() < 2) return m;
  double squares = 0.0;
  for (const double v : values) squares += (v - m.mean) * (v - m.mean);
  m.spread = std::sqrt(squares / static_cast<double>(values.size() - 1));
  return m;
}

/// exp of the mean over seeds of the mean NLL; the spread in perplexity, to first order.
Measured perplexity_of(const std::vector<double>& mean_nll) {
  Measured m = mean_of(mean_nll);
  if (m.seeds == 0) return m;
  m.mean = std::exp(m.mean);
  m.spread *= m.mean;
  return m;
}

std::map<std::string, Measured> measure(const std::vector<const CellResult*>& seeds,
                                        const std::vector<ReportText>& texts, int64_t epochs) {
  std::map<std::string, Measured> all;
  for (size_t t = 0; t < texts.size(); ++t) {
    std::vector<double> nll;
    for (const CellResult* cell : seeds) {
      if (t < cell->texts.size()) nll.push_back(cell->texts[t].mean_nll);
    }
    all[texts[t].metric] = perplexity_of(nll);
  }
  std::vector<double> hours, gigabytes;
  for (const CellResult* cell : seeds) {
    hours.push_back(cell->seconds / 3600.0);
    gigabytes.push_back(static_cast<double>(cell->peak_bytes) / (1 << 30));
  }
  all["time_hours"] = mean_of(hours);
  all["gpu_memory_gb"] = mean_of(gigabytes);
  all["epochs"] = mean_of({static_cast<double>(epochs)});
  return all;
}

ReportRow report_row(const PlannedTable& table, const PlannedRow& planned, const Plan& plan,
                     const std::vector<std::optional<CellResult>>& results,
                     const std::vector<ReportText>& texts) {
  ReportRow row;
  row.name = planned.spec.name;
  row.label = planned.spec.label;
  row.orientation = planned.orientation;
  row.missing = planned.missing;
  row.because = planned.because;
  row.paper = planned.spec.paper;
  for (const PlannedRow& other : table.rows) {
    if (other.spec.name == planned.same_as) row.same_as = other.spec.label;
  }
  for (const std::vector<size_t>& seeds : planned.cells) {
    std::vector<const CellResult*> finished;
    for (const size_t cell : seeds) {
      row.cells.push_back(plan.cells[cell].key);
      if (!results[cell]) continue;
      finished.push_back(&*results[cell]);
      for (const std::string& note : results[cell]->notes) {
        if (row.notes.empty() || row.notes.back() != note) row.notes.push_back(note);
      }
    }
    if (finished.size() < seeds.size()) finished.clear();
    row.ours.push_back(finished.empty() ? std::map<std::string, Measured>()
                                        : measure(finished, texts, planned.epochs));
  }
  return row;
}

TrendStep judge_rows(const ReportRow& from, const ReportRow& to, size_t granularity,
                     const std::string& metric) {
  const auto paper = [&](const ReportRow& row) {
    const auto found = row.paper.find(metric);
    return found == row.paper.end() ? nullptr : &found->second;
  };
  const auto ours = [&](const ReportRow& row) {
    if (granularity >= row.ours.size()) return Measured{};
    const auto found = row.ours[granularity].find(metric);
    return found == row.ours[granularity].end() ? Measured{} : found->second;
  };
  const bool same = !from.cells.empty() && from.cells == to.cells;
  return judge(metric, paper(from), paper(to), ours(from), ours(to), same);
}

void add_trends(TableReport& report) {
  for (const TrendSpec& spec : report.spec.trends) {
    for (size_t i = 0; i + 1 < spec.rows.size(); ++i) {
      ReportTrend trend{spec.claim, spec.rows[i], spec.rows[i + 1], spec.rows.size() > 2, {}};
      for (size_t g = 0; g < report.granularities.size(); ++g) {
        trend.steps.emplace_back();
        for (const std::string& metric : spec.metrics) {
          trend.steps.back().push_back(
              judge_rows(*report.find_row(trend.from), *report.find_row(trend.to), g, metric));
        }
      }
      report.trends.push_back(std::move(trend));
    }
  }
}

nlohmann::json json_of(const Measured& m) {
  return {{"mean", m.mean}, {"spread", m.spread}, {"seeds", m.seeds}};
}

nlohmann::json json_of(const ReportRow& row, const std::vector<std::string>& granularities) {
  nlohmann::json json = {{"name", row.name},   {"label", row.label},
                         {"paper", row.paper}, {"orientation", row.orientation},
                         {"cells", row.cells}, {"notes", row.notes}};
  if (!row.missing.empty()) json["missing"] = row.missing;
  if (!row.same_as.empty()) json["same_as"] = {{"row", row.same_as}, {"because", row.because}};
  for (size_t g = 0; g < row.ours.size(); ++g) {
    for (const auto& [metric, value] : row.ours[g]) {
      json["ours"][granularities[g]][metric] = json_of(value);
    }
  }
  return json;
}

}  // namespace

std::vector<ReportText> report_texts(const std::vector<std::string>& names) {
  std::vector<ReportText> texts;
  for (const std::string& name : names) {
    switch (texts.size()) {
      case 0:
        texts.push_back({name, "c4_ppl", name + " as C4"});
        break;
      case 1:
        texts.push_back({name, "wikitext2_ppl", name + " as WikiText-2"});
        break;
      default:
        texts.push_back({name, name, name});
        break;
    }
  }
  return texts;
}

const ReportRow* TableReport::find_row(const std::string& name) const {
  for (const ReportRow& row : rows) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

TableReport make_report(const PlannedTable& table, const Plan& plan,
                        const std::vector<std::optional<CellResult>>& results,
                        const std::vector<ReportText>& texts,
                        const std::vector<std::string>& footnotes) {
  TableReport report;
  report.spec = table.spec;
  report.bits = table.bits;
  for (const GranularityChoice& g : plan.options.granularities) {
    report.granularities.push_back(g.name);
  }
  report.texts = texts;
  for (const PlannedRow& row : table.rows) {
    report.rows.push_back(report_row(table, row, plan, results, texts));
  }
  add_trends(report);
  report.footnotes = footnotes;
  return report;
}

nlohmann::json to_json(const TableReport& report) {
  nlohmann::json json = {{"table", report.spec.key},
                         {"title", report.spec.title},
                         {"bits", report.bits},
                         {"granularities", report.granularities},
                         {"paper",
                          {{"tables", report.spec.paper_tables},
                           {"model", report.spec.paper_model},
                           {"bits", report.spec.paper_bits}}},
                         {"budget", report.footnotes},
                         {"rows", nlohmann::json::array()},
                         {"trends", nlohmann::json::array()}};
  for (const ReportText& text : report.texts) {
    json["texts"].push_back({{"name", text.name}, {"metric", text.metric}});
  }
  for (const ReportRow& row : report.rows) {
    json["rows"].push_back(json_of(row, report.granularities));
  }
  for (const ReportTrend& trend : report.trends) {
    for (size_t g = 0; g < trend.steps.size(); ++g) {
      for (const TrendStep& step : trend.steps[g]) {
        json["trends"].push_back({{"claim", trend.claim},
                                  {"from", trend.from},
                                  {"to", trend.to},
                                  {"granularity", report.granularities[g]},
                                  {"metric", step.metric},
                                  {"paper", name_of(step.paper)},
                                  {"ours", name_of(step.ours)},
                                  {"change", step.change},
                                  {"noise", step.noise},
                                  {"verdict", name_of(step.verdict)}});
      }
    }
  }
  return json;
}

}  // namespace cbq
