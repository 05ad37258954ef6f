// Figure 1a of the paper: the absolute Hessian of the weights within one layer, H = 2 X^T X of its
// inputs, and whether more of it lies off the diagonal where the inputs are quantized.
#include <fmt/format.h>

#include <algorithm>

#include "cbq/quantizers.h"
#include "experiments/figures/context.h"
#include "experiments/figures/figure.h"
#include "experiments/figures/heat_map.h"
#include "experiments/figures/input_hessian.h"
#include "experiments/figures/line_chart.h"
#include "experiments/format_text.h"
#include "tensor/runtime/shapes_only.h"

namespace cbq {
namespace {

constexpr size_t cells = 64;  // of the picture in each direction

struct Stream {
  int wbits, abits;
  std::string name() const {
    return wbits == float_bits ? "original" : fmt::format("W{}A{}", wbits, abits);
  }
};
/// Weights of the blocks in front and inputs of the layer itself at these bits.
const std::vector<Stream> streams = {
    {float_bits, float_bits}, {4, float_bits}, {2, float_bits}, {4, 4}, {2, 2}};

/// Names of every block's linears below the block's prefix, in order.
std::vector<std::vector<std::string>> linear_names(const ModelConfig& config, std::string& prefix) {
  const ShapesOnly without_memory;
  const auto shapes = make_without_blocks(config, Dtype::f32, Device::cpu());
  shapes->open_blocks(config.num_layers, nullptr);
  prefix = shapes->block_prefix(0);
  std::vector<std::vector<std::string>> names(static_cast<size_t>(config.num_layers));
  for (int64_t b = 0; b < config.num_layers; ++b) {
    for (const NamedLinear& l : shapes->make_block_at(b)->linears()) {
      names[static_cast<size_t>(b)].push_back(l.name);
    }
  }
  return names;
}

struct ChosenLayer {
  std::string path;
  int64_t block = 0;
  size_t index = 0;  // in Block::linears
};

ChosenLayer chosen_layer(const FigureContext& context) {
  const ModelConfig& config = context.config;
  std::string first;
  const std::vector<std::vector<std::string>> all = linear_names(config, first);
  const std::vector<std::string>& names = all.front();
  const std::string& asked = context.options.layer;
  if (asked.empty()) return {first + names.front(), 0, 0};
  const std::string stem = first.substr(0, first.size() - 2);  // without "0."
  for (int64_t b = 0; b < config.num_layers; ++b) {
    const std::vector<std::string>& own = all[static_cast<size_t>(b)];
    for (size_t i = 0; i < own.size(); ++i) {
      const std::string path = concat(stem, b, ".", own[i]);
      if (path == asked) return {path, b, i};
    }
  }
  std::string known;
  for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
  throw std::invalid_argument(message_of("--figure-layer ", asked, ": no such layer; layers are ",
                                         stem, "0 to ", stem, config.num_layers - 1, ", each with ",
                                         known, ", as in ", first, names.front()));
}

class Figure1a : public FigureMaker {
 public:
  std::string title() const override {
    return "|Hessian| of the weights within a layer, 2 X^T X of its inputs (paper: Figure 1a)";
  }

  std::string obstacle(const FigureContext& context) const override {
    chosen_layer(context);
    return "";
  }

  std::vector<FigurePart> parts(const FigureContext& context) const override {
    const ChosenLayer layer = chosen_layer(context);
    std::vector<FigurePart> parts;
    for (const Stream& s : streams) {
      parts.push_back({"inputs of " + layer.path + ", " + s.name(),
                       {{"layer", layer.path},
                        {"outliers", context.plan.outliers},
                        {"grid", to_json(context.nearest_settings(s.wbits, s.abits))}},
                       pass_cost(context, context.bench.calibration.token_count(),
                                 static_cast<double>(context.blocks()))});
    }
    return parts;
  }

  nlohmann::json compute(const FigureContext& context, const FigurePart& part,
                         const Progress& progress) const override {
    const ChosenLayer layer = chosen_layer(context);
    Settings settings;
    apply_json(settings, part.parameters.at("grid"));
    const auto model = context.original();
    const Poll poll = context.poll_of("collecting the inputs of a layer");
    if (settings.quantizes()) {
      attach_quantizers(*model, {0, context.blocks()}, settings, Tensor(), {}, poll);
    }
    nlohmann::json shares = nlohmann::json::array(), means;
    for_each_input_gram(
        *model, context.bench.calibration.segments, layer.index, poll,
        [&](int64_t block, const InputGram& gram) {
          const Matrix h = input_hessian(gram);
          shares.push_back(off_diagonal_share(h));
          if (block == layer.block) means = absolute_block_means(h, cells);
          progress(static_cast<double>(block + 1) / static_cast<double>(context.blocks()));
        });
    return {{"shares", shares}, {"means", means}};
  }

