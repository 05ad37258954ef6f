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

/// Losses of text number `text` in the cells of a row.
SegmentSums losses_of(const std::vector<CellResult>& seeds, size_t text) {
  SegmentSums losses;
  for (const CellResult& cell : seeds) losses.sums.push_back(cell.texts.at(text).segment_nll);
  losses.tokens = seeds.front().texts.at(text).segment_tokens;
  return losses;
}

/// What the seeds' cells say of text number `t`.
void measure_text(const std::vector<CellResult>& seeds, size_t t, const ReportText& text,
                  std::map<std::string, Measured>& all) {
  std::vector<double> nll, kl, kl_p99, top1;
  for (const CellResult& cell : seeds) {
    const TextScore& score = cell.texts.at(t);
    nll.push_back(score.mean_nll);
    kl.push_back(score.kl);
    kl_p99.push_back(score.kl_p99);
    top1.push_back(score.top1);
  }
  Measured perplexity = perplexity_of(nll);
  const SegmentSums losses = losses_of(seeds, t);
  if (!losses.tokens.empty()) {
    const Estimate loss = mean_per_token(losses, text.documents);
    if (loss.has_error()) perplexity.error = perplexity.mean * loss.error;
  }
  all[text.metric] = perplexity;
  all[text.metric_of("kl")] = mean_of(kl);
  all[text.metric_of("kl_p99")] = mean_of(kl_p99);
  all[text.metric_of("top1")] = mean_of(top1);
}

/// Accuracies in the table's columns, where all seeds have them.
void add_accuracies(const TableSpec& spec, const std::vector<CellResult>& seeds,
                    std::map<std::string, Measured>& all) {
  for (const std::string& column : spec.columns) {
    std::vector<double> values;
    double error = 0.0;
    for (const CellResult& cell : seeds) {
      const TaskScore* score = find_score(cell.tasks, column, spec.accuracy);
      if (score == nullptr) continue;
      values.push_back(score->value);
      error = score->standard_error;
    }
    if (values.empty() || values.size() < seeds.size()) continue;
    all[column] = mean_of(values);
    all[column].error = error;
  }
}

std::map<std::string, Measured> measure(const std::vector<CellResult>& seeds,
                                        const std::vector<ReportText>& texts, const TableSpec& spec,
                                        const PlannedRow& row) {
  std::map<std::string, Measured> all;
  for (size_t t = 0; t < texts.size(); ++t) measure_text(seeds, t, texts[t], all);
  std::vector<double> hours, gigabytes, window_seconds;
  for (const CellResult& cell : seeds) {
    hours.push_back(cell.seconds / 3600.0 * row.time_factor);
    if (cell.windows > 0) {
      window_seconds.push_back(cell.seconds / static_cast<double>(cell.windows));
    }
    gigabytes.push_back(static_cast<double>(cell.peak_bytes) / 1e9);
  }
  all["time_hours"] = mean_of(hours);
  all["gpu_memory_gb"] = mean_of(gigabytes);
  all["epochs"] = mean_of({static_cast<double>(row.epochs)});
  all["iterations"] = mean_of({static_cast<double>(row.iterations)});
  all["window_seconds"] = mean_of(window_seconds);
  add_accuracies(spec, seeds, all);
  return all;
}

ReportRow report_row(const PlannedTable& table, const PlannedRow& planned, const Plan& plan,
                     const std::vector<std::optional<CellResult>>& results,
                     const std::vector<ReportText>& texts) {
  ReportRow row;
  row.name = planned.spec.name;
  row.label = planned.spec.label;
  row.bits = planned.bits;
  row.orientation = planned.orientation;
  row.at_hand = planned.at_hand;
  row.missing = planned.missing;
  row.group = planned.spec.group;
  row.time_factor = planned.time_factor;
  row.because = planned.because;
  row.paper = planned.spec.paper;
  for (const PlannedRow& other : table.rows) {
    if (other.spec.name == planned.same_as) row.same_as = other.spec.label;
  }
  for (const std::vector<size_t>& seeds : planned.cells) {
    std::vector<CellResult> finished;
    for (const size_t cell : seeds) {
      row.cells.push_back(plan.cells[cell].key);
      if (!results[cell]) continue;
      finished.push_back(*results[cell]);
      for (const std::string& note : results[cell]->notes) {
        if (row.notes.empty() || row.notes.back() != note) row.notes.push_back(note);
      }
    }
    if (finished.size() < seeds.size()) finished.clear();
    row.ours.push_back(finished.empty() ? std::map<std::string, Measured>()
                                        : measure(finished, texts, table.spec, planned));
    row.results.push_back(std::move(finished));
  }
  if (!planned.known.empty()) row.ours.resize(plan.options.granularities.size());
  for (const auto& [metric, value] : planned.known) {
    for (auto& ours : row.ours) ours[metric] = {value, 0.0, 1};
  }
  return row;
}

