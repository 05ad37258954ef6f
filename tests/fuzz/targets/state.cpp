// What interrupted runs leave behind: the state of a quantization, and of a training run.
#include "cbq/resume.h"
#include "nn/formats/json.h"
#include "nn/formats/safetensors.h"
#include "nn/trainer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/reseal.h"
#include "tests/tiny_model.h"

namespace fs = std::filesystem;

namespace cbq::fuzz {
namespace {

/// The same damage under a right checksum.
std::function<void(const fs::path&)> resealed(void (*run)(const fs::path&)) {
  return [run](const fs::path& file) {
    reseal_safetensors(file);
    run(file);
  };
}

// ---- quantization -------------------------------------------------------------------------------

JobIdentity identity_of_seeds() {
  JobIdentity identity;
  identity.model = "0123456789abcdef0123456789abcdef";
  return identity;
}

void resume_seeds(const fs::path& folder) {
  const ResumeFolder resume(folder / "0", identity_of_seeds());
  const Tensor some = Tensor::from(std::vector<float>{1, 2, 3, 4}, {2, 2});
  RunState state;
  WindowReport report;
  report.window = {0, 2};
  report.finishes = 1;
  report.loss_before = 0.5;
  report.trouble = "";
  state.reports = {report, report};
  state.windows = 2;
  state.finished = 1;
  state.stream = some;
  state.live = {{"model.layers.1.mlp.down_proj.scale", some}};
  resume.save_block(0, {{"codes", Tensor::zeros({4}, Dtype::u8)}, {"scale", some}});
  resume.save(state);
}

/// A state that cannot be used is said and not an error; a block's file is one. A damaged state is
/// moved away, so this looks at copies: the next case needs the files beside its own.
void load_resume(const fs::path& file) {
  const fs::path copies = file.parent_path() / "copies";
  fs::remove_all(copies);
  fs::create_directories(copies);
  for (const auto& entry : fs::directory_iterator(file.parent_path())) {
    if (entry.is_regular_file()) fs::copy_file(entry, copies / entry.path().filename());
  }
  const ResumeFolder resume(copies, identity_of_seeds());
  std::string said;
  const auto state = resume.load([&](const std::string& line) { said = line; });
  if (!state) throw std::runtime_error(said);
  for (int64_t b = 0; b < state->finished; ++b) resume.load_block(b);
}

/// Where the text of a header's metadata `key` stands, without its quotation marks; {0, 0}:
/// nowhere.
std::pair<size_t, size_t> metadata_value(const std::string& header, const std::string& key) {
  const std::string begin = "\"" + key + "\":\"";
  const size_t at = header.find(begin);
  if (at == std::string::npos) return {0, 0};
  size_t end = at + begin.size();
  while (end < header.size() && header[end] != '"') end += header[end] == '\\' ? 2 : 1;
  if (end >= header.size()) return {0, 0};
  return {at + begin.size(), end};
}

/// The reports of a state are JSON in a string of the header's JSON.
std::string damage_run(const std::string& bytes, Random& random) {
  std::string header = safetensors_header(bytes);
  const auto [begin, end] = metadata_value(header, "run");
  if (end == 0) return bytes;
  const auto run = nlohmann::json::parse(header.substr(begin - 1, end - begin + 2), nullptr, false);
  if (!run.is_string()) return bytes;
  const nlohmann::json changed = mutated_json(run.get<std::string>(), random);
  const std::string quoted = changed.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return with_safetensors_header(bytes, header.replace(begin - 1, end - begin + 2, quoted));
}

const bool resume_state = add_target({.name = "resume_state",
                                      .format = Format::safetensors,
                                      .file = "state.safetensors",
                                      .seeds = resume_seeds,
                                      .run = load_resume,
                                      .damage = damage_run});

const bool resume_block = add_target({.name = "resume_block",
                                      .format = Format::safetensors,
                                      .file = "block-0.safetensors",
                                      .seeds = resume_seeds,
                                      .run = load_resume});

const bool resume_state_resealed = add_target({.name = "resume_state_resealed",
                                               .format = Format::safetensors,
                                               .file = "state.safetensors",
                                               .seeds = resume_seeds,
                                               .run = resealed(load_resume),
                                               .damage = damage_run});

const bool resume_block_resealed = add_target({.name = "resume_block_resealed",
                                               .format = Format::safetensors,
                                               .file = "block-0.safetensors",
                                               .seeds = resume_seeds,
                                               .run = resealed(load_resume)});

// ---- training -----------------------------------------------------------------------------------

TrainSettings few_steps() {
  TrainSettings settings;
  settings.steps = 2;
  settings.batch = 1;
  settings.tokens = 4;
  settings.warmup = 1;
  return settings;
}

void train_in(const fs::path& folder) {
  const auto model = tiny_model(1, 8);
  TrainHooks hooks;
  hooks.folder = folder;
  train(*model, tiny_segments(1, 40)[0], few_steps(), hooks);
}

/// The step is a number in a string.
std::string damage_step(const std::string& bytes, Random& random) {
  static const std::vector<std::string> steps = {"-5",
                                                 "abc",
                                                 "3.7",
                                                 "",
                                                 " 2",
                                                 "2 ",
                                                 "+2",
                                                 "1e3",
                                                 "0x2",
                                                 "99999999999999999999",
                                                 "-9223372036854775808",
                                                 "9223372036854775807",
                                                 "0",
                                                 "3",
                                                 "2\\u0000",
                                                 "nan"};
  std::string header = safetensors_header(bytes);
  const auto [begin, end] = metadata_value(header, "step");
  if (end == 0) return bytes;
  return with_safetensors_header(bytes, header.replace(begin, end - begin, random.of(steps)));
}

void go_on_training(const fs::path& file) { train_in(file.parent_path()); }

const bool training_resealed =
    add_target({.name = "training_state_resealed",
                .format = Format::safetensors,
                .file = "training.safetensors",
                .seeds = [](const fs::path& folder) { train_in(folder / "0"); },
                .run = resealed(go_on_training),
                // Weights that were changed, under a right checksum, may be too large to train.
                .names = {"lower --rate"},
                .damage = damage_step});

const bool training = add_target({.name = "training_state",
                                  .format = Format::safetensors,
                                  .file = "training.safetensors",
                                  .seeds = [](const fs::path& folder) { train_in(folder / "0"); },
                                  .run = go_on_training,
                                  .damage = damage_step});

}  // namespace
}  // namespace cbq::fuzz
