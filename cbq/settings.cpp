#include "cbq/settings.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "cbq/layer_bits.h"
#include "cbq/methods.h"
#include "cbq/setting_choices.h"
#include "nn/formats/hash.h"
#include "quant/solvers/solver.h"

namespace cbq {

WeightConfig Settings::weight_config(const std::string& layer, bool first_or_last_fc2) const {
  WeightConfig config;
  config.bits = first_or_last_fc2 && fc2_first_last_bits > 0 ? fc2_first_last_bits : wbits;
  for (const LayerBits& entry : parse_layer_bits(layer_bits)) {
    if (layer_matches(entry.pattern, layer)) {
      config.bits = entry.bits;
      break;
    }
  }
  config.symmetric = symmetric;
  config.form = symmetric_form_from_name(symmetric_form);
  config.granularity = granularity_from_name(granularity);
  config.group_size = group_size;
  config.search = scale_search_from_name(scale_search);
  config.scale_type = scale_type_from_name(scale_type);
  return config;
}

ActivationConfig Settings::activation_config() const {
  ActivationConfig config;
  config.bits = abits;
  config.symmetric = act_symmetric;
  config.form = symmetric_form_from_name(act_symmetric_form);
  config.granularity = granularity_from_name(act_granularity);
  config.dynamic = act_dynamic;
  return config;
}

bool Settings::reconstructs() const { return reconstruct != name_of(Reconstruction::none); }

RoundingConfig Settings::rounding_config() const {
  RoundingConfig config;
  if (!reconstructs()) {
    config.grid = "fixed";
    return config;  // nearest
  }
  config.scheme = rounding;
  if (parameterization != "default") {
    config.parameterization = parameterization_from_name(parameterization);
  }
  if (start != "default") config.start = start_from_name(start);
  config.rank = rank;
  config.grid = grid;
  config.learn_zero_point = learn_zero_point;
  return config;
}

double Settings::rounding_rate() const {
  if (rate_rounding > 0.0) return rate_rounding;
  return rounding_schemes().make(rounding)->default_rate(abits);
}

const char* name_of(SettingSlot slot) {
  constexpr const char* names[] = {"label",   "bits",     "grid",      "transform", "solver",
                                   "windows", "rounding", "optimizer", "rates",     "loss",
                                   "polish",  "kept",     "seed"};
  static_assert(std::size(names) == static_cast<size_t>(SettingSlot::seed) + 1);
  return names[static_cast<size_t>(slot)];
}

double Settings::rate_of(const std::string& rate) const {
  if (rate == "rounding") return rounding_rate();
  const nlohmann::json all = to_json(*this);
  const auto found = all.find("rate_" + rate);
  if (found == all.end()) {
    throw std::logic_error(
        message_of("no setting rate_", rate, ", which a learned variable needs"));
  }
  return found->get<double>();
}

// ---- JSON and hash ------------------------------------------------------------------------------

nlohmann::json to_json(const Settings& settings) {
  nlohmann::json json = nlohmann::json::object();
  visit_settings(settings,
                 [&](const char* name, const auto& member, const char*) { json[name] = member; });
  return json;
}

namespace {

void read_member(const char* name, const nlohmann::json& value, bool& member) {
  check(value.is_boolean(), name, ": expected true or false, got ", [&] { return value.dump(); });
  member = value.get<bool>();
}
void read_member(const char* name, const nlohmann::json& value, std::string& member) {
  check(value.is_string(), name, ": expected a text, got ", [&] { return value.dump(); });
  member = value.get<std::string>();
}
void read_member(const char* name, const nlohmann::json& value, double& member) {
  check(value.is_number(), name, ": expected a number, got ", [&] { return value.dump(); });
  member = value.get<double>();
}
template <class Integer>
void read_member(const char* name, const nlohmann::json& value, Integer& member) {
  check(value.is_number_integer(), name, ": expected an integer, got ",
        [&] { return value.dump(); });
  if constexpr (std::is_unsigned_v<Integer>) {
    check(value.is_number_unsigned() || value.get<int64_t>() >= 0, name,
          ": expected at least 0, got ", [&] { return value.dump(); });
    member = value.get<Integer>();
  } else {
    const bool fits =
        !value.is_number_unsigned() ||
        value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<Integer>::max());
    check(
        fits && value.get<int64_t>() >= std::numeric_limits<Integer>::min() &&
            value.get<int64_t>() <= std::numeric_limits<Integer>::max(),
        name, ": ", [&] { return value.dump(); }, " is out of range");
    member = static_cast<Integer>(value.get<int64_t>());
  }
}

}  // namespace

const std::vector<std::string>& weight_granularity_names() {
  static const std::vector<std::string> names = {"per_tensor", "per_channel", "per_group"};
  return names;
}

WeightGranularity weight_granularity_from_word(const std::string& word) {
  std::string name = word;
  std::replace(name.begin(), name.end(), '-', '_');
  for (const std::string& known : weight_granularity_names()) {
    if (name == known) return {name, 0};
  }
  int64_t size = 0;
  const char* const end = word.data() + word.size();
  if (word.size() > 1 && word[0] == 'g') {
    const auto [stop, error] = std::from_chars(word.data() + 1, end, size);
    if (error == std::errc() && stop == end && size >= 1) return {"per_group", size};
  }
  throw std::invalid_argument(
      message_of("granularity: unknown '", word,
                 "'; known: per_tensor, per_channel, per_group, or g and the "
                 "inputs per group, as in g64"));
}

