#include "tools/cli/settings_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "cbq/methods.h"
#include "experiments/command_line.h"
#include "experiments/plan.h"
#include "nn/formats/json.h"
#include "quant/solvers/solver.h"
#include "quant/transforms/global/global_transform.h"
#include "quant/transforms/local/preprocessor.h"
#include "tensor/error.h"

using nlohmann::json;

namespace cbq::cli {
namespace {

std::string dashed(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string option_names(const std::string& name) {
  std::string names = "--" + dashed(name);
  if (dashed(name) != name) names += ",--" + name;
  return names;
}

/// "4", "W4" or "W4A4" over the settings' bits.
void apply_bits(const std::string& text, json& given) {
  const auto give = [&](const char* name, int bits) {
    const json& value = given.emplace(name, bits).first.value();
    check(value == bits, "--bits ", text, " and --", name, " ", value.dump(),
          " contradict each other; give one of them");
  };
  if (text.find_first_of("wW") != 0) {
    const bool digits = !text.empty() && text.size() <= 2 &&
                        text.find_first_not_of("0123456789") == std::string::npos;
    check(digits, "--bits ", text, ": expected bits as 4, W4 or W4A4");
    give("wbits", std::stoi(text));
    return;
  }
  std::string upper = text;
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  const bool weights_alone = upper.find('A') == std::string::npos;
  const auto [wbits, abits] = parse_bits(weights_alone ? upper + "A16" : upper);
  give("wbits", wbits);
  if (!weights_alone) give("abits", abits);
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

/// The help, and the default: that of the method `cbq` at W4A16.
std::string help_of(const std::string& name, const std::string& help, const json& value) {
  std::string text = help;
  if (name == "rounding") text += ": " + joined(rounding_schemes().names());
  if (name == "solver") text += "; known: none, " + joined(solvers().names());
  if (name == "transform") text += "; known: " + joined(global_transforms().names());
  if (name == "preprocess") text += "; known: " + joined(preprocessors().names());
  const std::string shown = value.is_string() ? value.get<std::string>() : value.dump();
  return shown.empty() ? text : text + " [" + shown + "]";
}

/// Whether a file names every setting, as the recipe.json of a run does. Then no method is needed,
/// which may have been a file that is not there any more.
bool names_every_setting(const json& recipe) {
  const json all = to_json(Settings{});
  for (const auto& [name, value] : all.items()) {
    if (!recipe.contains(name)) return false;
  }
  return true;
}

}  // namespace

void SettingsOptions::add_to(CLI::App& app) {
  app.add_option("--recipe", recipe_,
                 "JSON file of settings (underscores in names), or the recipe.json of an earlier "
                 "run; options given beside it win over it, it wins over the method")
      ->group("Settings");
  app.add_option("--bits", bits_, "bits as in tables: 4, W4 or W4A4")->group("Settings");
  app.add_option("--profile", profile_)->group("");  // the former name of --method, refused
  const json defaults = to_json(method_settings("cbq", 4, float_bits));
  visit_settings(given_, [&](const char* name, auto& member, const char* text) {
    const std::string names = option_names(name), help = help_of(name, text, defaults.at(name));
    if constexpr (std::is_same_v<std::decay_t<decltype(member)>, bool>) {
      std::string both = names;
      for (size_t at = 0; (at = names.find("--", at)) != std::string::npos; at += 2) {
        const std::string one = names.substr(at + 2, names.find(',', at) - at - 2);
        both += ",!--no-" + one;
      }
      options_[name] = app.add_flag(both, member, help)->group("Settings");
    } else {
      CLI::Option* option = app.add_option(names, member, help)->group("Settings");
      if constexpr (std::is_unsigned_v<std::decay_t<decltype(member)>>) {
        option->check(refuse_negative);
      }
      options_[name] = option;
    }
  });
}

json SettingsOptions::given_values() const {
  const json all = to_json(given_);
  json given = json::object();
  for (const auto& [name, option] : options_) {
    if (option->count() > 0) given[name] = all.at(name);
  }
  if (!bits_.empty()) apply_bits(bits_, given);
  return given;
}

/// A line about options that this run does not read: their value changes nothing of it; empty
/// where there are none.
std::string SettingsOptions::unread(const Settings& s, const json& given) const {
  const bool reconstructs = s.reconstructs();
  Settings running = s;
  if (reconstructs) {  // whose windows may not fit a model of `blocks` blocks
    running.schedule.clear();
    running.window = 1;
    running.overlap = 0;
  }
  constexpr int64_t blocks = 8;
  const json settings = to_json(canonical(running, blocks)), defaults = to_json(Settings());
  std::string unread;
  visit_staged_settings(s, [&](const char* name, const auto&, const char*, SettingStage stage) {
    using enum SettingStage;
    if (!given.contains(name) || given.at(name) == defaults.at(name)) return;
    if (stage == label || stage == random || (stage == reconstruction && reconstructs)) return;
    Settings other = running;
    apply_json(other, {{name, defaults.at(name)}});
    if (to_json(canonical(other, blocks)) != settings) return;
    unread += (unread.empty() ? "--" : ", --") + dashed(name);
  });
  if (unread.empty()) return "";
  return concat("note: this run does not read ", unread, ": it has W", s.wbits, "A", s.abits,
                ", reconstruct ", s.reconstruct, ", rotation ", s.rotation, ", ", s.polish_epochs,
                " polish epochs");
}

/// An option that nothing will read is a misunderstanding.
void SettingsOptions::refuse_useless(const Settings& s) const {
  if (options_.at("rank")->count() == 0 || !s.reconstructs()) return;
  const bool low_rank = s.parameterization == "low_rank" ||
                        (s.parameterization == "default" &&
                         rounding_schemes().make(s.rounding)->default_parameterization() ==
                             Parameterization::low_rank);
  check(low_rank, "--rank: the rounding variables of ", s.rounding,
        " are a full matrix here; add --rounding lora_rounding or --parameterization low_rank");
}

bool SettingsOptions::chooses_grid() const {
  bool chooses = !recipe_.empty() || !bits_.empty() || options_.at("method")->count() > 0;
  Settings any;
  visit_staged_settings(any, [&](const char* name, auto&, const char*, SettingStage stage) {
    const bool of_grid = stage == SettingStage::bits || stage == SettingStage::grid;
    if (of_grid && options_.at(name)->count() > 0) chooses = true;
  });
  return chooses;
}

Settings SettingsOptions::resolve(const std::function<void(const std::string& line)>& say,
                                  const FindObstacle& find_obstacle) const {
  if (!profile_.empty()) refuse_profile_option(profile_);
  json recipe = json::object();
  if (!recipe_.empty()) {
    recipe = read_json_file(recipe_, size_t{1} << 20);
    if (const json& inner = json_find(recipe, "settings", recipe_); inner.is_object()) {
      recipe = json(inner);
    }
  }
  const json given = given_values();
  // A method's values depend on the bits, so these are looked for first.
  Settings bits;
  try {
    apply_json(bits, recipe);
  } catch (const std::invalid_argument& error) {
    fail(recipe_, ": ", error.what());
  }
  apply_json(bits, given);
  const SettingChanges changes{
      [&](Settings& s) {
        apply_json(s, recipe);
        apply_json(s, given);
      },
      [&](const std::string& name) { return recipe.contains(name) || given.contains(name); }};
  Settings settings;
  if (given.contains("method") || !names_every_setting(recipe)) {
    const FittedMethod fitted =
        fit_method(find_method(bits.method), bits.wbits, bits.abits, changes, find_obstacle);
    if (!fitted.note.empty()) say(fitted.note);
    settings = fitted.settings;
  } else {
    changes.apply(settings);
  }
  refuse_useless(settings);
  if (const std::string note = unread(settings, given); !note.empty()) say(note);
  return settings;
}

}  // namespace cbq::cli
