#include "experiments/cell.h"

#include "cbq/pipeline.h"
#include "nn/hash.h"
#include "nn/json.h"

namespace cbq {
namespace {

/// Of the stored files: cells of another format are computed anew.
constexpr int64_t format = 1;

}  // namespace

Settings canonical(const Settings& settings, int64_t blocks) {
  Settings s = settings;
  s.profile = Settings{}.profile;
  if (s.reconstruct != "none") {
    std::string schedule;
    for (const ScheduledWindow& w : schedule_of(s, blocks)) {
      schedule += concat(schedule.empty() ? "" : ",", w.window.first, "-", w.window.last());
    }
    // Which blocks are "the overlap" still depends on the window that was asked for.
    if (s.rounding_blocks == "window") s.window = s.overlap = 0;
    s.schedule = schedule;
    return s;
  }
  Settings plain;
  plain.reconstruct = "none";
  plain.seed = s.preprocess == "none" ? 0 : s.seed;
  plain.wbits = s.wbits;
  plain.abits = s.abits;
  plain.preprocess = s.preprocess;
  if (!s.quantizes()) return plain;
  plain.symmetric = s.symmetric;
  plain.symmetric_form = s.symmetric_form;
  plain.granularity = s.granularity;
  plain.group_size = s.group_size;
  plain.scale_search = s.scale_search;
  plain.act_symmetric = s.act_symmetric;
  plain.act_granularity = s.act_granularity;
  plain.act_dynamic = s.act_dynamic;
  plain.quantize_attention = s.quantize_attention;
  plain.layer_bits = s.layer_bits;
  plain.fc2_first_last_bits = s.fc2_first_last_bits;
  return plain;
}

Cell make_cell(const Settings& settings, int64_t blocks, const CellWork& work,
               const CellInputs& inputs) {
  Cell cell;
  cell.settings = settings;
  Digest digest;
  digest.add(format).add(inputs.model).add(inputs.calibration).add(inputs.evaluation);
  cell.key = digest.add(hash_of(canonical(settings, blocks))).hex();
  // Scoring passes each token once through all blocks and the head; a training step costs about
  // four passes, and each epoch ends with one more to decide what is kept.
  cell.cost = static_cast<double>(work.test_tokens * (blocks + 2));
  if (settings.reconstruct != "none") {
    int64_t passes = 0;
    for (const ScheduledWindow& w : schedule_of(settings, blocks)) {
      passes += w.window.count * (5 * settings.epochs + 2);
    }
    cell.cost += static_cast<double>(passes * work.calibration_tokens);
  }
  return cell;
}

nlohmann::json to_json(const CellResult& result) {
  nlohmann::json texts = nlohmann::json::array();
  for (const TextScore& text : result.texts) {
    texts.push_back({{"mean_nll", text.mean_nll}, {"tokens", text.tokens}});
  }
  return {{"texts", texts},
          {"seconds", result.seconds},
          {"peak_bytes", result.peak_bytes},
          {"windows", result.windows},
          {"notes", result.notes},
          {"version", result.version},
          {"device", result.device}};
}

CellResult cell_result_from_json(const nlohmann::json& json, const std::string& what) {
  CellResult result;
  const nlohmann::json& texts = json_at(json, "texts", what);
  if (!texts.is_array()) fail(what, ": texts: expected a list");
  for (const nlohmann::json& text : texts) {
    // A perplexity beyond all bounds is written as null: JSON has no infinity.
    const nlohmann::json& nll = json_at(text, "mean_nll", what);
    result.texts.push_back({nll.is_null() ? std::numeric_limits<double>::infinity()
                                          : json_double(nll, "mean_nll", what),
                            json_int(json_at(text, "tokens", what), "tokens", what, 1)});
  }
  result.seconds = json_double(json_at(json, "seconds", what), "seconds", what);
  result.peak_bytes = json_int(json_at(json, "peak_bytes", what), "peak_bytes", what, 0);
  result.windows = json_int(json_at(json, "windows", what), "windows", what, 0);
  for (const nlohmann::json& note : json_at(json, "notes", what)) {
    result.notes.push_back(json_string(note, "notes", what));
  }
  result.version = json_string(json_at(json, "version", what), "version", what);
  result.device = json_string(json_at(json, "device", what), "device", what);
  return result;
}

CellStore::CellStore(std::filesystem::path folder, CellInputs inputs)
    : folder_(std::move(folder)), inputs_(std::move(inputs)) {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) {
    fail("cannot make the folder ", folder_.string(), ": ", error.message(),
         "; choose another with --output");
  }
}

std::filesystem::path CellStore::path_of(const Cell& cell) const {
  return folder_ / (cell.key + ".json");
}

std::optional<CellResult> CellStore::find(
    const Cell& cell, const std::function<void(const std::string&)>& say) const {
  const std::filesystem::path path = path_of(cell);
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::nullopt;
  try {
    const nlohmann::json json = read_json_file(path, size_t{16} << 20);
    const std::string what = path.string();
    const auto same = [&](const char* field, const std::string& value) {
      const std::string found = json_string(json_at(json, field, what), field, what);
      if (found != value) fail(what, ": ", field, " is ", found, ", not ", value);
    };
    same("key", cell.key);
    same("model", inputs_.model);
    same("calibration", inputs_.calibration);
    same("evaluation", inputs_.evaluation);
    return cell_result_from_json(json_at(json, "result", what), what);
  } catch (const std::runtime_error& problem) {
    if (say) say(concat("not used, computed anew: ", problem.what()));
    return std::nullopt;
  }
}

void CellStore::put(const Cell& cell, const CellResult& result) const {
  const nlohmann::json json = {{"format", format},
                               {"key", cell.key},
                               {"model", inputs_.model},
                               {"calibration", inputs_.calibration},
                               {"evaluation", inputs_.evaluation},
                               {"settings", to_json(cell.settings)},
                               {"result", to_json(result)}};
  write_text_atomically(path_of(cell), json.dump(2) + "\n");
}

}  // namespace cbq
