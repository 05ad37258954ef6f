#include "tools/cli/settings_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <type_traits>

#include "nn/json.h"
#include "tensor/error.h"

namespace cbq::cli {
namespace {

std::string option_names(const std::string& name) {
  std::string dashed = name;
  std::replace(dashed.begin(), dashed.end(), '_', '-');
  std::string names = "--" + dashed;
  if (dashed != name) names += ",--" + name;
  if (name == "wbits") names += ",--bits";
  return names;
}

}  // namespace

void SettingsOptions::add_to(CLI::App& app) {
  app.add_option("--recipe", recipe_,
                 "JSON file of settings (underscores in names), or the recipe.json of an earlier "
                 "run; options given beside it win over it, it wins over the profile")
      ->group("Settings");
  visit_settings(given_, [&](const char* name, auto& member, const char* help) {
    const std::string names = option_names(name);
    if constexpr (std::is_same_v<std::decay_t<decltype(member)>, bool>) {
      std::string both = names;
      for (size_t at = 0; (at = names.find("--", at)) != std::string::npos; at += 2) {
        const std::string one = names.substr(at + 2, names.find(',', at) - at - 2);
        both += ",!--no-" + one;
      }
      options_[name] = app.add_flag(both, member, help)->group("Settings");
    } else {
      options_[name] = app.add_option(names, member, help)->group("Settings");
    }
  });
}

Settings SettingsOptions::resolve() const {
  nlohmann::json recipe = nlohmann::json::object();
  if (!recipe_.empty()) {
    recipe = read_json_file(recipe_, size_t{1} << 20);
    if (const nlohmann::json& inner = json_find(recipe, "settings", recipe_); inner.is_object()) {
      recipe = nlohmann::json(inner);
    }
  }
  const nlohmann::json all = to_json(given_);
  nlohmann::json given = nlohmann::json::object();
  for (const auto& [name, option] : options_) {
    if (option->count() > 0) given[name] = all.at(name);
  }
  // A profile's values depend on the bits, so these are looked for first.
  Settings bits;
  try {
    apply_json(bits, recipe);
  } catch (const std::invalid_argument& error) {
    fail(recipe_, ": ", error.what());
  }
  apply_json(bits, given);
  Settings settings = profile_settings(bits.profile, bits.wbits, bits.abits);
  apply_json(settings, recipe);
  apply_json(settings, given);
  return settings;
}

}  // namespace cbq::cli
