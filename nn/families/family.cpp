#include "nn/families/family.h"

#include <map>

namespace cbq {
namespace {
std::map<std::string, std::shared_ptr<Family>>& families() {
  static std::map<std::string, std::shared_ptr<Family>> all;
  return all;
}
}  // namespace

std::string Family::checkpoint_name(const Checkpoint&, const std::string& path) const {
  return path;
}
bool Family::ignores(const ModelConfig&, const std::string&) const { return false; }

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
      concat("unknown model architecture '", architecture, "'; known: ", known));
}

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const auto& [name, family] : families()) names.push_back(name);
  return names;
}

}  // namespace cbq
