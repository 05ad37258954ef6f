// Figure 1b of the paper: the Hessian of the model's loss with respect to one scale per block, at 4
// and at 2 bits.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "experiments/figures/context.h"
#include "experiments/figures/figure.h"
#include "experiments/figures/heat_map.h"
#include "experiments/figures/hessian.h"
#include "experiments/figures/line_chart.h"
#include "experiments/figures/scaled_blocks.h"
#include "experiments/format_text.h"

namespace cbq {
namespace {

const std::vector<int> compared_bits = {4, 2};
/// Steps of the finite differences, over whose Hessians the mean is taken (docs/run_ablation.md
/// says why these, docs/experiments.md what others give).
const std::vector<double> steps = {0.05, 0.1};

class Figure1b : public FigureMaker {
 public:
  std::string title() const override {
    return "Hessian of the loss in one scale multiplier per block, 4 and 2 bits (paper: Figure 1b)";
  }

  std::string obstacle(const FigureContext& context) const override {
    if (context.blocks() >= 2) return "";
    return concat(
        "figure 1b needs a model of at least two blocks, between which something can "
        "depend; ",
        context.model.name, " has ", context.blocks());
  }

  std::vector<FigurePart> parts(const FigureContext& context) const override {
    const Segments segments = context.loss_segments();
    std::vector<FigurePart> parts;
    for (const int b : compared_bits) {
      parts.push_back({fmt::format("Hessian over block scales at {} bits", b),
                       {{"segments", segments.size()},
                        {"steps", steps},
                        {"outliers", context.plan.outliers},
                        {"grid", to_json(context.nearest_settings(b, float_bits))}},
                       cost(context, segments)});
    }
    return parts;
  }

  nlohmann::json compute(const FigureContext& context, const FigurePart& part,
                         const Progress& progress) const override {
    Settings settings;
    apply_json(settings, part.parameters.at("grid"));
    const auto model = context.original();
    const Poll poll = context.poll_of("computing a Hessian over block scales");
    ScaledBlocks scaled(*model, settings, context.loss_segments(), poll);
    nlohmann::json hessians = nlohmann::json::array();
    for (size_t s = 0; s < steps.size(); ++s) {
      hessians.push_back(finite_difference_hessian(
          [&](const std::vector<double>& a) { return scaled.loss(a); }, context.blocks(), steps[s],
          [&](int64_t done, int64_t total) {
            progress(
                (static_cast<double>(s) + static_cast<double>(done) / static_cast<double>(total)) /
                static_cast<double>(steps.size()));
          }));
    }
    const std::vector<double> centre(static_cast<size_t>(context.blocks()), 0.0);
    return {{"hessians", hessians}, {"loss", scaled.loss(centre)}};
  }

  Figure draw(const FigureContext& context, const std::vector<FigurePart>&,
              const std::vector<nlohmann::json>& results) const override {
    Figure figure;
    figure.panels_per_row = 3;
    figure.data.columns = {{"bits", "of the weights"},
                           {"step", "of the finite differences; mean: the mean over the steps"},
                           {"row", "block i"},
                           {"column", "block j"},
                           {"value", "d2 L / da_i da_j, L in nats per token"}};
    std::vector<Matrix> means;
    for (size_t b = 0; b < compared_bits.size(); ++b) {
      const auto all = results[b].at("hessians").get<std::vector<Matrix>>();
      for (size_t s = 0; s < steps.size(); ++s) {
        add_rows(compared_bits[b], csv_number(steps[s]), all[s], figure.data);
      }
      means.push_back(mean_of(all));
      add_rows(compared_bits[b], "mean", means.back(), figure.data);
    }
    draw_panels(means, figure);
    describe(context, results, means, figure);
    return figure;
  }

 private:
  /// Two signs of each earlier block run the blocks behind it, for each two signs of a later one
  /// those behind that; the head is as much work as a block or two.
  static double cost(const FigureContext& context, const Segments& segments) {
    const auto n = static_cast<double>(context.blocks());
    const double runs = 2.0 * n * n * n / 3.0 + 2.0 * n * n + 4.0 * n * n;
    const auto tokens = static_cast<int64_t>(segments.size() * (segments.front().size() - 1));
    return pass_cost(context, tokens, runs * static_cast<double>(steps.size()));
  }

  static void add_rows(int of_bits, const std::string& step, const Matrix& h, FigureData& data) {
    for (size_t i = 0; i < h.size(); ++i) {
      for (size_t j = 0; j < h.size(); ++j) {
        data.add({std::to_string(of_bits), step, std::to_string(i), std::to_string(j),
                  csv_number(h[i][j])});
      }
    }
  }

  static Matrix absolute(Matrix h) {
    for (auto& row : h) {
      for (double& v : row) v = std::abs(v);
    }
    return h;
  }