void add_trends(TableReport& report) {
  for (const TrendSpec& spec : report.spec.trends) {
    for (size_t i = 0; i + 1 < spec.rows.size(); ++i) {
      ReportTrend trend{spec.claim, spec.rows[i], spec.rows[i + 1], spec.rows.size() > 2, {}};
      for (size_t g = 0; g < report.granularities.size(); ++g) {
        trend.steps.emplace_back();
        for (const std::string& metric : spec.metrics) {
          trend.steps.back().push_back(judge_rows(
              *report.find_row(trend.from), *report.find_row(trend.to), g, metric, report.texts));
        }
      }
      report.trends.push_back(std::move(trend));
    }
  }
}

nlohmann::json json_of(const Measured& m) {
  nlohmann::json json = {{"mean", m.mean}, {"spread", m.spread}, {"seeds", m.seeds}};
  if (m.error > 0.0) json["error"] = m.error;
  return json;
}

nlohmann::json json_of(const ReportRow& row, const std::vector<std::string>& granularities) {
  nlohmann::json json = {{"name", row.name},
                         {"label", row.label},
                         {"bits", row.bits},
                         {"paper", row.paper},
                         {"orientation", row.orientation},
                         {"cells", row.cells},
                         {"notes", row.notes}};
  if (!row.group.empty()) json["group"] = row.group;
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

std::string ReportText::metric_of(const std::string& quantity) const {
  const size_t end = metric.ends_with("_ppl") ? metric.size() - 4 : metric.size();
  return metric.substr(0, end) + "_" + quantity;
}

std::vector<ReportText> report_texts(const std::vector<std::string>& names,
                                     const std::vector<std::vector<int64_t>>& documents) {
  std::vector<ReportText> texts;
  for (const std::string& name : names) {
    switch (texts.size()) {
      case 0:
        texts.push_back({name, first_text_ppl, name + " as C4"});
        break;
      case 1:
        texts.push_back({name, second_text_ppl, name + " as WikiText-2"});
        break;
      default:
        texts.push_back({name, name, name});
        break;
    }
    if (texts.size() <= documents.size()) texts.back().documents = documents[texts.size() - 1];
  }
  return texts;
}

std::optional<Estimate> loss_difference(const ReportRow& from, const ReportRow& to,
                                        size_t granularity, size_t text,
                                        const std::vector<ReportText>& texts) {
  for (const ReportRow* row : {&from, &to}) {
    if (granularity >= row->results.size() || row->results[granularity].empty()) return {};
  }
  const SegmentSums before = losses_of(from.results[granularity], text);
  const SegmentSums after = losses_of(to.results[granularity], text);
  if (before.tokens.empty() || after.tokens.empty()) return {};
  return paired_difference(before, after, texts[text].documents);
}

TrendStep judge_rows(const ReportRow& from, const ReportRow& to, size_t granularity,
                     const std::string& metric, const std::vector<ReportText>& texts) {
  const auto paper = [&](const ReportRow& row) {
    const auto found = row.paper.find(metric);
    return found == row.paper.end() ? nullptr : &found->second;
  };
  const auto ours = [&](const ReportRow& row) {
    if (granularity >= row.ours.size()) return Measured{};
    const auto found = row.ours[granularity].find(metric);
    return found == row.ours[granularity].end() ? Measured{} : found->second;
  };
  // Hours of two sizes may be extrapolated from one cell.
  const bool same =
      !from.cells.empty() && from.cells == to.cells && from.time_factor == to.time_factor;
  std::optional<Estimate> losses;
  for (size_t t = 0; t < texts.size(); ++t) {
    if (texts[t].metric == metric) losses = loss_difference(from, to, granularity, t, texts);
  }
  return judge(metric, paper(from), paper(to), ours(from), ours(to), same,
               losses ? &*losses : nullptr);
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
  if (table.spec.kind == TableKind::settings) report.texts = texts;
  for (const PlannedRow& row : table.rows) {
    report.rows.push_back(report_row(table, row, plan, results, texts));
  }
  add_trends(report);
  report.remarks = table.remarks;
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
  if (!report.remarks.empty()) json["models"] = report.remarks;
  for (const DoubtSpec& doubt : report.spec.doubts) json["doubts"].push_back(doubt.text());
  for (const ReportText& text : report.texts) {
    json["texts"].push_back({{"name", text.name},
                             {"metric", text.metric},
                             {"documents_known", !text.documents.empty()}});
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
                                  {"error", step.error},
                                  {"noise", step.noise},
                                  {"verdict", name_of(step.verdict)}});
      }
    }
  }
  return json;
}

}  // namespace cbq
