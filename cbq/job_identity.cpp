#include "cbq/job_identity.h"

#include "kernels/matmul/blas.h"
#include "nn/formats/hash.h"
#include "nn/formats/json.h"
#include "tensor/runtime/environment.h"
#include "tensor/runtime/program_version.h"

using nlohmann::json;

namespace cbq {
namespace {

/// Calls f(name in files, name in messages, whether values say something to a reader, member) for
/// every text field but `program`, which key() leaves out.
template <class Identity, class F>
void visit_fields(Identity& identity, F&& f) {
  f("model", "the model", false, identity.model);
  f("calibration", "the calibration tokens", false, identity.calibration);
  f("evaluation", "the test texts", false, identity.evaluation);
  f("dtype", "the dtype", true, identity.dtype);
  f("device", "the device", true, identity.device);
  f("environment", "switches of the environment", true, identity.environment);
  f("segments_per_pass", "the segments per pass", true, identity.segments_per_pass);
  f("export_format", "the export", true, identity.export_format);
  f("export_dtype", "the export's dtype", true, identity.export_dtype);
}

std::string in_words(const std::string& name, const std::string& there, const std::string& here) {
  const auto shown = [](const std::string& value) { return value.empty() ? "none" : value; };
  return concat(name, " (", shown(there), " there, ", shown(here), " here)");
}

std::string plain(const json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

void compare_settings(const json& there, const json& here, std::vector<std::string>& found) {
  if (!there.is_object() || !here.is_object()) {
    if (there != here) found.emplace_back("the settings");
    return;
  }
  json names = there;
  names.update(here);
  for (const auto& [name, unused] : names.items()) {
    const json& a = json_find(there, name, "settings");
    const json& b = json_find(here, name, "settings");
    if (a != b) found.push_back(in_words(name, plain(a), plain(b)));
  }
}

}  // namespace

json JobIdentity::to_json() const {
  json all = json::object();
  visit_fields(*this, [&](const char* name, const char*, bool, const std::string& value) {
    if (!value.empty()) all[name] = value;
  });
  if (!settings.is_null()) all["settings"] = settings;
  if (!program.empty()) all["program"] = program;
  return all;
}

JobIdentity JobIdentity::from_json(const json& object, const std::string& what) {
  JobIdentity identity;
  const auto read = [&](const char* name, std::string& value) {
    const json& found = json_find(object, name, what);
    if (!found.is_null()) value = json_string(found, name, what);
  };
  visit_fields(identity,
               [&](const char* name, const char*, bool, std::string& value) { read(name, value); });
  identity.settings = json_find(object, "settings", what);
  read("program", identity.program);
  return identity;
}

std::string JobIdentity::key() const {
  json all = to_json();
  all.erase("program");
  return Digest().add("job identity 1").add(all.dump()).hex();
}

std::vector<std::string> differences(const JobIdentity& there, const JobIdentity& here) {
  std::vector<std::string> found;
  const json other = there.to_json();
  visit_fields(here,
               [&](const char* name, const char* words, bool shown, const std::string& value) {
                 const json& its = json_find(other, name, "identity");
                 const std::string before = its.is_null() ? "" : its.get<std::string>();
                 // A model's digest is that of its values in the dtype, which is what really
                 // differs.
                 if (std::string_view(name) == "model" && there.dtype != here.dtype) return;
                 if (before != value)
                   found.push_back(shown ? in_words(words, before, value) : words);
               });
  compare_settings(there.settings, here.settings, found);
  if (there.program != here.program) {
    found.push_back(in_words("the program's version", there.program, here.program));
  }
  return found;
}

std::string text_of(const std::vector<std::string>& all) {
  std::string text = "it differs in ";
  for (size_t i = 0; i < all.size(); ++i) {
    if (i > 0) text += i + 1 == all.size() ? " and " : ", ";
    text += all[i];
  }
  return text;
}

std::string digest_of(Transformer& model,
                      const std::function<void(const std::string&, const Tensor&)>& visit) {
  Digest digest;
  read_parameters(model, [&](const std::string& path, const Tensor& value) {
    if (visit) visit(path, value);
    digest.add(path).add(value);
  });
  // Some transforms change no parameter, but last bits of activations.
  for (const std::string& transform : model.transforms) digest.add(transform);
  return digest.add(model.config.to_json().dump()).hex();
}

std::string digest_of(const Segments& segments) {
  Digest digest;
  for (const std::vector<int32_t>& ids : segments) {
    digest.add(ids.data(), ids.size() * sizeof(int32_t));
  }
  return digest.hex();
}

std::string name_of_processor(Device device) {
  if (device != Device::cpu()) return name_of(device);
  return concat(name_of(device), " (", kernels::blas::library_name(), ")");
}

JobIdentity identity_of_activations(const Transformer& model, const std::string& model_digest,
                                    const Segments& segments) {
  JobIdentity identity;
  identity.model = model_digest;
  identity.calibration = digest_of(segments);
  identity.dtype = name_of(model.dtype());
  identity.device = name_of_processor(model.device());
  identity.environment = bits_of_environment();
  const size_t length = segments.empty() ? 0 : segments.front().size();
  identity.segments_per_pass = concat(segments_per_pass(static_cast<int64_t>(length)));
  identity.program = program_version();
  return identity;
}

JobIdentity identity_of_run(const Transformer& model, const std::string& model_digest,
                            const Segments& segments, const Settings& settings) {
  JobIdentity identity = identity_of_activations(model, model_digest, segments);
  identity.settings = to_json(canonical(settings, model.block_count()));
  return identity;
}

}  // namespace cbq
