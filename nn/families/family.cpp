#include "nn/families/family.h"

#include <map>

namespace cbq {
namespace {
std::map<std::string, std::shared_ptr<Family>>& families() {
  static std::map<std::string, std::shared_ptr<Family>> all;
  return all;
}
}  // namespace

bool Family::ignores(const std::string&) const { return false; }

std::string Family::checkpoint_name(const ModelConfig& config, const Checkpoint& checkpoint,
                                    const std::string& path) const {
  if (checkpoint.has(path)) return path;
  const std::string prefix = base_prefix();
  if (path.starts_with(prefix) && checkpoint.has(path.substr(prefix.size()))) {
    return path.substr(prefix.size());
  }
  const bool shares_head = config.tie_word_embeddings && path == embedding_name();
  return shares_head && checkpoint.has(head_name) ? head_name : path;
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
  std::string known;
  for (const std::string& name : known_architectures()) known += (known.empty() ? "" : ", ") + name;
  throw std::invalid_argument(
      message_of("unknown model architecture '", architecture, "'; known: ", known));
}

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const auto& [name, family] : families()) names.push_back(name);
  return names;
}

}  // namespace cbq
