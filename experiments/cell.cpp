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
  if (settings.reconstructs()) {
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

namespace {

/// Numbers beyond all bounds are written as null: JSON has no infinity.
double bounded_or_infinite(const nlohmann::json& value, const char* name, const std::string& what) {
  return value.is_null() ? std::numeric_limits<double>::infinity() : json_double(value, name, what);
}

double number_at(const nlohmann::json& json, const char* name, const std::string& what) {
  return bounded_or_infinite(json_at(json, name, what), name, what);
}

const nlohmann::json& list_at(const nlohmann::json& json, const char* name,
                              const std::string& what) {
  const nlohmann::json& list = json_at(json, name, what);
  if (!list.is_array()) fail(what, ": ", name, ": expected a list");
  return list;
}

std::vector<double> numbers_at(const nlohmann::json& json, const char* name,
                               const std::string& what) {
  std::vector<double> numbers;
  for (const nlohmann::json& value : list_at(json, name, what)) {
    numbers.push_back(bounded_or_infinite(value, name, what));
  }
  return numbers;
}

std::vector<int64_t> counts_at(const nlohmann::json& json, const char* name,
                               const std::string& what, int64_t least) {
  std::vector<int64_t> counts;
  for (const nlohmann::json& value : list_at(json, name, what)) {
    counts.push_back(json_int(value, name, what, least));
  }
  return counts;
}

/// Of the year 9999: reports print four digits.
constexpr int64_t last_second = 253402300799;

void check_segments(const TextScore& score, const std::string& what) {
  const size_t segments = score.segment_tokens.size();
  int64_t left = score.tokens;
  for (const int64_t tokens : score.segment_tokens) {
    if (tokens > left) fail(what, ": segment_tokens: more than the text's ", score.tokens);
    left -= tokens;
  }
  if (left != 0) {
    fail(what, ": segment_tokens: ", score.tokens - left, " tokens in ", segments,
         " segments; the text has ", score.tokens);
  }
  for (const size_t size :
       {score.segment_nll.size(), score.segment_kl.size(), score.segment_agreed.size()}) {
    if (size != segments) fail(what, ": values of ", size, " segments; there are ", segments);
  }
  for (size_t s = 0; s < segments; ++s) {
    if (score.segment_agreed[s] > score.segment_tokens[s]) {
      fail(what, ": segment_agreed: ", score.segment_agreed[s], " of ", score.segment_tokens[s],
           " tokens");
    }
  }
}

nlohmann::json to_json(const TextScore& score) {
  return {{"mean_nll", score.mean_nll},
          {"tokens", score.tokens},
          {"kl", score.kl},
          {"kl_p99", score.kl_p99},
          {"top1", score.top1},
          {"segment_tokens", score.segment_tokens},
          {"segment_nll", score.segment_nll},
          {"segment_kl", score.segment_kl},
          {"segment_agreed", score.segment_agreed}};
}

TextScore text_score_from_json(const nlohmann::json& json, const std::string& what) {
  TextScore score;
  score.mean_nll = number_at(json, "mean_nll", what);
  score.tokens = json_int(json_at(json, "tokens", what), "tokens", what, 1);
  score.kl = number_at(json, "kl", what);
  score.kl_p99 = number_at(json, "kl_p99", what);
  score.top1 = number_at(json, "top1", what);
  score.segment_tokens = counts_at(json, "segment_tokens", what, 1);
  score.segment_nll = numbers_at(json, "segment_nll", what);
  score.segment_kl = numbers_at(json, "segment_kl", what);
  score.segment_agreed = counts_at(json, "segment_agreed", what, 0);
  check_segments(score, what);
  return score;
}

}  // namespace

nlohmann::json to_json(const CellResult& result) {
  nlohmann::json texts = nlohmann::json::array();
  for (const TextScore& text : result.texts) texts.push_back(to_json(text));
  return {{"texts", texts},
          {"seconds", result.seconds},
          {"peak_bytes", result.peak_bytes},
          {"windows", result.windows},
          {"notes", result.notes},
          {"version", result.version},
          {"device", result.device},
          {"finished", result.finished}};
}

CellResult cell_result_from_json(const nlohmann::json& json, const std::string& what) {
  CellResult result;
  for (const nlohmann::json& text : list_at(json, "texts", what)) {
    result.texts.push_back(text_score_from_json(text, what));
  }
  result.seconds = json_double(json_at(json, "seconds", what), "seconds", what);
  result.peak_bytes = json_int(json_at(json, "peak_bytes", what), "peak_bytes", what, 0);
  result.windows = json_int(json_at(json, "windows", what), "windows", what, 0);
  for (const nlohmann::json& note : list_at(json, "notes", what)) {
    result.notes.push_back(json_string(note, "notes", what));
  }
  result.version = json_string(json_at(json, "version", what), "version", what);
  result.device = json_string(json_at(json, "device", what), "device", what);
  result.finished = json_int(json_at(json, "finished", what), "finished", what, 0);
  if (result.finished > last_second) fail(what, ": finished: ", result.finished, " is no time");
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
