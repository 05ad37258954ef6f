// Figure 3 of the paper: weights and activations before and after the coarse-to-fine pre-processing
// (CFP), at the places with the strongest outliers.
#include <fmt/format.h>

#include <algorithm>

#include "experiments/figures/context.h"
#include "experiments/figures/figure.h"
#include "experiments/figures/line_chart.h"
#include "experiments/figures/outlier_site.h"
#include "experiments/format_text.h"

namespace cbq {
namespace {

/// Outliers of the variant of the model that is shown beside the model itself, unless --outliers
/// says otherwise: small models have no natural ones.
constexpr const char* default_outliers = "outliers:4x30";

nlohmann::json to_json(const OutlierProfile& p) {
  return {{"path", p.path},           {"before", p.before},     {"after", p.after},
          {"threshold", p.threshold}, {"outliers", p.outliers}, {"values", p.values}};
}

OutlierProfile profile_from(const nlohmann::json& json) {
  OutlierProfile p;
  p.path = json.at("path").get<std::string>();
  p.before = json.at("before").get<std::vector<double>>();
  p.after = json.at("after").get<std::vector<double>>();
  p.threshold = json.at("threshold").get<double>();
  p.outliers = json.at("outliers").get<int64_t>();
  p.values = json.at("values").get<int64_t>();
  return p;
}

double largest_of(const std::vector<double>& values) {
  return values.empty() ? 0.0 : *std::max_element(values.begin(), values.end());
}

/// What a variant is called in data and captions.
std::string name_of_variant(const FigurePart& part) {
  const auto planted = part.parameters.at("outliers").get<std::string>();
  return planted.empty() ? "as it is" : "ARTIFICIAL " + planted;
}

class Figure3 : public FigureMaker {
 public:
  std::string title() const override {
    return "weights and activations before and after CFP (paper: Figure 3)";
  }

  std::vector<FigurePart> parts(const FigureContext& context) const override {
    const std::string planted =
        context.plan.outliers.empty() ? default_outliers : context.plan.outliers;
    std::vector<FigurePart> parts;
    for (const std::string& outliers : {std::string(), planted}) {
      parts.push_back({outliers.empty() ? "outliers before and after CFP"
                                        : "the same with ARTIFICIAL outliers (" + outliers + ")",
                       {{"outliers", outliers}},
                       pass_cost(context, context.bench.calibration.token_count(),
                                 3.0 * static_cast<double>(context.blocks()))});
    }
    return parts;
  }

  nlohmann::json compute(const FigureContext& context, const FigurePart& part,
                         const Progress& progress) const override {
    const auto model = context.with_outliers(part.parameters.at("outliers").get<std::string>());
    const OutlierStudy study = study_outliers(*model, context.bench.calibration.segments,
                                              context.poll_of("looking for outliers"));
    progress(1.0);
    return {{"activations", to_json(study.activations)}, {"weight", to_json(study.weight)}};
  }

  Figure draw(const FigureContext&, const std::vector<FigurePart>& parts,
              const std::vector<nlohmann::json>& results) const override {
    Figure figure;
    figure.data.columns = {
        {"model", "as it is, or with which artificial outliers"},
        {"kind", "activation: largest |X| per channel; weight: largest |W| per row"},
        {"place", "the activation's producer, or the layer"},
        {"index", "channel or row"},
        {"before", "largest absolute value before CFP"},
        {"after", "the same after CFP"},
        {"threshold", "largest absolute value that CFP keeps there"}};
    figure.caption = {
        "Largest absolute value per channel of an activation and per row of a weight, before and "
        "after CFP, at the places whose maxima are farthest above what CFP keeps; dashed: CFP's "
        "truncation threshold. Channels above it are scaled, weights above it are cut."};
    for (size_t v = 0; v < parts.size(); ++v) {
      const std::string variant = name_of_variant(parts[v]);
      for (const char* kind : {"activations", "weight"}) {
        const bool of_weight = kind == std::string("weight");
        const OutlierProfile profile = profile_from(results[v].at(kind));
        add_rows(variant, of_weight ? "weight" : "activation", profile, figure.data);
        figure.panels.push_back(panel_of(variant, of_weight, profile));
        describe(variant, of_weight, profile, figure);
      }
    }
    compare_with_paper(profile_from(results[0].at("activations")), figure);
    return figure;
  }

 private:
  static void add_rows(const std::string& variant, const std::string& kind,
                       const OutlierProfile& profile, FigureData& data) {
    for (size_t i = 0; i < profile.before.size(); ++i) {
      data.add({variant, kind, profile.path, std::to_string(i), csv_number(profile.before[i]),
                csv_number(profile.after.at(i)), csv_number(profile.threshold)});
    }
  }

  static Panel panel_of(const std::string& variant, bool of_weight, const OutlierProfile& profile) {
    LineChart chart;
    const std::string place = profile.path.substr(profile.path.find('.') + 1);
    chart.title = concat(of_weight ? "|W| " : "|X| ", place);
    chart.x_label = concat(of_weight ? "row of the weight" : "channel", "; model ", variant);
    chart.y_label = "largest absolute value";
    chart.from_zero = true;
    Series before{"before CFP", {}, profile.before, {}, Series::Style::stems};
    for (size_t i = 0; i < before.y.size(); ++i) before.x.push_back(static_cast<double>(i));
    Series after{"after CFP", before.x, profile.after, {}, Series::Style::stems};
    chart.series = {before, after};
    chart.references = {
        {profile.threshold, fmt::format("{}: {:.3g}",
                                        profile.outliers > 0 ? "CFP's truncation threshold"
                                                             : "maximum; CFP finds no outliers",
                                        profile.threshold)}};
    return line_chart(chart);
  }

  static void describe(const std::string& variant, bool of_weight, const OutlierProfile& p,
                       Figure& figure) {
    const std::string lead = concat(of_weight ? "weight" : "activation", ", ", variant);
    figure.numbers.emplace_back("strength (" + lead + ")", p.strength());
    figure.numbers.emplace_back("threshold (" + lead + ")", p.threshold);
    figure.numbers.emplace_back("largest_before (" + lead + ")", largest_of(p.before));
    figure.numbers.emplace_back("largest_after (" + lead + ")", largest_of(p.after));
    figure.numbers.emplace_back("outliers (" + lead + ")", static_cast<double>(p.outliers));
    figure.caption.push_back(fmt::format(
        "Model {}, {} {}: {} of {} {} above {:.3g}; largest value {:.3g} before, {:.3g} after "
        "({:.1f} times the median before).",
        variant, of_weight ? "weight" : "activation behind", p.path, p.outliers, p.values,
        of_weight ? "weights" : "channels", p.threshold, largest_of(p.before), largest_of(p.after),
        p.strength()));
  }

  /// Channels that stand out by nature are ten times the median and more (Dettmers et al. 2022).
  static void compare_with_paper(const OutlierProfile& natural, Figure& figure) {
    const bool has = natural.outliers > 0 && natural.strength() >= 10.0;
    figure.caption.push_back(concat(
        "Paper: a few channels of LLaMA-7B stand far above all others, and CFP brings them down. ",
        has ? "Here, too, in the model as it is: the same."
            : "The model as it is has no such channels (10 times the median or more); the variant "
              "with ARTIFICIAL ones, whose function is the same, shows what CFP does to them."));
  }
};

[[maybe_unused]] const bool registered =
    figures().add("3", [] { return std::make_unique<Figure3>(); });

}  // namespace
}  // namespace cbq
