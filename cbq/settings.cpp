#include "cbq/settings.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <limits>
#include <type_traits>

#include "nn/hash.h"
#include "quant/solvers/solver.h"
#include "quant/transforms/rotation.h"

namespace cbq {
namespace {

/// '*' any characters, '?' any one; whole text.
bool glob_match(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = std::string_view::npos, retry = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      retry = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++retry;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

/// A pattern without wildcards matches anywhere in the name.
bool layer_matches(const std::string& pattern, const std::string& layer) {
  if (pattern.find_first_of("*?") == std::string::npos) {
    return layer.find(pattern) != std::string::npos;
  }
  return glob_match(pattern, layer);
}

struct LayerBits {
  std::string pattern;
  int bits;
};

std::vector<LayerBits> parse_layer_bits(const std::string& text) {
  std::vector<LayerBits> all;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, end - begin);
    const size_t equals = item.rfind('=');
    const std::string digits = equals == std::string::npos ? "" : item.substr(equals + 1);
    const bool numeric = !digits.empty() && digits.size() <= 2 &&
                         digits.find_first_not_of("0123456789") == std::string::npos;
    check(numeric && equals > 0, "layer_bits: '", item, "' in '", text,
          "'; expected pattern=bits, as in down_proj=4");
    const int bits = std::stoi(digits);
    check(bits >= 1 && (bits <= 8 || bits == float_bits), "layer_bits: ", bits, " bits in '", item,
          "'; expected 1 to 8, or ", float_bits, " for floating point");
    all.push_back({item.substr(0, equals), bits});
    begin = end + 1;
  }
  return all;
}

}  // namespace

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
  return config;
}

ActivationConfig Settings::activation_config() const {
  ActivationConfig config;
  config.bits = abits;
  config.symmetric = act_symmetric;
  config.granularity = granularity_from_name(act_granularity);
  config.dynamic = act_dynamic;
  return config;
}

RoundingConfig Settings::rounding_config() const {
  RoundingConfig config;
  if (reconstruct == "none") {
    config.grid = "fixed";
    return config;  // nearest
  }
  config.scheme = rounding;
  config.parameterization = parameterization;
  config.start = start;
  config.rank = rank;
  config.grid = grid;
  config.learn_zero_point = learn_zero_point;
  return config;
}

