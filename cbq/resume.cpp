#include "cbq/resume.h"

#include "nn/formats/atomic_file.h"
#include "nn/formats/json.h"
#include "nn/formats/sealed_files.h"

namespace cbq {

nlohmann::json to_json(const WindowReport& r) {
  return {{"first", r.window.first},
          {"count", r.window.count},
          {"finishes", r.finishes},
          {"loss_before", r.loss_before},
          {"loss_relaxed", r.loss_relaxed},
          {"loss_hard", r.loss_hard},
          {"best_epoch", r.best_epoch},
          {"steps", r.steps},
          {"seconds", r.seconds},
          {"peak_bytes", r.peak_bytes},
          {"trouble", r.trouble}};
}

WindowReport window_report_from_json(const nlohmann::json& json, const std::string& what) {
  const auto integer = [&](const char* key) {
    return json_int(json_at(json, key, what), key, what);
  };
  const auto number = [&](const char* key) {
    const nlohmann::json& value = json_at(json, key, what);
    return value.is_null() ? std::nan("") : json_double(value, key, what);  // JSON has no NaN
  };
  WindowReport r;
  r.window = {integer("first"), integer("count")};
  r.finishes = integer("finishes");
  r.loss_before = number("loss_before");
  r.loss_relaxed = number("loss_relaxed");
  r.loss_hard = number("loss_hard");
  r.best_epoch = integer("best_epoch");
  r.steps = integer("steps");
  r.seconds = number("seconds");
  r.peak_bytes = integer("peak_bytes");
  r.trouble = json_string(json_at(json, "trouble", what), "trouble", what);
  return r;
}

namespace {

std::map<std::string, Tensor> load_tensors(const SafetensorsFile& file) {
  std::map<std::string, Tensor> tensors;
  for (const std::string& name : file.names()) tensors[name] = file.load(name);
  return tensors;
}

std::string metadata_of(const SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  return found == file.metadata().end() ? "" : found->second;
}

struct OtherRun : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr const char* stream_name = "quantized_stream";
constexpr const char* state_name = "state.safetensors";
constexpr const char* polish_name = "polish.safetensors";
constexpr const char* damaged_name = "state.damaged";

bool is_block(const std::string& name) {
  return name.starts_with("block-") && name.ends_with(".safetensors");
}

/// The files of a state that are in the folder itself, the state first: whoever removes them in
/// this order, and is killed meanwhile, leaves no state without its blocks.
std::vector<std::filesystem::path> files_in(const std::filesystem::path& folder, bool with_state) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  if (with_state && std::filesystem::exists(folder / state_name, error)) {
    files.push_back(folder / state_name);
  }
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end;
       at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (is_block(name) || name == polish_name) files.push_back(at->path());
  }
  return files;
}

void remove_files(const std::filesystem::path& folder, bool with_state) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) return;
  sweep_temporaries(folder);
  for (const std::filesystem::path& file : files_in(folder, with_state)) {
    std::filesystem::remove(file, ignored);
  }
  std::filesystem::remove(folder, ignored);  // only while empty
}

/// Earlier programs wrote a hash, and neither identity nor checksum.
bool of_an_earlier_program(const std::filesystem::path& path) {
  try {
    const SafetensorsFile file = SafetensorsFile::open(path);
    return file.metadata().contains("hash") && !file.metadata().contains("identity");
  } catch (const std::exception&) {
    return false;
  }
}

/// The checksum comes first: what a damaged file says of its run means nothing.
SafetensorsFile opened(const std::filesystem::path& path) {
  try {
    return open_sealed_safetensors(path);
  } catch (const DamagedFile&) {
    if (!of_an_earlier_program(path)) throw;
  }
  throw OtherRun(
      concat(path.string(), " belongs to another run: it differs in the program's version"));
}

RunState state_of(const SafetensorsFile& file) {
  const std::string what = file.path().string();
  RunState state;
  const nlohmann::json run = parse_json(metadata_of(file, "run"), what);
  state.finished = json_int(json_at(run, "finished", what), "finished", what, 0);
  for (const nlohmann::json& r : json_at(run, "windows", what)) {
    state.reports.push_back(window_report_from_json(r, what + ": window report"));
  }
  state.windows = static_cast<int64_t>(state.reports.size());
  for (const nlohmann::json& note : json_at(run, "notes", what)) {
    state.notes.push_back(json_string(note, "notes", what));
  }
  state.seconds = json_double(json_at(run, "seconds", what), "seconds", what);
  state.peak_bytes = json_int(json_at(run, "peak_bytes", what), "peak_bytes", what, 0);
  state.live = load_tensors(file);
  const auto stream = state.live.find(stream_name);
  if (stream == state.live.end()) fail(what, ": tensor \"", stream_name, "\" is missing");
  state.stream = stream->second;
  state.live.erase(stream_name);
  return state;
}

}  // namespace

bool ResumeFolder::has_state(const std::filesystem::path& folder) {
  return std::filesystem::exists(folder / state_name);
}

