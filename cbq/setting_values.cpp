#include "cbq/setting_values.h"

#include <functional>
#include <map>

#include "autograd/optim.h"
#include "cbq/setting_choices.h"
#include "cbq/settings.h"
#include "quant/grid_scheme.h"
#include "quant/rounding.h"

namespace cbq {
namespace {

using Names = std::vector<std::string>;

Names with_default(Names names) {
  names.insert(names.begin(), "default");
  return names;
}

}  // namespace

Names values_of(const std::string& setting) {
  static const std::map<std::string, std::function<Names()>> lists = {
      {"symmetric_form", symmetric_form_names},
      {"act_symmetric_form", symmetric_form_names},
      {"granularity", weight_granularity_names},
      {"scale_search", scale_search_names},
      {"scale_type", scale_type_names},
      {"act_granularity",
       [] {
         return Names{"per_token", "per_tensor", "per_cluster"};
       }},
      {"reconstruct", reconstruction_names},
      {"rounding", [] { return rounding_schemes().names(); }},
      {"parameterization", [] { return with_default(parameterization_names()); }},
      {"start", [] { return with_default(start_names()); }},
      {"grid", [] { return grid_schemes().names(); }},
      {"rounding_blocks", rounding_blocks_names},
      {"optimizer", optimizer_names},
      {"l2", squared_error_form_names},
      {"regularizer_reduction", regularizer_reduction_names},
      {"keep", kept_parameters_names},
  };
  const auto found = lists.find(setting);
  return found == lists.end() ? Names() : found->second();
}

}  // namespace cbq
