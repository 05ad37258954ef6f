#include "nn/families/family.h"

#include <map>
#include <nlohmann/json.hpp>
#include <set>

namespace cbq {
namespace {
std::map<std::string, std::shared_ptr<Family>>& families() {
  static std::map<std::string, std::shared_ptr<Family>> all;
  return all;
}

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}
}  // namespace

bool Family::ignores(const std::string&) const { return false; }
bool Family::is_transposed(const std::string&) const { return false; }

std::string Family::checkpoint_name(const ModelConfig& config, const Checkpoint& checkpoint,
                                    const std::string& path) const {
  if (checkpoint.has(path)) return path;
  const std::string prefix = base_prefix();
  if (path.starts_with(prefix) && checkpoint.has(path.substr(prefix.size()))) {
    return path.substr(prefix.size());
  }
  const bool shares_head = config.tie_word_embeddings && path == embedding_name();
  return shares_head && checkpoint.has(head_name()) ? head_name() : path;
}

bool register_family(std::unique_ptr<Family> family) {
  const std::shared_ptr<Family> shared = std::move(family);
  for (const std::string& name : shared->architectures()) {
    check(families().emplace(name, shared).second, "architecture '", name, "' is registered twice");
  }
  return true;
}

const Family& family_of(const std::string& architecture) {
  const auto found = families().find(architecture);
  if (found != families().end()) return *found->second;
  throw std::invalid_argument(message_of("unknown model architecture '", architecture,
                                         "'; known: ", listed(known_architectures())));
}

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const auto& [name, family] : families()) names.push_back(name);
  return names;
}

std::vector<std::string> known_model_types() {
  std::set<std::string> types;
  for (const auto& [name, family] : families()) types.insert(family->model_type());
  return {types.begin(), types.end()};
}

std::string architecture_of_type(const std::string& model_type) {
  for (const auto& [name, family] : families()) {
    if (family->model_type() == model_type) return family->architectures().front();
  }
  throw std::invalid_argument(
      message_of("unknown model family '", model_type, "'; known: ", listed(known_model_types())));
}

ModelConfig config_of_family(const std::string& model_type, const ModelConfig& shape) {
  ModelConfig sized = shape;
  sized.architecture = architecture_of_type(model_type);
  sized.model_type = model_type;
  nlohmann::json fields = sized.to_json();
  // `shape` does not mean its activation: it is left to the family's default.
  for (const char* key : {"hidden_act", "activation_function", "hidden_activation"})
    fields.erase(key);
  ModelConfig config = ModelConfig::from_json(fields, "a new model of the family " + model_type);
  config.source.clear();
  return config;
}

}  // namespace cbq
