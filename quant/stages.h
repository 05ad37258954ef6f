// Stages that a setting names: "a+b:arguments" runs a, then b with its arguments.
#pragma once

#include <string>
#include <vector>

namespace cbq {

struct NamedStage {
  std::string name;
  std::string arguments;  // what stands behind the first ':'; "" where there is none
};

/// The stages of `text`, in order. `kind` ("pre-processing") names the setting in errors. Throws
/// std::invalid_argument for an empty stage.
std::vector<NamedStage> stages_of(const std::string& kind, const std::string& text);

}  // namespace cbq
