#include "cbq/setting_choices.h"

#include "quant/name_table.h"

namespace cbq {
namespace {

constexpr NameTable<Reconstruction, 2> reconstructions{
    {{Reconstruction::cross_block, "cbq"}, {Reconstruction::none, "none"}}};
constexpr NameTable<SquaredErrorForm, 4> squared_error_forms{
    {{SquaredErrorForm::sum, "sum"},
     {SquaredErrorForm::mean, "mean"},
     {SquaredErrorForm::norm, "norm"},
     {SquaredErrorForm::relative, "relative"}}};
constexpr NameTable<RegularizerReduction, 2> regularizer_reductions{
    {{RegularizerReduction::sum, "sum"}, {RegularizerReduction::mean, "mean"}}};
constexpr NameTable<RoundingBlocks, 2> rounding_blocks{
    {{RoundingBlocks::window, "window"}, {RoundingBlocks::overlap, "overlap"}}};
constexpr NameTable<KeptParameters, 2> kept_parameters{
    {{KeptParameters::best, "best"}, {KeptParameters::last, "last"}}};

}  // namespace

std::string name_of(Reconstruction reconstruction) {
  return name_in(reconstructions, reconstruction);
}

Reconstruction reconstruction_from_name(const std::string& name) {
  return value_in(reconstructions, "reconstruction", name);
}
SquaredErrorForm squared_error_form_from_name(const std::string& name) {
  return value_in(squared_error_forms, "form of the squared error", name);
}
RegularizerReduction regularizer_reduction_from_name(const std::string& name) {
  return value_in(regularizer_reductions, "reduction of the regularizer", name);
}
RoundingBlocks rounding_blocks_from_name(const std::string& name) {
  return value_in(rounding_blocks, "choice of rounding blocks", name);
}
KeptParameters kept_parameters_from_name(const std::string& name) {
  return value_in(kept_parameters, "choice of kept parameters", name);
}

std::vector<std::string> reconstruction_names() { return names_in(reconstructions); }
std::vector<std::string> squared_error_form_names() { return names_in(squared_error_forms); }
std::vector<std::string> regularizer_reduction_names() { return names_in(regularizer_reductions); }
std::vector<std::string> rounding_blocks_names() { return names_in(rounding_blocks); }
std::vector<std::string> kept_parameters_names() { return names_in(kept_parameters); }

}  // namespace cbq
