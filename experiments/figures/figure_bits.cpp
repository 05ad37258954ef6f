// Our own figure: loss against the bits of the weights, by method. Its parts are cells of the
// tables
// (--axis method), so that nothing is computed twice.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "experiments/figures/context.h"
#include "experiments/figures/figure.h"
#include "experiments/figures/line_chart.h"
#include "experiments/format_text.h"
#include "experiments/statistics.h"

namespace cbq {
namespace {

const std::vector<int> drawn_bits = {2, 3, 4, 8};

std::string bits_text(int wbits) { return concat("W", wbits, "A", float_bits); }

/// The table along the axis "method" at each of the bits.
Plan plan_of(const FigureContext& context) {
  PlanOptions options = context.plan;
  options.bits.clear();
  for (const int b : drawn_bits) options.bits.push_back(bits_text(b));
  options.granularities = {context.plan.granularities.front()};
  options.task_metrics.clear();
  const TableSpec table = axis_table("method", context.options.methods, context.blocks());
  return make_plan({table}, context.model, options, context.model.inputs);
}

/// The rows of the plan that are drawn: the original model once, and every method at its bits.
struct DrawnRow {
  const PlannedRow* row;
  int wbits;  // float_bits: the original model
};
std::vector<DrawnRow> drawn_rows(const Plan& plan) {
  std::vector<DrawnRow> rows;
  for (const PlannedTable& table : plan.tables) {
    for (const PlannedRow& row : table.rows) {
      const int wbits = parse_bits(row.bits).first;
      const bool original = wbits == float_bits;
      if (original ? !rows.empty() : row.orientation) continue;
      rows.push_back({&row, wbits});
    }
  }
  return rows;
}

class FigureBits : public FigureMaker {
 public:
  std::string title() const override {
    return "loss against the bits of the weights, by method (our own; cells of --axis method)";
  }

  std::string obstacle(const FigureContext& context) const override {
    if (context.bench.texts.empty()) return "figure bits measures on test texts; give --texts";
    plan_of(context);
    return "";
  }

  std::vector<FigurePart> parts(const FigureContext& context) const override {
    const Plan plan = plan_of(context);
    std::vector<FigurePart> parts;
    for (const DrawnRow& drawn : drawn_rows(plan)) {
      if (drawn.row->cells.empty()) continue;
      for (const size_t seed : drawn.row->cells.front()) {
        const Cell& cell = plan.cells[seed];
        parts.push_back({drawn.row->spec.label + " " + drawn.row->bits, nullptr, cell.cost, cell});
      }
    }
    return parts;
  }

  nlohmann::json compute(const FigureContext&, const FigurePart&, const Progress&) const override {
    throw std::logic_error("figure bits has no parts but cells");
  }

  Figure draw(const FigureContext& context, const std::vector<FigurePart>& parts,
              const std::vector<nlohmann::json>& results) const override {
    std::map<std::string, CellResult> by_key;
    for (size_t i = 0; i < parts.size(); ++i) {
      by_key[parts[i].cell->key] = cell_result_from_json(results[i], parts[i].what);
    }
    Figure figure;
    figure.data.columns = {{"text", "name of the test text"},
                           {"method", "original, or of cbq methods, or a file"},
                           {"wbits", "bits of the weights; 16: floating point"},
                           {"mean_nll", "nats per token, mean over the seeds"},
                           {"standard_error", "of mean_nll, over segments and seeds"},
                           {"perplexity", "exp of mean_nll"},
                           {"cells", "keys of the cells, one per seed"}};
    const Plan plan = plan_of(context);
    for (size_t t = 0; t < context.texts.size(); ++t) {
      add_text(context, plan, by_key, t, figure);
    }
    figure.caption.insert(
        figure.caption.begin(),
        {fmt::format(
            "Mean negative log-likelihood on the test texts against the bits of the "
            "weights, activations in floating point{}; bars: one standard error; {} seed{} "
            "from 0. The cells are those of run_ablation --axis method.",
            context.planted(), context.plan.seeds, context.plan.seeds == 1 ? "" : "s")});
    figure.caption.push_back(
        "The paper has no such figure; its tables 2 and 13 give W4A16 and W2A16.");
    for (const DrawnRow& drawn : drawn_rows(plan)) {
      if (drawn.row->missing.empty()) continue;
      figure.caption.push_back(concat("Left out: ", drawn.row->spec.label, " ", drawn.row->bits,
                                      ": ", drawn.row->missing));
    }
    return figure;
  }

 private:
  static Estimate loss_of(const FigureContext& context, const Plan& plan, const PlannedRow& row,
                          const std::map<std::string, CellResult>& by_key, size_t text,
                          std::string& keys) {
    SegmentSums sums;
    for (const size_t seed : row.cells.front()) {
      const std::string& key = plan.cells[seed].key;
      keys += (keys.empty() ? "" : " ") + key;
      const TextScore& score = by_key.at(key).texts.at(text);
      sums.sums.push_back(score.segment_nll);
      sums.tokens = score.segment_tokens;
    }
    return mean_per_token(sums, context.bench.texts[text].documents);
  }

  static void add_text(const FigureContext& context, const Plan& plan,
                       const std::map<std::string, CellResult>& by_key, size_t text,
                       Figure& figure) {
    LineChart chart;
    chart.title = context.texts[text];
    chart.x_label = "bits of the weights";
    chart.y_label = "nats per token";
    for (const int b : drawn_bits) chart.x_ticks.push_back(b);
    std::map<std::string, Series> series;
    for (const DrawnRow& drawn : drawn_rows(plan)) {
      if (drawn.row->cells.empty()) continue;
      std::string keys;
      const Estimate loss = loss_of(context, plan, *drawn.row, by_key, text, keys);
      const bool original = drawn.wbits == float_bits;
      const std::string name = original ? "original" : drawn.row->spec.name;
      figure.data.add({context.texts[text], name, std::to_string(drawn.wbits),
                       csv_number(loss.mean), loss.has_error() ? csv_number(loss.error) : "",
                       csv_number(std::exp(loss.mean)), keys});
      figure.numbers.emplace_back(
          concat("mean_nll ", context.texts[text], " ", name, " W", drawn.wbits), loss.mean);
      if (original) {
        chart.references.push_back({loss.mean, "original model"});
        continue;
      }
      Series& s = series[name];
      s.name = name;
      s.x.push_back(drawn.wbits);
      s.y.push_back(loss.mean);
      s.error.push_back(loss.has_error() ? loss.error : 0.0);
    }
    for (const std::string& method : context.options.methods) {
      if (series.count(method) > 0) chart.series.push_back(series[method]);
    }
    figure.panels.push_back(line_chart(chart));
    figure.caption.push_back(summary_of(context.texts[text], chart));
  }

  /// "gcide: nearest 3.782 at 2 bits, 3.083 at 3, 3.020 at 4; gptq ...; original 3.003."
  static std::string summary_of(const std::string& text, const LineChart& chart) {
    std::string line = text + ":";
    for (const Series& s : chart.series) {
      line += (line.back() == ':' ? " " : "; ") + s.name;
      for (size_t i = 0; i < s.y.size(); ++i) {
        line += fmt::format("{} {:.3f} at {}{}", i == 0 ? "" : ",", s.y[i], s.x[i],
                            i == 0 ? " bits" : "");
      }
    }
    if (!chart.references.empty()) {
      line += fmt::format("; original {:.3f}", chart.references.front().y);
    }
    return line + ".";
  }
};

[[maybe_unused]] const bool registered =
    figures().add("bits", [] { return std::make_unique<FigureBits>(); });

}  // namespace
}  // namespace cbq