  Figure draw(const FigureContext& context, const std::vector<FigurePart>&,
              const std::vector<nlohmann::json>& results) const override {
    const ChosenLayer layer = chosen_layer(context);
    Figure figure;
    figure.panels_per_row = 3;
    figure.data.columns = {
        {"quantity",
         "abs_hessian: mean of |H| over a cell of the picture; off_diagonal_share: sum "
         "of |H_ij| with i != j over the sum of all |H_ij|"},
        {"inputs", "original, or bits of the weights in front and of the layer's input"},
        {"block", "block of the layer"},
        {"row", "row of the picture, from 0; empty for a share"},
        {"column", "its column"},
        {"value", "the quantity"}};
    for (size_t s = 0; s < streams.size(); ++s) add_rows(results[s], s, layer, figure.data);
    draw_panels(results, layer, figure);
    describe(context, layer, results, figure);
    return figure;
  }

 private:
  static void add_rows(const nlohmann::json& result, size_t stream, const ChosenLayer& layer,
                       FigureData& data) {
    const auto means = result.at("means").get<Matrix>();
    for (size_t r = 0; r < means.size(); ++r) {
      for (size_t c = 0; c < means[r].size(); ++c) {
        data.add({"abs_hessian", streams[stream].name(), std::to_string(layer.block),
                  std::to_string(r), std::to_string(c), csv_number(means[r][c])});
      }
    }
    const auto shares = result.at("shares").get<std::vector<double>>();
    for (size_t b = 0; b < shares.size(); ++b) {
      data.add({"off_diagonal_share", streams[stream].name(), std::to_string(b), "", "",
                csv_number(shares[b])});
    }
  }

  static void draw_panels(const std::vector<nlohmann::json>& results, const ChosenLayer& layer,
                          Figure& figure) {
    double largest = 0.0;
    for (const nlohmann::json& result : results) {
      for (const auto& row : result.at("means").get<Matrix>()) {
        largest = std::max(largest, *std::max_element(row.begin(), row.end()));
      }
    }
    for (const size_t s : {size_t{0}, streams.size() - 1}) {
      HeatMap map;
      map.title = concat("|H|, ", streams[s].name(), " inputs");
      map.x_label = "input channel (cells of the picture)";
      map.y_label = "input channel";
      map.value_label = "|2 XᵀX| / tokens";
      map.values = results[s].at("means").get<Matrix>();
      map.logarithmic = largest > 0.0;
      map.high = largest;
      map.low = largest * 1e-4;
      figure.panels.push_back(heat_map(map));
    }
    LineChart chart;
    chart.title = "Share of |H| off the diagonal";
    chart.x_label = concat("block (layer ", layer.path.substr(layer.path.rfind('.') + 1), ")");
    chart.y_label = "share of the absolute mass";
    for (size_t s = 0; s < streams.size(); ++s) {
      Series series{streams[s].name(), {}, results[s].at("shares").get<std::vector<double>>()};
      for (size_t b = 0; b < series.y.size(); ++b) series.x.push_back(static_cast<double>(b));
      chart.series.push_back(series);
    }
    figure.panels.push_back(line_chart(chart));
  }

  static void describe(const FigureContext& context, const ChosenLayer& layer,
                       const std::vector<nlohmann::json>& results, Figure& figure) {
    std::string of_layer, of_blocks;
    std::vector<double> means;
    for (size_t s = 0; s < streams.size(); ++s) {
      const auto shares = results[s].at("shares").get<std::vector<double>>();
      double mean = 0.0;
      for (const double share : shares) mean += share / static_cast<double>(shares.size());
      means.push_back(mean);
      const double own = shares.at(static_cast<size_t>(layer.block));
      figure.numbers.emplace_back("off_diagonal_share " + streams[s].name(), own);
      figure.numbers.emplace_back("mean_off_diagonal_share " + streams[s].name(), mean);
      const std::string lead = (s == 0 ? "" : ", ") + streams[s].name();
      of_layer += fmt::format("{} {:.3f}", lead, own);
      of_blocks += fmt::format("{} {:.3f}", lead, mean);
    }
    const auto growth = [&](size_t four, size_t two) {
      return means[four] > means[0] && means[two] > means[four] ? "grows" : "does not grow";
    };
    figure.caption = {
        concat("H = 2 XᵀX / tokens of the inputs X of ", layer.path, context.planted(),
               ", which every row of the weight shares; means over cells of ", cells, " x ", cells,
               " at most, colours by the logarithm over four decades."),
        "WbAc: the weights in front have b bits, rounded to nearest on the method's grid, and the "
        "layer's input c bits, asymmetric with a range per token. In the first block, weights in "
        "front change nothing (A16 rows).",
        concat("Share of the absolute mass off the diagonal, this layer: ", of_layer, "."),
        concat("Mean over the same layer of all blocks: ", of_blocks, "."),
        concat("Paper: off-diagonal elements grow notably at lower bits. Here the mean share ",
               growth(1, 2), " from the original to 4 to 2 bits of the weights in front, and ",
               growth(3, 4), " where the layer's own input is rounded, too.")};
  }
};

[[maybe_unused]] const bool registered =
    figures().add("1a", [] { return std::make_unique<Figure1a>(); });

}  // namespace
}  // namespace cbq
