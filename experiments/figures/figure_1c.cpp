// Figure 1c of the paper: the model's loss over the scales of its first two blocks.
#include <fmt/format.h>

#include <cmath>

#include "experiments/figures/context.h"
#include "experiments/figures/figure.h"
#include "experiments/figures/heat_map.h"
#include "experiments/figures/loss_surface.h"
#include "experiments/figures/scaled_blocks.h"
#include "experiments/format_text.h"

namespace cbq {
namespace {

const std::vector<int> surface_bits = {4, 2};
constexpr int points = 17;
constexpr double from = 0.8, to = 1.2;  // multipliers

std::vector<double> multipliers() {
  std::vector<double> all;
  for (int i = 0; i < points; ++i) all.push_back(from + (to - from) * i / (points - 1));
  return all;
}

class Figure1c : public FigureMaker {
 public:
  std::string title() const override {
    return "loss over the scales of the first two blocks, 4 and 2 bits (paper: Figure 1c)";
  }

  std::string obstacle(const FigureContext& context) const override {
    if (context.blocks() >= 2) return "";
    return concat("figure 1c needs a model of at least two blocks, whose scales it varies; ",
                  context.model.name, " has ", context.blocks());
  }

  std::vector<FigurePart> parts(const FigureContext& context) const override {
    const Segments segments = context.loss_segments();
    const auto tokens = static_cast<int64_t>(segments.size() * (segments.front().size() - 1));
    const double runs = points * points * static_cast<double>(context.blocks() + 1);
    std::vector<FigurePart> parts;
    for (const int b : surface_bits) {
      parts.push_back({fmt::format("loss surface at {} bits", b),
                       {{"segments", segments.size()},
                        {"multipliers", multipliers()},
                        {"outliers", context.plan.outliers},
                        {"grid", to_json(context.nearest_settings(b, float_bits))}},
                       pass_cost(context, tokens, runs)});
    }
    return parts;
  }

  nlohmann::json compute(const FigureContext& context, const FigurePart& part,
                         const Progress& progress) const override {
    Settings settings;
    apply_json(settings, part.parameters.at("grid"));
    const auto model = context.original();
    const Poll poll = context.poll_of("computing a loss surface");
    ScaledBlocks scaled(*model, settings, context.loss_segments(), poll);
    std::vector<double> a(static_cast<size_t>(context.blocks()), 0.0);
    const LossSurface surface = loss_surface(
        [&](double x, double y) {
          a[0] = x - 1.0;
          a[1] = y - 1.0;
          return scaled.loss(a);
        },
        multipliers(),
        [&](int64_t done, int64_t total) {
          progress(static_cast<double>(done) / static_cast<double>(total));
        });
    return {{"loss", surface.loss}};
  }

  Figure draw(const FigureContext& context, const std::vector<FigurePart>&,
              const std::vector<nlohmann::json>& results) const override {
    Figure figure;
    figure.data.columns = {{"bits", "of the weights"},
                           {"first", "multiplier of the scales of block 0"},
                           {"second", "multiplier of the scales of block 1"},
                           {"value", "loss, nats per token"}};
    std::vector<SurfaceMinimum> minima;
    for (size_t b = 0; b < surface_bits.size(); ++b) {
      const LossSurface surface{multipliers(), results[b].at("loss").get<Matrix>()};
      add_rows(surface_bits[b], surface, figure.data);
      minima.push_back(minimum_of(surface, 1.0));
      figure.panels.push_back(panel_of(surface_bits[b], surface, minima.back()));
    }
    describe(context, minima, figure);
    return figure;
  }

 private:
  static void add_rows(int of_bits, const LossSurface& surface, FigureData& data) {
    for (size_t i = 0; i < surface.grid.size(); ++i) {
      for (size_t j = 0; j < surface.grid.size(); ++j) {
        data.add({std::to_string(of_bits), csv_number(surface.grid[i]), csv_number(surface.grid[j]),
                  csv_number(surface.loss[i][j])});
      }
    }
  }