  static void draw_panels(const std::vector<Matrix>& means, Figure& figure) {
    double largest = 0.0;
    for (const Matrix& h : means) {
      for (const auto& row : absolute(h)) {
        largest = std::max(largest, *std::max_element(row.begin(), row.end()));
      }
    }
    LineChart chart;
    chart.title = "Coupling of blocks by their distance";
    chart.x_label = "distance |i - j|";
    chart.y_label = "mean of |H_ij| / √|H_ii H_jj|";
    chart.from_zero = true;
    for (size_t b = 0; b < means.size(); ++b) {
      HeatMap map;
      map.title = fmt::format("|H| over block scales, {} bits", compared_bits[b]);
      map.x_label = "block j";
      map.y_label = "block i";
      map.value_label = "|H|, nats per token";
      map.values = absolute(means[b]);
      map.logarithmic = largest > 0.0;
      map.high = largest;
      map.low = largest * 1e-4;
      figure.panels.push_back(heat_map(map));
      Series series{fmt::format("{} bits", compared_bits[b]), {}, {}};
      for (int64_t d = 1; d < static_cast<int64_t>(means[b].size()); ++d) {
        series.x.push_back(static_cast<double>(d));
        series.y.push_back(mean_coupling(means[b], d));
      }
      chart.series.push_back(series);
    }
    figure.panels.push_back(line_chart(chart));
  }

  static double off_diagonal_mass(const Matrix& h) {
    double mass = 0.0;
    for (size_t i = 0; i < h.size(); ++i) {
      for (size_t j = 0; j < h.size(); ++j) mass += i == j ? 0.0 : std::abs(h[i][j]);
    }
    return mass;
  }

  /// The mean over all pairs that are no neighbours.
  static double coupling_of_others(const Matrix& h) {
    double sum = 0.0, pairs = 0.0;
    for (size_t d = 2; d < h.size(); ++d) {
      const auto count = static_cast<double>(h.size() - d);
      sum += count * mean_coupling(h, static_cast<int64_t>(d));
      pairs += count;
    }
    return pairs == 0.0 ? 0.0 : sum / pairs;
  }

  static void describe(const FigureContext& context, const std::vector<nlohmann::json>& results,
                       const std::vector<Matrix>& means, Figure& figure) {
    std::string shares, near, near_at, by_step;
    for (size_t b = 0; b < compared_bits.size(); ++b) {
      const std::string name = fmt::format("W{}", compared_bits[b]);
      const double share = off_diagonal_share(means[b]);
      const double one = mean_coupling(means[b], 1);
      figure.numbers.emplace_back("loss " + name, results[b].at("loss").get<double>());
      figure.numbers.emplace_back("off_diagonal_share " + name, share);
      figure.numbers.emplace_back("off_diagonal_mass " + name, off_diagonal_mass(means[b]));
      figure.numbers.emplace_back("coupling_of_neighbours " + name, one);
      const char* lead = b == 0 ? "" : ", ";
      shares += fmt::format("{}{} {:.3f} (sum of |H_ij|, i != j: {:.3g})", lead, name, share,
                            off_diagonal_mass(means[b]));
      const double others = coupling_of_others(means[b]);
      figure.numbers.emplace_back("coupling_of_others " + name, others);
      if (one > others) near_at += (near_at.empty() ? "at " : " and at ") + name;
      near += fmt::format("{}{} {:.3f} against {:.3f}", lead, name, one, others);
      for (const auto& h : results[b].at("hessians").get<std::vector<Matrix>>()) {
        by_step += fmt::format("{}{:.3f}", by_step.empty() ? "" : ", ", off_diagonal_share(h));
      }
    }
    const bool mass_grows = off_diagonal_mass(means[1]) > off_diagonal_mass(means[0]);
    const bool share_grows = off_diagonal_share(means[1]) > off_diagonal_share(means[0]);
    const Segments segments = context.loss_segments();
    figure.caption = {
        fmt::format("H_ij = ∂²L/∂a_i∂a_j at a = 0, where all weight scales of block b are "
                    "multiplied by 1 + a_b, weights are rounded to nearest on the grid of method "
                    "{}{}, and L is the mean negative log-likelihood on {} calibration segments "
                    "({} tokens).",
                    context.plan.method, context.planted(), segments.size(),
                    segments.size() * (segments.front().size() - 1)),
        fmt::format("Central differences, mean over the steps {:.2f} and {:.2f}; rounding makes L "
                    "rough, and these steps average over many weights that change their code. "
                    "Shares by step (4 bits, then 2): {}.",
                    steps.front(), steps.back(), by_step),
        concat("Share of the absolute mass off the diagonal: ", shares,
               "; mean coupling of neighbours against that of all other pairs: ", near, "."),
        concat("Paper: off-diagonal elements grow notably at lower bits, and closer blocks are "
               "coupled more. Here their sum ",
               mass_grows ? "grows" : "does not grow", " and their share ",
               share_grows ? "grows" : "does not grow", " from 4 to 2 bits: ",
               mass_grows && share_grows ? "the same"
               : mass_grows              ? "the same for the sum alone"
                                         : "not the same",
               ". Neighbours are coupled more than other pairs ",
               near_at.empty() ? "at neither of the bits." : near_at + ".")};
  }
};

[[maybe_unused]] const bool registered =
    figures().add("1b", [] { return std::make_unique<Figure1b>(); });

}  // namespace
}  // namespace cbq
