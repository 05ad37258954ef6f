#include "tools/cli/finished_run.h"

#include <optional>

#include "cbq/resume.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/json.h"
#include "nn/formats/output_lock.h"
#include "nn/formats/sealed_files.h"
#include "tools/cli/model_card.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace cbq::cli {
namespace {

/// A script may repeat the command until it succeeds, or with further texts to score. Nothing is
/// changed except the scores in report.json and this run's own state that was left behind.
class FinishedRun {
 public:
  FinishedRun(const QuantizeOptions& options, Listener& listener)
      : o_(options),
        listener_(listener),
        folder_(o_.output),
        state_(resume_folder_of(options)),
        job_(options, listener.watch(), [this](const std::string& line) { listener_.line(line); }) {
  }

  void run();

 private:
  json read(const char* name) const;
  void check_identity();
  void check_files();
  void drop_left_over_state() const;
  void score();
  [[noreturn]] void refuse(const std::string& why) const;

  const QuantizeOptions& o_;
  Listener& listener_;
  fs::path folder_, state_;
  std::optional<OutputLock> lock_;  // where something may be changed
  QuantizeJob job_;
  json recipe_;
};

void FinishedRun::refuse(const std::string& why) const {
  std::error_code ignored;
  const char* state = fs::exists(state_, ignored)
                          ? "--resume --overwrite goes on with the interrupted run beside it and "
                            "replaces it at the end; "
                          : "";
  fail(o_.output, why, ". Nothing was changed: ", state,
       "--overwrite makes it anew, another --output leaves it as it is");
}

json FinishedRun::read(const char* name) const {
  std::error_code ignored;
  if (!fs::exists(folder_ / name, ignored)) refuse(concat(" has no ", name));
  try {
    return read_sealed_json(folder_ / name);
  } catch (const DamagedFile& damage) {
    if (of_an_earlier_program(folder_ / name)) {
      refuse(" belongs to another run: it differs in the program's version");
    }
    refuse(concat(": ", damage.what()));
  }
}

void FinishedRun::run() {
  std::error_code ignored;
  // Before anything is read: what is compared must be what is then changed. A killed process may
  // have left the lock's file, which then goes with this lock.
  if (!o_.evaluation.sources.empty() || fs::exists(state_, ignored) ||
      OutputLock::is_file_there(folder_)) {
    lock_.emplace(folder_);
  }
  recipe_ = read("recipe.json");
  job_.load();
  check_identity();
  check_files();
  drop_left_over_state();
  score();
}

/// A run that was killed after it had published its result leaves its state behind. Another run's
/// state stays: somebody may want to continue it.
void FinishedRun::drop_left_over_state() const {
  if (!lock_) return;
  JobIdentity identity = JobIdentity::from_json(recipe_.at("identity"), "recipe.json");
  identity.export_format = identity.export_dtype = "";  // of no concern to windows
  if (!ResumeFolder::has_state(state_)) {
    ResumeFolder::remove_unfinished(state_);
  } else if (ResumeFolder(state_, identity).holds_own_state()) {
    ResumeFolder::remove(state_);
  }
}

void FinishedRun::check_identity() {
  const std::string where = (folder_ / "recipe.json").string();
  const JobIdentity there = JobIdentity::from_json(json_at(recipe_, "identity", where), where);
  // Sampling takes hours where comparing takes none: the same model, asked for the same segments by
  // the same program, gives the same ones.
  const json& before = json_find(json_at(recipe_, "calibration", where), "sampling", where);
  JobIdentity here = job_.identity();
  here.calibration = there.calibration;
  here.segments_per_pass = there.segments_per_pass;
  std::vector<std::string> others = differences(there, here);
  if (!job_.samples() || (others.empty() && before != job_.sampling_request())) {
    job_.load_calibration();
    others = differences(there, job_.identity());
  }
  if (!others.empty()) refuse(concat(" belongs to another run: ", text_of(others)));
}

void FinishedRun::check_files() {
  const std::string where = (folder_ / "recipe.json").string();
  const json& files = json_at(recipe_, "files", where);
  for (const auto& [name, unused] : files.items()) {
    std::error_code ignored;
    if (!fs::is_regular_file(folder_ / name, ignored)) refuse(concat(" has no ", name));
  }
  const json now = files_of(folder_, listener_.watch());
  for (const auto& [name, file] : files.items()) {
    if (json_find(now, name, where) != file) {
      refuse(concat(": ", (folder_ / name).string(), " is damaged: it is ", now.at(name).dump(),
                    ", it was written as ", file.dump()));
    }
  }
}

/// Scores the sets that report.json does not have, and adds them to it.
void FinishedRun::score() {
  json report = read("report.json");
  const json& known = json_find(report, "evaluated", "report.json");
  const json wanted = digests_of(job_.evaluation);
  std::erase_if(job_.evaluation, [&](const NamedTokens& set) {
    return known.is_object() && json_find(known, set.name, "report.json") == wanted.at(set.name);
  });
  if (job_.evaluation.empty()) {
    listener_.finish();
    listener_.result(o_.output + ": finished already, by this very command\n");
    return;
  }
  if (!job_.exporter->is_read_here()) {
    fail(o_.output, " is in the format ", o_.format,
         ", which is not read back here, so no further ",
         "texts can be scored; score a result in the format ", packed_format);
  }
  const auto score = [&](Transformer& model, const char* key) {
    const std::vector<Score> scores =
        evaluate(model, job_.evaluation, o_.evaluation.batch, listener_);
    listener_.finish();
    listener_.result(lines_of(key, scores));
    report[key]["results"].update(to_json(scores));
  };
  score(*job_.model, "original");
  job_.model = nullptr;
  job_.model = o_.loading.open(
      folder_, job_.dtype, job_.device,
      {[this](const std::string& line) { listener_.line(line); }, listener_.watch().interrupted});
  score(*job_.model, "quantized");
  report["evaluated"].update(digests_of(job_.evaluation));
  write_text_atomically(folder_ / "report.json", sealed(report).dump(2) + "\n");
  write_model_card(folder_, recipe_, report);
  listener_.result(o_.output + ": finished already; the scores are added to report.json\n");
}

}  // namespace

bool is_finished_run(const QuantizeOptions& o) {
  if (!o.resume || o.overwrite) return false;
  std::error_code ignored;
  for (const char* name : {"recipe.json", "report.json", "config.json", "model.safetensors"}) {
    if (fs::exists(fs::path(o.output) / name, ignored)) return true;
  }
  return false;
}

bool of_an_earlier_program(const fs::path& recipe) {
  try {
    const json object = read_json_file(recipe, size_t{16} << 20);
    return object.is_object() && object.contains("settings_hash") && !object.contains("identity") &&
           !object.contains("checksum");
  } catch (const std::exception&) {
    return false;
  }
}

void run_finished(const QuantizeOptions& options, Listener& listener) {
  FinishedRun(options, listener).run();
}

}  // namespace cbq::cli