  /// Across: block 0, upwards: block 1.
  static Panel panel_of(int of_bits, const LossSurface& surface, const SurfaceMinimum& m) {
    const size_t n = surface.grid.size();
    const double half = (to - from) / (points - 1) / 2.0;
    HeatMap map;
    map.title = fmt::format("Loss, {} bits", of_bits);
    map.x_label = "scale multiplier of block 0";
    map.y_label = "scale multiplier of block 1";
    map.value_label = "nats per token";
    map.x_from = from - half;
    map.x_to = to + half;
    map.y_from = to + half;
    map.y_to = from - half;
    map.values.assign(n, std::vector<double>(n));
    double highest = m.loss;
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) {
        map.values[n - 1 - j][i] = surface.loss[i][j];
        highest = std::max(highest, surface.loss[i][j]);
      }
    }
    for (const double part : {0.02, 0.05, 0.1, 0.2, 0.35, 0.55, 0.8}) {
      map.contours.push_back(m.loss + part * (highest - m.loss));
    }
    map.marks = {{m.separate_x, m.separate_y,
                  fmt::format("each block alone: ({:.3f}, {:.3f}), {:.4f}", m.separate_x,
                              m.separate_y, m.separate_loss),
                  false},
                 {m.x, m.y, fmt::format("minimum: ({:.3f}, {:.3f}), {:.4f}", m.x, m.y, m.loss)}};
    return heat_map(map);
  }

  static void describe(const FigureContext& context, const std::vector<SurfaceMinimum>& minima,
                       Figure& figure) {
    std::string text;
    for (size_t b = 0; b < surface_bits.size(); ++b) {
      const SurfaceMinimum& m = minima[b];
      const std::string name = fmt::format("W{}", surface_bits[b]);
      figure.numbers.emplace_back("minimum_loss " + name, m.loss);
      figure.numbers.emplace_back("minimum_first " + name, m.x);
      figure.numbers.emplace_back("minimum_second " + name, m.y);
      figure.numbers.emplace_back("separable_first " + name, m.separate_x);
      figure.numbers.emplace_back("separable_second " + name, m.separate_y);
      figure.numbers.emplace_back("offset " + name, m.offset);
      figure.numbers.emplace_back("interaction " + name, m.interaction);
      figure.numbers.emplace_back("range " + name, m.range);
      text += fmt::format(
          "{}{}: minimum at ({:.3f}, {:.3f}), each block alone ({:.3f}, {:.3f}), offset {:.3f}, "
          "loss {:.4f} against {:.4f}, interaction {:.4f} nats of a range of {:.4f}",
          b == 0 ? "" : "; ", name, m.x, m.y, m.separate_x, m.separate_y, m.offset, m.loss,
          m.separate_loss, m.interaction, m.range);
    }
    const auto share = [](const SurfaceMinimum& m) {
      return m.range > 0.0 ? 100.0 * m.interaction / m.range : 0.0;
    };
    const bool more_nats = minima[1].interaction > minima[0].interaction;
    const bool larger_share = share(minima[1]) > share(minima[0]);
    const char* verdict = more_nats && larger_share ? "the same"
                          : more_nats    ? "the same in nats, not as a share of the range"
                          : larger_share ? "the same as a share of the range, not in nats"
                                         : "not the same";
    const Segments segments = context.loss_segments();
    figure.caption = {
        fmt::format("Mean negative log-likelihood on {} calibration segments ({} tokens) where the "
                    "weight scales of blocks 0 and 1 are multiplied by {:.1f} to {:.1f} ({} x {} "
                    "points) and all weights are rounded to nearest on the grid of method {}{}.",
                    segments.size(), segments.size() * (segments.front().size() - 1), from, to,
                    points, points, context.plan.method, context.planted()),
        concat("Of the grid's points: ", text, "."),
        concat("The open mark is where each block by itself has its least loss with the other at "
               "1; interaction is the largest distance from the sum of both separate curves."),
        fmt::format("Paper: the scales of adjacent blocks depend on each other, more at low bits. "
                    "Here the interaction is {:.4f} nats at 4 bits and {:.4f} at 2 ({:.1f} and "
                    "{:.1f} % of the range): {}.",
                    minima[0].interaction, minima[1].interaction, share(minima[0]),
                    share(minima[1]), verdict)};
  }
};

[[maybe_unused]] const bool registered =
    figures().add("1c", [] { return std::make_unique<Figure1c>(); });

}  // namespace
}  // namespace cbq