void ResumeFolder::remove(const std::filesystem::path& folder) {
  remove_files(folder / damaged_name, true);
  remove_files(folder, true);
}

void ResumeFolder::remove_unfinished(const std::filesystem::path& folder) {
  remove_files(folder, false);
}

ResumeFolder::ResumeFolder(std::filesystem::path folder, JobIdentity identity)
    : folder_(std::move(folder)), identity_(std::move(identity)) {
  if (enabled()) std::filesystem::create_directories(folder_);
}

std::filesystem::path ResumeFolder::block_path(int64_t block) const {
  return folder_ / concat("block-", block, ".safetensors");
}

SafetensorsFile ResumeFolder::open(const std::filesystem::path& path) const {
  SafetensorsFile file = opened(path);
  const JobIdentity there = JobIdentity::from_json(
      parse_json(metadata_of(file, "identity"), path.string()), path.string());
  const std::vector<std::string> others = differences(there, identity_);
  if (!others.empty()) {
    throw OtherRun(concat(path.string(), " belongs to another run: ", text_of(others)));
  }
  return file;
}

std::optional<RunState> ResumeFolder::load(
    const std::function<void(const std::string&)>& say) const {
  if (!enabled() || !has_state(folder_)) return std::nullopt;
  const auto start_anew = [&](const std::exception& fault) {
    set_aside();
    if (say) {
      say(concat("not resumed, started from the first window: ", fault.what(),
                 "; the files are kept in ", (folder_ / damaged_name).string()));
    }
    return std::nullopt;
  };
  try {
    return read();
  } catch (const OtherRun& other) {  // finished windows of somebody: not ours to overwrite
    fail(other.what(), ". Give the options of that run to go on with it, or remove ",
         folder_.string(), " (--overwrite without --resume) to start anew");
  } catch (const DamagedFile& damage) {
    return start_anew(damage);
  } catch (const MissingFile& missing) {  // a block's: the state was there
    return start_anew(missing);
  }
}

RunState ResumeFolder::read() const {
  RunState state = state_of(open(folder_ / state_name));
  for (int64_t b = 0; b < state.finished; ++b) open(block_path(b));  // before they are relied on
  return state;
}

/// Somebody may still get something out of the files, so the run that starts anew does not replace
/// them.
void ResumeFolder::set_aside() const {
  const std::filesystem::path to = folder_ / damaged_name;
  remove_files(to, true);
  std::filesystem::create_directories(to);
  for (const std::filesystem::path& file : files_in(folder_, true)) {
    std::filesystem::rename(file, to / file.filename());
  }
}

void ResumeFolder::save_polish(const PolishState& state) const {
  if (!enabled()) return;
  const nlohmann::json stage = {
      {"steps", state.steps}, {"before", state.before}, {"seconds", state.seconds}};
  write(folder_ / polish_name, state.tensors, {{"polish", stage.dump()}});
}

std::optional<PolishState> ResumeFolder::load_polish(
    const std::function<void(const std::string&)>& say) const {
  const std::filesystem::path path = folder_ / polish_name;
  if (!enabled() || !std::filesystem::exists(path)) return std::nullopt;
  try {
    const SafetensorsFile file = open(path);
    const std::string what = path.string();
    const nlohmann::json stage = parse_json(metadata_of(file, "polish"), what);
    PolishState state;
    state.steps = json_int(json_at(stage, "steps", what), "steps", what, 0);
    state.before = json_double(json_at(stage, "before", what), "before", what);
    state.seconds = json_double(json_at(stage, "seconds", what), "seconds", what);
    state.tensors = load_tensors(file);
    return state;
  } catch (const DamagedFile& damage) {
    if (say) say(concat("the last stage starts anew: ", damage.what()));
    return std::nullopt;
  }
}

bool ResumeFolder::holds_own_state() const {
  try {
    if (!enabled() || !has_state(folder_)) return false;
    open(folder_ / state_name);
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

std::map<std::string, Tensor> ResumeFolder::load_block(int64_t block) const {
  return load_tensors(open(block_path(block)));
}

void ResumeFolder::write(const std::filesystem::path& path,
                         const std::map<std::string, Tensor>& tensors,
                         std::map<std::string, std::string> metadata) const {
  metadata["identity"] = identity_.to_json().dump();
  write_sealed_safetensors(path, tensors, std::move(metadata));
}

void ResumeFolder::save_block(int64_t block, const std::map<std::string, Tensor>& state) const {
  if (enabled()) write(block_path(block), state, {});
}

void ResumeFolder::save(const RunState& state) const {
  if (!enabled()) return;
  nlohmann::json windows = nlohmann::json::array();
  for (const WindowReport& r : state.reports) windows.push_back(to_json(r));
  const nlohmann::json run = {{"finished", state.finished},
                              {"windows", windows},
                              {"notes", state.notes},
                              {"seconds", state.seconds},
                              {"peak_bytes", state.peak_bytes}};
  std::map<std::string, Tensor> tensors = state.live;
  tensors[stream_name] = state.stream;
  write(folder_ / state_name, tensors, {{"run", run.dump()}});
}

}  // namespace cbq
