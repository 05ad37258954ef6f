// JobIdentity lists everything that decides the bytes of a result. States of interrupted runs,
// finished folders, cached activations and cells store it, and a reader compares it with its own.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cbq/settings.h"
#include "cbq/stream.h"
#include "cbq/watch.h"

namespace cbq {

/// An empty field is one that does not matter to what carries the identity: cached activations know
/// no settings, the state of a run no export.
struct JobIdentity {
  std::string model;              // digest_of the model: its parameters and its config
  std::string calibration;        // digest_of the segments' ids
  std::string evaluation;         // digest of the test texts' ids
  nlohmann::json settings;        // the canonical ones, by name; null: none
  std::string dtype;              // that the model computes in
  std::string device;             // name_of_processor()
  std::string environment;        // switches that move bits: bits_of_environment()
  std::string segments_per_pass;  // where nothing is learned
  std::string export_format;
  std::string export_dtype;
  std::string program;  // program_version()

  /// 32 hexadecimal digits over all fields except the program's version, used as a file name.
  /// Another version of the program therefore finds the same file, and can report and replace it.
  std::string key() const;
  nlohmann::json to_json() const;
  /// Fields that are missing are empty, unknown ones are ignored: the comparison then says so.
  static JobIdentity from_json(const nlohmann::json& json, const std::string& what);
};

/// What is different between two identities, in words, empty if nothing is: "the model", "epochs (2
/// there, 3 here)", "the program's version (0.1.0+a there, 0.1.0+b here)".
std::vector<std::string> differences(const JobIdentity& there, const JobIdentity& here);
/// "it differs in the model and epochs (2 there, 3 here)".
std::string text_of(const std::vector<std::string>& differences);

/// Digest of all parameters (paths, dtypes, values), of Transformer::transforms, and of the config.
/// `visit` sees every parameter on the way, since reading a large model twice takes minutes; it may
/// throw.
std::string digest_of(
    Transformer& model,
    const std::function<void(const std::string& path, const Tensor& value)>& visit = {});
/// Digest of token ids.
std::string digest_of(const Segments& segments);

/// "cpu (SkylakeX, OpenBLAS 0.3.21 ...)", with the BLAS library and the kernels that it chose for
/// this processor, which decide last bits; on a GPU "cuda:0", which does not tell GPUs of different
/// models apart.
std::string name_of_processor(Device device);

/// Of the original activations. `model_digest`: digest_of(model).
JobIdentity identity_of_activations(const Transformer& model, const std::string& model_digest,
                                    const Segments& segments);
/// Of a run of quantize(): the activations' and the settings.
JobIdentity identity_of_run(const Transformer& model, const std::string& model_digest,
                            const Segments& segments, const Settings& settings);

}  // namespace cbq
