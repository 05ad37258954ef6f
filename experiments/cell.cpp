#include "experiments/cell.h"

#include "cbq/pipeline.h"
#include "nn/formats/json.h"
#include "nn/formats/sealed_files.h"

namespace cbq {
Cell make_cell(const Settings& settings, int64_t blocks, const CellWork& work,
               const CellInputs& inputs) {
  Cell cell;
  cell.settings = settings;
  cell.identity = inputs;
  cell.identity.settings = to_json(canonical(settings, blocks));
  cell.key = cell.identity.key();
  // Scoring passes each token once through all blocks and the head; a training step costs about
  // four passes, and each epoch ends with one more to decide what is kept.
  cell.cost = static_cast<double>(work.test_tokens * (blocks + 2));
  // A solver's Hessians and its passes through a block's groups cost about four passes.
  if (settings.solves()) cell.cost += static_cast<double>(4 * blocks * work.calibration_tokens);
  if (settings.polishes()) {
    const double per_block = 5.0 * static_cast<double>(settings.polish_epochs) + 2.0;
    cell.cost += per_block * static_cast<double>(blocks * work.calibration_tokens);
  }
  if (settings.reconstruct != "none") {
    // In floating point: epochs come from a file and may be any number.
    const double per_block = 5.0 * static_cast<double>(settings.epochs) + 2.0;
    double passes = 0.0;
    for (const ScheduledWindow& w : schedule_of(settings, blocks)) {
      passes += static_cast<double>(w.window.count) * per_block;
    }
    cell.cost += passes * static_cast<double>(work.calibration_tokens);
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
  const nlohmann::json& notes = json_at(json, "notes", what);
  if (!notes.is_array()) fail(what, ": notes: expected a list");
  for (const nlohmann::json& note : notes) {
    result.notes.push_back(json_string(note, "notes", what));
  }
  result.version = json_string(json_at(json, "version", what), "version", what);
  result.device = json_string(json_at(json, "device", what), "device", what);
  return result;
}

CellStore::CellStore(std::filesystem::path folder) : folder_(std::move(folder)) {
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
  if (!std::filesystem::exists(path)) return std::nullopt;
  const auto leave = [&](const std::string& why) {
    if (say) say(concat("not used, computed anew: ", why));
    return std::nullopt;
  };
  nlohmann::json json;
  try {
    json = read_sealed_json(path);
  } catch (const DamagedFile& damage) {
    return leave(damage.what());
  }
  try {
    const std::string what = path.string();
    const std::vector<std::string> others =
        differences(JobIdentity::from_json(json_at(json, "identity", what), what), cell.identity);
    if (!others.empty()) {
      return leave(message_of(what, " belongs to another run: ", text_of(others)));
    }
    return cell_result_from_json(json_at(json, "result", what), what);
  } catch (const std::runtime_error& error) {  // whole, but not what this program writes
    return leave(error.what());
  }
}

void CellStore::put(const Cell& cell, const CellResult& result) const {
  const nlohmann::json json = {{"identity", cell.identity.to_json()},
                               {"settings", to_json(cell.settings)},
                               {"result", to_json(result)}};
  write_text_atomically(path_of(cell), sealed(json).dump(2) + "\n");
}

}  // namespace cbq
