#include "tools/cli/quantize_job.h"

#include <nlohmann/json.hpp>

#include "cbq/global_transforms.h"
#include "cbq/quantizers.h"
#include "kernels/ops.h"
#include "nn/formats/output_lock.h"
#include "nn/formats/sealed_files.h"
#include "nn/text/tokenizer.h"
#include "tensor/runtime/device_memory.h"
#include "tools/cli/model_card.h"
#include "tools/cli/output_folder.h"
#include "tools/cli/run_plan.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace cbq::cli {
namespace {

/// Files of the folder that are no part of the result, but about it.
bool is_about_the_run(const fs::path& file) {
  const std::string name = file.filename().string();
  return name == "recipe.json" || name == "report.json" || name == "log.txt" || is_model_card(file);
}

}  // namespace

fs::path resume_folder_of(const QuantizeOptions& o) {
  fs::path path = resolved_output(o.output);
  return path += ".resume";
}

json file_record(const fs::path& file, const std::function<void(int64_t)>& progress) {
  return {{"bytes", static_cast<int64_t>(fs::file_size(file))},
          {"crc32", checksum_of_file(file, progress)}};
}

json files_of(const fs::path& folder, const Watch& watch) {
  std::vector<std::string> names;
  int64_t total = 0, done = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    const std::string name = entry.path().lexically_relative(folder).string();
    if (is_about_the_run(entry.path()) || OutputFolder::is_mark(name)) continue;
    names.push_back(name);
    total += static_cast<int64_t>(entry.file_size());
  }
  json files = json::object();
  for (const std::string& name : names) {
    const auto bytes = static_cast<int64_t>(fs::file_size(folder / name));
    files[name] = file_record(folder / name, [&](int64_t read) {
      watch.step(done + read, total, "computing checksums of the result");
    });
    done += bytes;
  }
  return files;
}

json digests_of(const std::vector<NamedTokens>& sets) {
  json all = json::object();
  for (const NamedTokens& set : sets) all[set.name] = digest_of(set.tokens.segments);
  return all;
}

/// Where nobody chooses a grid, groups are taken that fit the model's shape; load() says what is
/// wrong with a folder that is no model.
Settings QuantizeJob::settings_of(const QuantizeOptions& options, Device device,
                                  const std::function<void(const std::string&)>& say) {
  std::error_code ignored;
  if (!fs::exists(fs::path(options.model) / "config.json", ignored) ||
      is_quantized_folder(options.model)) {
    return options.settings.resolve(say, nullptr);
  }
  const ModelConfig config = ModelConfig::load(options.model);
  RunPlace place;
  const auto silent = [](const std::string&) {};  // load() says it
  place.dtype = options.compute.quantization_dtype_for(options.model, device, silent);
  place.memory_bytes = memory_limit(device);
  const auto find_obstacle = [&](const Settings& s) { return setting_obstacle(s, config, place); };
  Settings settings = options.settings.resolve(say, find_obstacle);
  // Transforms are refused where they are applied, norms where they are learned; whether memory is
  // enough nobody knows before.
  const std::optional<SettingObstacle> left = find_obstacle(settings);
  if (left && left->setting == "polish_epochs") {
    say(concat("warning: ", left->reason,
               ": the run may end out of memory (--polish-epochs 0 leaves ", "that stage out)"));
  }
  if (!options.settings.chooses_grid()) choose_default_groups(config, settings);
  return settings;
}

void QuantizeJob::load() {
  exporter = exporters().make(o_.format);
  if (is_quantized_folder(o_.model)) {
    fail(o_.model, " is quantized already; give the floating-point model");
  }
  std::error_code absent;
  check(!fs::equivalent(o_.model, o_.output, absent),
        "--output is the model's own folder, which --overwrite would destroy; name another");
  export_dtype = cbq::export_dtype(*exporter, "--export-dtype", o_.export_dtype);
  dtype = o_.compute.quantization_dtype_for(o_.model, device, say_);
  const ModelConfig config = ModelConfig::load(o_.model);
  validate(settings, config.num_layers);
  ExportPlan plan = export_plan(config, settings);
  plan.tokenizer = tokenizer_of_result();
  check_exportable(*exporter, plan, "--export");
  model = o_.loading.open(o_.model, dtype, device, {say_, watch_.interrupted});
  context_ = model->config.context();
  notes = apply_global_transforms(*model, settings);
  check_layers(*model, settings);
  check_parameters();
  evaluation = load_evaluation(o_.evaluation, tokens());
}

fs::path QuantizeJob::tokenizer_of_result() const {
  return fs::path(tokenizer_files(o_.model).empty() ? o_.tokenizer : o_.model);
}

void QuantizeJob::load_calibration() {
  if (needs_calibration()) {
    say_("calibration: " + o_.calibration);
    calibration = o_.given_segments ? given_calibration()
                                    : calibration_tokens(o_.calibration, tokens(), o_.segments,
                                                         o_.segment_length, settings.seed);
  } else {
    calibration.segments = {{0}};
    calibration.protocol = "none needed";
  }
}

TokenSet QuantizeJob::given_calibration() const {
  check(o_.segments == 0 && o_.segment_length == 0,
        "--segments and --segment-length cut texts and files; cut the ids before you give them");
  TokenSet set;
  set.segments = *o_.given_segments;
  set.protocol = o_.calibration;
  set.check_vocabulary(model->config.vocab_size);
  set.length();  // throws when they differ
  return set;
}

/// Nearest rounding, without a solver and with ranges from the data at hand, looks at no
/// calibration data.
bool QuantizeJob::needs_calibration() const {
  const bool observes = settings.abits < float_bits && !settings.act_dynamic;
  return settings.reconstructs() || settings.preprocess != "none" || settings.solves() ||
         settings.polishes() || observes;
}

json QuantizeJob::sampling_request() const {
  if (!samples()) return nullptr;
  const SampledSize size = sampled_size(context_, o_.segments, o_.segment_length);
  return {{"segments", size.count}, {"tokens", size.length}, {"seed", settings.seed}};
}

/// Hashes every parameter, and refuses those that no method can repair.
void QuantizeJob::check_parameters() {
  const auto total = parameter_bytes(*model);
  int64_t done = 0;
  model_digest = digest_of(*model, [&](const std::string& path, const Tensor& value) {
    watch_.step(done, total, "reading the model");
    done += value.bytes();
    if (kernels::has_non_finite(value)) {
      fail(o_.model, ": ", path, " holds NaN or infinity; the checkpoint is broken, fetch or ",
           "train it again");
    }
  });
}

JobIdentity QuantizeJob::identity() const {
  JobIdentity identity = identity_of_run(*model, model_digest, calibration.segments, settings);
  identity.export_format = o_.format;
  if (!exporter->dtypes().empty()) identity.export_dtype = name_of(export_dtype);
  return identity;
}

}  // namespace cbq::cli