double Settings::rounding_rate() const {
  if (rate_rounding > 0.0) return rate_rounding;
  return rounding_schemes().make(rounding)->default_rate(abits);
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

// ---- profiles -----------------------------------------------------------------------------------

namespace {

/// What both versions of the paper share, and what is ours where they are silent: docs/method.md,
/// section 8.
Settings paper(int wbits, int abits) {
  Settings s;
  s.wbits = wbits;
  s.abits = abits;
  s.scale_search = wbits <= 3 ? "squared_error" : "min_max";
  s.preprocess = "cfp_weight_activation";
  s.rounding = "lora_rounding";
  s.rank = 5;
  s.rate_rounding = 1e-4;
  s.grid = "raw";
  s.hard_phase = 0.5;
  s.homologous = true;
  s.regularizer = 0.01;
  s.regularizer_reduction = "sum";
  return s;
}

Settings paper_iclr(int wbits, int abits) {
  Settings s = paper(wbits, abits);
  s.profile = "paper_iclr";
  s.rate_activation = 1e-4;
  s.rate_scale = 1e-3;
  return s;
}

Settings paper_v4(int wbits, int abits) {
  Settings s = paper(wbits, abits);
  s.profile = "paper_v4";
  s.rate_activation = 1e-6;
  s.rate_scale = 1e-7;
  if (abits > 4 && abits < float_bits) {  // per tensor; finer only at 4 bits and below
    s.act_granularity = "per_tensor";
    s.act_dynamic = false;
  }
  return s;
}

/// What tuning found best at (weight bits, activation bits); the last row that fits is used.
struct TunedRow {
  int max_wbits, max_abits;
  double rate_scale, rate_activation;
  int64_t batch;
};
constexpr TunedRow tuned_rows[] = {
    {16, 16, 1e-3, 1e-3, 4},
    {2, 16, 1e-3, 1e-3, 2},
    {16, 4, 1e-3, 1e-2, 2},
};

Settings tuned(int wbits, int abits) {
  Settings s;
  s.wbits = wbits;
  s.abits = abits;
  for (const TunedRow& row : tuned_rows) {
    if (wbits > row.max_wbits || abits > row.max_abits) continue;
    s.rate_scale = row.rate_scale;
    s.rate_activation = row.rate_activation;
    s.batch = row.batch;
  }
  return s;
}

struct Profile {
  const char* name;
  Settings (*make)(int wbits, int abits);
};
constexpr Profile profiles[] = {
    {"tuned", tuned}, {"paper_iclr", paper_iclr}, {"paper_v4", paper_v4}};

}  // namespace

std::vector<std::string> profile_names() {
  std::vector<std::string> names;
  for (const Profile& profile : profiles) names.emplace_back(profile.name);
  return names;
}

Settings profile_settings(const std::string& profile, int wbits, int abits) {
  for (const Profile& known : profiles) {
    if (profile == known.name) return known.make(wbits, abits);
  }
  throw std::invalid_argument(
      message_of("unknown profile '", profile, "'; known: tuned, paper_iclr, paper_v4"));
}

// ---- JSON and hash ------------------------------------------------------------------------------

nlohmann::json to_json(const Settings& settings) {
  nlohmann::json json = nlohmann::json::object();
  visit_settings(settings,
                 [&](const char* name, const auto& member, const char*) { json[name] = member; });
  return json;
}

namespace {

constexpr const char* weight_granularities[] = {"per_tensor", "per_channel", "per_group"};

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

WeightGranularity weight_granularity_from_word(const std::string& word) {
  std::string name = word;
  std::replace(name.begin(), name.end(), '-', '_');
  for (const char* known : weight_granularities) {
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
    if (*at == "per_tensor") given.emplace("act_dynamic", false);
    if (*at == "per_token") given.emplace("act_dynamic", true);
  }
  return given;
}

}  // namespace

void apply_json(Settings& settings, const nlohmann::json& overrides) {
  check(overrides.is_object(), "settings: expected a JSON object, got ",
        [&] { return overrides.dump(); });
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
  if (s.reconstruct != "none") {
    const std::string schedule = to_string(schedule_of(s, blocks));
    // Which blocks are "the overlap" still depends on the window that was asked for.
    if (s.rounding_blocks == "window") s.window = s.overlap = 0;
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
  if (s.preprocess == "none" && !s.polishes()) reset_stage(s, SettingStage::random);
  return s;
}

std::vector<ScheduledWindow> schedule_of(const Settings& settings, int64_t blocks) {
  if (!settings.schedule.empty()) return parse_schedule(settings.schedule, blocks);
  return sliding_windows(blocks, settings.window, settings.overlap);
}

// ---- validation ---------------------------------------------------------------------------------

namespace {

void expect_one_of(const char* option, const std::string& value,
                   const std::vector<std::string>& known) {
  std::string list;
  for (const std::string& name : known) {
    if (name == value) return;
    list += (list.empty() ? "" : ", ") + name;
  }
  throw std::invalid_argument(message_of(option, ": unknown '", value, "'; known: ", list));
}

void expect_at_least(const char* option, double value, double low) {
  check(std::isfinite(value) && value >= low, option, ": ", value, "; expected at least ", low);
}

void expect_fraction(const char* option, double value) {
  check(value >= 0.0 && value <= 1.0, option, ": ", value, "; expected a fraction from 0 to 1");
}

void expect_bits(const char* option, int bits) {
  check((bits >= 1 && bits <= 8) || bits == float_bits, option, ": ", bits,
        "; expected 1 to 8, or ", float_bits, " for floating point");
}

void validate_weights(const Settings& s) {
  expect_bits("wbits", s.wbits);
  if (s.fc2_first_last_bits != 0) expect_bits("fc2_first_last_bits", s.fc2_first_last_bits);
  expect_one_of("granularity", s.granularity,
                {std::begin(weight_granularities), std::end(weight_granularities)});
  expect_one_of("symmetric_form", s.symmetric_form, {"full_range", "restricted"});
  expect_one_of("scale_search", s.scale_search, {"min_max", "squared_error"});
  check(s.granularity != "per_group" || s.group_size >= 1, "group_size: ", s.group_size,
        " with granularity per_group; give the inputs per group, as in 128");
  check(s.granularity == "per_group" || s.group_size == 0, "group_size: ", s.group_size,
        " without effect; set granularity to per_group, or leave the group size out");
  int lowest = s.fc2_first_last_bits > 0 ? std::min(s.wbits, s.fc2_first_last_bits) : s.wbits;
  for (const LayerBits& entry : parse_layer_bits(s.layer_bits)) {
    lowest = std::min(lowest, entry.bits);
  }
  check(!(s.symmetric && s.symmetric_form == "restricted" && lowest == 1),
        "symmetric_form: restricted has no grid at 1 bit (its scale would divide by 2^0 - 1 = 0); "
        "use full_range");
}

void validate_solver(const Settings& s) {
  if (s.solver == "none") return;
  std::vector<std::string> known = solvers().names();
  known.insert(known.begin(), "none");
  const std::string name = s.solver.substr(0, s.solver.find(':'));
  expect_one_of("solver", name, known);
  check(name != "none", "solver: 'none' takes no arguments, got '", s.solver, "'");
  parse_solver(s.solver);
}

void validate_activations(const Settings& s) {
  expect_bits("abits", s.abits);
  expect_one_of("act_granularity", s.act_granularity, {"per_token", "per_tensor"});
  check(s.act_dynamic || s.act_granularity == "per_tensor",
        "act_dynamic: false needs act_granularity per_tensor (tokens to come have no calibrated "
        "ranges of their own)");
  check(!s.act_dynamic || s.act_granularity == "per_token",
        "act_dynamic: true needs act_granularity per_token (a range of all tokens at hand would "
        "change with the batch, and a token would depend on those behind it); leave act_dynamic "
        "out, or set it to false");
  check(!s.act_symmetric || s.abits > 1,
        "abits: 1 bit has no symmetric activation grid; use 2 bits or more, or act_symmetric off");
  check(!s.quantize_attention || s.abits < float_bits, "quantize_attention: needs abits below ",
        float_bits, ", got ", s.abits);
}

void validate_reconstruction(const Settings& s) {
  expect_one_of("reconstruct", s.reconstruct, {"cbq", "none"});
  expect_one_of("rounding", s.rounding, rounding_schemes().names());
  expect_one_of("parameterization", s.parameterization, {"default", "none", "dense", "low_rank"});
  expect_one_of("start", s.start, {"default", "fraction", "nearest", "zero"});
  expect_one_of("grid", s.grid, grid_schemes().names());
  check(!s.learn_zero_point || !s.symmetric,
        "learn_zero_point: the zero point of a symmetric grid is its middle code; leave "
        "learn_zero_point or symmetric out");
  expect_one_of("rounding_blocks", s.rounding_blocks, {"window", "overlap"});
  expect_one_of("optimizer", s.optimizer, {"adam", "signsgd"});
  expect_one_of("l2", s.l2, {"sum", "mean", "norm", "relative"});
  expect_one_of("regularizer_reduction", s.regularizer_reduction, {"sum", "mean"});
  expect_one_of("keep", s.keep, {"best", "last"});
  check(s.polish_epochs >= 0, "polish_epochs: ", s.polish_epochs, "; expected at least 0");
  expect_at_least("rate_polish", s.rate_polish, 0.0);
  check(s.epochs >= 0, "epochs: ", s.epochs, "; expected at least 0");
  check(s.batch >= 1, "batch: ", s.batch, " segments per step; expected at least 1");
  check(s.rank >= 1, "rank: ", s.rank, "; expected at least 1");
  check(s.keep_segments >= 0, "keep_segments: ", s.keep_segments,
        "; expected at least 0 (0: all segments)");
  expect_fraction("hard_phase", s.hard_phase);
  expect_fraction("rate_floor", s.rate_floor);
  expect_fraction("warmup", s.warmup);
  expect_fraction("regularizer_warmup", s.regularizer_warmup);
  expect_at_least("rate_rounding", s.rate_rounding, 0.0);
  expect_at_least("rate_scale", s.rate_scale, 0.0);
  expect_at_least("rate_clip", s.rate_clip, 0.0);
  expect_at_least("rate_zero_point", s.rate_zero_point, 0.0);
  expect_at_least("rate_activation", s.rate_activation, 0.0);
  expect_at_least("l2_weight", s.l2_weight, 0.0);
  expect_at_least("kl_weight", s.kl_weight, 0.0);
  expect_at_least("regularizer", s.regularizer, 0.0);
  expect_at_least("beta_start", s.beta_start, 1.0);
  expect_at_least("beta_end", s.beta_end, 1.0);
  check(s.l2_weight + s.kl_weight > 0.0, "l2_weight and kl_weight: both 0 leave no loss; set one");
}

}  // namespace

void check_layer_bits(const Settings& settings, const std::vector<std::string>& layers) {
  for (const LayerBits& entry : parse_layer_bits(settings.layer_bits)) {
    const bool found = std::any_of(layers.begin(), layers.end(), [&](const std::string& layer) {
      return layer_matches(entry.pattern, layer);
    });
    check(found, "layer_bits: '", entry.pattern,
          "' matches no linear layer of the model; they are ",
          layers.empty() ? "none" : layers.front(), " ... ", layers.empty() ? "" : layers.back());
  }
}

void validate(const Settings& settings, int64_t blocks) {
  expect_one_of("profile", settings.profile, profile_names());
  rotation_parts(settings.rotation);
  validate_weights(settings);
  validate_activations(settings);
  validate_solver(settings);
  validate_reconstruction(settings);
  if (settings.schedule.empty()) {
    sliding_windows(blocks, settings.window, settings.overlap);
  } else {
    parse_schedule(settings.schedule, blocks);
  }
  check(settings.rounding_blocks == "window" || !settings.schedule.empty() || settings.overlap >= 1,
        "rounding_blocks: overlap with an overlap of 0 would learn no rounding; set overlap to 1 "
        "or more, or rounding_blocks to window");
}

}  // namespace cbq