namespace {

/// The overrides with what follows from them.
nlohmann::json completed(nlohmann::json given) {
  if (const auto at = given.find("granularity"); at != given.end() && at->is_string()) {
    const WeightGranularity choice = weight_granularity_from_word(at->get<std::string>());
    if (choice.group_size > 0) {
      const nlohmann::json& size = given.emplace("group_size", choice.group_size).first.value();
      check(
          size == choice.group_size, "granularity ", at->get<std::string>(), " and group_size ",
          [&] { return size.dump(); }, " contradict each other; give one of them");
    }
    if (choice.name != "per_group") given.emplace("group_size", 0);
    given["granularity"] = choice.name;
  } else if (const auto size = given.find("group_size");
             at == given.end() && size != given.end() && size->is_number() && *size > 0) {
    given["granularity"] = "per_group";
  }
  if (const auto at = given.find("act_granularity"); at != given.end()) {
    if (*at == "per_tensor" || *at == "per_cluster") given.emplace("act_dynamic", false);
    if (*at == "per_token") given.emplace("act_dynamic", true);
  }
  // Who leaves out the reconstruction wants nothing learned, unless they ask for the last stage.
  if (const auto at = given.find("reconstruct"); at != given.end() && *at == "none") {
    given.emplace("polish_epochs", 0);
  }
  return given;
}

}  // namespace

void apply_json(Settings& settings, const nlohmann::json& overrides) {
  check(overrides.is_object(), "settings: expected a JSON object, got ",
        [&] { return overrides.dump(); });
  if (const auto old = overrides.find("profile"); old != overrides.end()) {
    throw std::invalid_argument(message_of("unknown setting 'profile': it is called 'method' now",
                                           new_name_of_method(*old)));
  }
  const nlohmann::json all = completed(overrides);
  for (const auto& [key, value] : all.items()) {
    bool found = false;
    std::string known;
    visit_settings(settings, [&](const char* name, auto& member, const char*) {
      known += (known.empty() ? "" : ", ") + std::string(name);
      if (key != name) return;
      found = true;
      read_member(name, value, member);
    });
    check(found, "unknown setting '", key, "'; known: ", known);
  }
}

std::string hash_of(const Settings& settings) {
  nlohmann::json json = to_json(settings);
  visit_staged_settings(settings,
                        [&](const char* name, const auto&, const char*, SettingStage stage) {
                          if (stage == SettingStage::label) json.erase(name);
                        });
  // Settings that came later count where they are not what runs before them did, so that results
  // of those are found again.
  if (settings.act_symmetric_form == Settings().act_symmetric_form) {
    json.erase("act_symmetric_form");
  }
  Digest digest;
  for (const auto& [name, value] : json.items()) {
    digest.add(name);
    digest.add(value.dump());  // shortest text that reads back as the same double
  }
  return digest.hex();
}

namespace {

/// Gives the settings of a stage their defaults.
void reset_stage(Settings& settings, SettingStage stage) {
  const nlohmann::json defaults = to_json(Settings{});
  visit_staged_settings(settings,
                        [&](const char* name, auto& member, const char*, SettingStage its) {
                          if (its == stage)
                            member = defaults.at(name).get<std::decay_t<decltype(member)>>();
                        });
}

}  // namespace

Settings canonical(const Settings& settings, int64_t blocks) {
  Settings s = settings;
  reset_stage(s, SettingStage::label);
  s.solver = s.solves() ? canonical_solver(s.solver) : "none";
  if (!s.polishes()) reset_stage(s, SettingStage::polish);
  if (s.rotation == "none") s.rotation_seed = Settings().rotation_seed;
  if (s.reconstructs()) {
    const std::string schedule = to_string(schedule_of(s, blocks));
    // Which blocks are "the overlap" still depends on the window that was asked for.
    if (rounding_blocks_from_name(s.rounding_blocks) == RoundingBlocks::window)
      s.window = s.overlap = 0;
    s.schedule = schedule;
    return s;
  }
  reset_stage(s, SettingStage::reconstruction);
  s.reconstruct = settings.reconstruct;
  if (s.polishes()) {  // it reads these, too
    s.batch = settings.batch;
    s.rate_activation = settings.rate_activation;
    s.rate_floor = settings.rate_floor;
    s.learn_activation = settings.learn_activation;
  }
  if (!s.quantizes()) reset_stage(s, SettingStage::grid);
  const bool draws = s.transform != "none" || s.preprocess != "none" || s.polishes();
  if (!draws) reset_stage(s, SettingStage::random);
  return s;
}

std::vector<ScheduledWindow> schedule_of(const Settings& settings, int64_t blocks) {
  if (const std::optional<int64_t> widest = widest_of_schedule(settings.schedule)) {
    return widening_windows(blocks, *widest, settings.window);
  }
  if (!settings.schedule.empty()) return parse_schedule(settings.schedule, blocks);
  return sliding_windows(blocks, settings.window, settings.overlap);
}

}  // namespace cbq
