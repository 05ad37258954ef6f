// Settings as command-line options, and which of method, recipe and option wins.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "cbq/method_fit.h"
#include "cbq/settings.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace cbq::cli {

class SettingsOptions {
 public:
  /// One option per setting: "--rate-scale", also "--rate_scale". As tables write them: --bits 4,
  /// W4 or W4A4.
  void add_to(CLI::App& app);
  /// The method's values at the bits asked for, then the recipe's, then the options given.
  /// `recipe`: a JSON file of settings, or a recipe.json that a run has written; may be empty.
  /// `find_obstacle`: what the run cannot have (cbq/method_fit.h), for methods that name another in
  /// their place; may be empty. `say` gets a line about that, and about options that the run does
  /// not read.
  Settings resolve(const std::function<void(const std::string& line)>& say,
                   const FindObstacle& find_obstacle) const;
  /// Whether a recipe, a method, or an option of bits or grids says how weights are quantized.
  bool chooses_grid() const;

 private:
  Settings given_;  // values of the options that appear
  nlohmann::json given_values() const;
  void refuse_useless(const Settings& settings) const;
  std::string unread(const Settings& settings, const nlohmann::json& given) const;
  std::map<std::string, const CLI::Option*> options_;
  std::string recipe_, bits_, profile_;
};

}  // namespace cbq::cli
