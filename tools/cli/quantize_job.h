// What `cbq quantize` is asked to do, for a run that does it and for one that finds it done.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cbq/exporters/exporter.h"
#include "cbq/job_identity.h"
#include "cbq/quantized_folder.h"
#include "cbq/watch.h"
#include "experiments/model_loading.h"
#include "nn/text/tokens.h"
#include "nn/transformer.h"
#include "tools/cli/evaluation.h"
#include "tools/cli/settings_options.h"

namespace cbq::cli {

/// The options of `cbq quantize`.
struct QuantizeOptions {
  std::string model, output, tokenizer, calibration = "model", format = packed_format;
  std::string export_dtype, cache;  // export_dtype "": the format's default
  int64_t segments = 0, segment_length = 0;
  /// In place of what `calibration` names, which then is a name alone.
  std::optional<std::vector<std::vector<int32_t>>> given_segments;
  bool overwrite = false, resume = false;
  EvaluationOptions evaluation;
  SettingsOptions settings;
  LoadOptions loading;
  ComputeOptions compute;
};

/// The folder of the state of an interrupted run, beside the output.
std::filesystem::path resume_folder_of(const QuantizeOptions& options);

/// {"bytes", "crc32"} of a file.
nlohmann::json file_record(const std::filesystem::path& file,
                           const std::function<void(int64_t bytes)>& progress);

/// {name: file_record} of all files of a result in `folder`.
nlohmann::json files_of(const std::filesystem::path& folder, const Watch& watch);

/// Which ids were scored, by the name of their source.
nlohmann::json digests_of(const std::vector<NamedTokens>& sets);

/// What a command asks for: the model, the tokens, and which run they make. Lines go to `say`.
class QuantizeJob {
 public:
  QuantizeJob(const QuantizeOptions& options, Watch watch,
              std::function<void(const std::string&)> say)
      : device(options.compute.apply()),
        settings(settings_of(options, device, say)),
        o_(options),
        watch_(std::move(watch)),
        say_(std::move(say)) {}

  /// Asks whether the format can hold the result, opens the model, rewrites it where the settings
  /// ask for that, reads all its parameters once, and the tokens to score.
  void load();
  void load_calibration();
  bool needs_calibration() const;
  /// Whether calibration tokens have to be made by the model first, which takes long.
  bool samples() const { return needs_calibration() && o_.calibration == "model"; }
  /// What sampled tokens depend on beside the model, after load(); null where none are sampled.
  nlohmann::json sampling_request() const;
  /// Where the tokenizer lies that goes with the result; empty: there is none.
  std::filesystem::path tokenizer_of_result() const;
  /// Of the model as load() left it: to be asked for before it is quantized.
  JobIdentity identity() const;

  Device device;
  Settings settings;
  Dtype dtype = Dtype::f32;            // that the model computes in
  std::unique_ptr<Exporter> exporter;  // of --export
  Dtype export_dtype = Dtype::f32;     // of --export-dtype
  std::unique_ptr<Transformer> model;
  std::vector<std::string> notes;  // of transforms of the whole model
  std::string model_digest;
  TokenSet calibration;
  std::vector<NamedTokens> evaluation;

 private:
  static Settings settings_of(const QuantizeOptions& options, Device device,
                              const std::function<void(const std::string&)>& say);
  void check_parameters();
  TokenContext tokens() const {
    return {model->config, o_.tokenizer.empty() ? o_.model : o_.tokenizer, model.get(), watch_,
            say_};
  }
  TokenSet given_calibration() const;
  const QuantizeOptions& o_;
  Watch watch_;
  std::function<void(const std::string&)> say_;
  int64_t context_ = 0;  // the model's
};

}  // namespace cbq::cli
