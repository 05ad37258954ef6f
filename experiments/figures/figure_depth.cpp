// Our own figure: how the error of the quantized stream grows along the depth, by method.
#include <fmt/format.h>

#include <algorithm>

#include "cbq/activation_cache.h"
#include "cbq/global_transforms.h"
#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "experiments/figures/context.h"
#include "experiments/figures/figure.h"
#include "experiments/figures/line_chart.h"
#include "experiments/format_text.h"
#include "kernels/ops.h"

namespace cbq {
namespace {

std::string bits_of(const FigureContext& context) {
  return context.plan.bits.empty() ? "W2A16" : context.plan.bits.front();
}

/// Held-out text: the first segments of the first test text that hold options.tokens tokens.
Segments held_out(const FigureContext& context) {
  const Segments& all = context.bench.texts.front().segments;
  const auto length = static_cast<int64_t>(all.front().size());
  Segments some;
  for (const auto& segment : all) {
    if (static_cast<int64_t>(some.size()) * length >= context.options.tokens) break;
    if (static_cast<int64_t>(segment.size()) == length) some.push_back(segment);
  }
  return some;
}

/// The mean over tokens of ||x^ - x||^2 / ||x||^2.
double relative_error(const Tensor& quantized, const Tensor& original) {
  const Tensor rows =
      kernels::row_error(quantized, original, 1.0, kernels::L2Form::relative, 0.0, false).loss;
  double sum = 0.0;
  const std::vector<double> all = rows.to_vector<double>();
  for (const double row : all) sum += row;
  return sum / static_cast<double>(all.size()) / static_cast<double>(original.size(-1));
}

class FigureDepth : public FigureMaker {
 public:
  std::string title() const override {
    return "error of the quantized stream behind each block, by method (our own)";
  }

  std::string obstacle(const FigureContext& context) const override {
    for (const std::string& method : context.options.methods) find_method(method);
    if (context.bench.texts.empty()) return "figure depth measures on a test text; give --texts";
    return "";
  }

  std::vector<FigurePart> parts(const FigureContext& context) const override {
    std::vector<FigurePart> parts;
    for (const std::string& method : served_methods(context)) {
      const Settings settings = context.method_settings_at(method, bits_of(context));
      const CellWork work = {context.plan.work.calibration_tokens, 0};
      const Cell cell = make_cell(settings, context.blocks(), work, context.model.inputs);
      const double weights = pass_cost(context, 1, 1.0);
      parts.push_back({concat("streams of method ", method),
                       {{"settings", to_json(canonical(settings, context.blocks()))},
                        {"method", method},
                        {"held_out", digest_of(held_out(context))}},
                       cell.cost * weights});
    }
    return parts;
  }

  nlohmann::json compute(const FigureContext& context, const FigurePart& part,
                         const Progress& progress) const override {
    const auto method = part.parameters.at("method").get<std::string>();
    const Settings settings = context.method_settings_at(method, bits_of(context));
    const auto model = context.untouched();
    apply_global_transforms(*model, settings);
    const Segments text = held_out(context);
    const auto original = cache_in_memory(*model, text, context.watch());
    RunHooks hooks;
    hooks.interrupted = context.bench.interrupted;
    hooks.progress = [&](int64_t done, int64_t total, const std::string&) {
      progress(static_cast<double>(done) / static_cast<double>(total));
    };
    std::shared_ptr<ActivationCache> calibration;
    if (needs_original_activations(settings)) {
      calibration =
          cache_on_disk(*model, context.bench.calibration.segments, context.bench.folder / "cache",
                        context.bench.say, context.watch());
    }
    quantize(*model, context.bench.calibration.segments, settings, calibration, hooks);
    std::vector<double> errors;
    Tensor stream = embed_segments(*model, text);
    for (int64_t b = 0; b < context.blocks(); ++b) {
      stream = run_blocks(*model, {b, 1}, stream, context.poll_of("measuring a stream"));
      const Tensor target = original->get(b + 1, 0, static_cast<int64_t>(text.size()));
      errors.push_back(relative_error(stream.to(model->device()), target));
    }
    return {{"errors", errors}};
  }

  Figure draw(const FigureContext& context, const std::vector<FigurePart>& parts,
              const std::vector<nlohmann::json>& results) const override {
    Figure figure;
    figure.data.columns = {{"method", "of cbq methods, or a file"},
                           {"block", "behind which the streams are compared"},
                           {"value", "mean over tokens of ||x^ - x||^2 / ||x||^2"}};
    LineChart chart;
    chart.title = concat("Error behind each block, ", bits_of(context));
    chart.x_label = "block";
    chart.y_label = "relative squared error";
    chart.logarithmic_y = true;
    std::string last;
    for (size_t m = 0; m < parts.size(); ++m) {
      const auto method = parts[m].parameters.at("method").get<std::string>();
      Series series{method, {}, results[m].at("errors").get<std::vector<double>>()};
      for (size_t b = 0; b < series.y.size(); ++b) {
        series.x.push_back(static_cast<double>(b));
        figure.data.add({method, std::to_string(b), csv_number(series.y[b])});
      }
      figure.numbers.emplace_back("last_error " + method, series.y.back());
      last += fmt::format("{}{} {:.3g}", last.empty() ? "" : ", ", method, series.y.back());
      chart.series.push_back(std::move(series));
    }
    figure.panels = {line_chart(chart)};
    figure.caption = {
        fmt::format("Mean over {} tokens of held-out text ({}) of ‖x̂ - x‖² / ‖x‖², x the original "
                    "stream behind a block and x̂ the quantized one, at {}{}; seed 0.",
                    held_out(context).size() * held_out(context).front().size(),
                    context.texts.front(), bits_of(context), context.planted()),
        concat("Behind the last block: ", last, "."),
        "The paper has no such figure; it says that errors accumulate from block to block "
        "(section 3.1), and cross-block reconstruction is to hold them down."};
    for (const std::string& method : context.options.methods) {
      const std::string why = not_served(context, method);
      if (!why.empty()) figure.caption.push_back(concat("Left out: ", method, ": ", why));
    }
    return figure;
  }

 private:
  static std::string not_served(const FigureContext& context, const std::string& method) {
    const auto [wbits, abits] = parse_bits(bits_of(context));
    const std::string why = find_method(method).obstacle(wbits, abits);
    if (!why.empty() || !context.model.obstacle) return why;
    return context.model.obstacle(context.method_settings_at(method, bits_of(context)));
  }

  static std::vector<std::string> served_methods(const FigureContext& context) {
    std::vector<std::string> served;
    for (const std::string& method : context.options.methods) {
      if (not_served(context, method).empty()) served.push_back(method);
    }
    check(!served.empty(), "figure depth: no method of --figure-methods serves ", bits_of(context));
    return served;
  }
};

[[maybe_unused]] const bool registered =
    figures().add("depth", [] { return std::make_unique<FigureDepth>(); });

}  // namespace
}  // namespace cbq
