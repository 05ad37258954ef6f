// Checkpoint: a model folder of one or many safetensors files (declared in
// nn/formats/safetensors.h).
#include <algorithm>
#include <set>

#include "nn/formats/json.h"
#include "nn/formats/safetensors.h"
#include "tensor/runtime/notice.h"

namespace cbq {
namespace {

constexpr const char* single_name = "model.safetensors";
constexpr const char* index_name = "model.safetensors.index.json";

// A name that cannot lead out of its folder.
bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of("/\\") == std::string::npos;
}

[[noreturn]] void fail_without_model(const std::filesystem::path& folder) {
  std::error_code error;
  if (!std::filesystem::exists(folder, error)) {
    fail_to_open(ENOENT, "model folder ", folder.string(), " does not exist");
  }
  std::string pickled, others;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("pytorch_model") || name.ends_with(".pth")) {
      if (pickled.empty() || name < pickled) pickled = name;
    }
    if (entry.path().extension() == ".safetensors") others += " " + name;
  }
  if (!pickled.empty()) {
    fail(folder.string(), " has only pickled PyTorch weights (", pickled,
         "), which are never unpickled here. Convert them once: python3 "
         "tools/convert_checkpoint.py ",
         folder.string());
  }
  fail(folder.string(), " has neither ", single_name, " nor ", index_name,
       others.empty() ? "" : "; it has" + others);
}

}  // namespace

Checkpoint::Checkpoint(const std::filesystem::path& path) : path_(path) {
  std::error_code error;
  const bool is_file = std::filesystem::is_regular_file(path, error);
  const std::filesystem::path single = is_file ? path : path / single_name;
  if (std::filesystem::exists(single, error)) {
    files_.push_back(SafetensorsFile::open(single));
    for (const auto& entry : files_.front().entries()) file_of_.emplace(entry.first, 0);
    if (!is_file && std::filesystem::exists(path / index_name, error)) {
      notice_once(concat("warning: ", path.string(), " has both ", single_name, " and ", index_name,
                         "; ", single_name, " is used, as transformers does"));
    }
  } else if (std::filesystem::exists(path / index_name, error)) {
    add_shards(path / index_name);
  } else {
    fail_without_model(path);
  }
}

void Checkpoint::add_shards(const std::filesystem::path& index) {
  const std::string where = index.string();
  const nlohmann::json json = read_json_file(index, size_t{256} << 20, JsonDialect::python);
  const nlohmann::json& weight_map = json_at(json, "weight_map", where);
  if (!weight_map.is_object() || weight_map.empty()) {
    fail(where, ": \"weight_map\" must be an object of tensor and file names");
  }
  std::map<std::string, std::string> said;  // tensor -> file, as the index has it
  std::set<std::string> files;
  std::error_code ignored;  // a name that no file can have is one that is not there
  for (const auto& [name, value] : weight_map.items()) {
    const std::string file = json_string(value, name, where);
    if (!is_plain_file_name(file)) {
      fail(where, ": tensor \"", name, "\" is said to be in \"", file,
           "\", which is not a plain file name");
    }
    if (files.insert(file).second &&
        !std::filesystem::exists(index.parent_path() / file, ignored)) {
      fail(where, " lists ", file, ", which is not there; fetch the missing file");
    }
    said.emplace(name, file);
  }
  std::map<std::string, std::vector<size_t>> holders;  // tensor -> files that have it
  for (const std::string& file : files) {
    files_.push_back(SafetensorsFile::open(index.parent_path() / file));
    for (const auto& entry : files_.back().entries()) {
      holders[entry.first].push_back(files_.size() - 1);
    }
  }
  for (const auto& [name, in_files] : holders) {
    const auto listed = said.find(name);
    choose_file(name, in_files, listed == said.end() ? "" : listed->second, where);
  }
  for (const auto& [name, file] : said) {
    if (!has(name)) missing_.emplace(name, file);
  }
}

void Checkpoint::choose_file(const std::string& name, const std::vector<size_t>& holders,
                             const std::string& listed, const std::string& index) {
  const auto name_of = [&](size_t file) { return files_[file].path().filename().string(); };
  const auto named = std::find_if(holders.begin(), holders.end(),
                                  [&](size_t file) { return name_of(file) == listed; });
  const size_t chosen = named == holders.end() ? holders.front() : *named;
  file_of_.emplace(name, chosen);
  for (const size_t other : holders) {
    if (other == chosen || files_[chosen].same_tensor(name, files_[other], name)) continue;
    const std::string two =
        concat(index, ": tensor \"", name, "\" is in two files with different values, ",
               name_of(std::min(chosen, other)), " and ", name_of(std::max(chosen, other)));
    if (named == holders.end()) fail(two, ", and the index does not say which counts");
    notice_once(concat("warning: ", two, "; the index names ", listed, ", which is used"));
  }
}

std::string Checkpoint::missing_reason(const std::string& name) const {
  const auto at = missing_.find(name);
  if (at == missing_.end()) return "";
  return concat("the index says that it is in ", at->second, ", which does not have it");
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  for (const auto& entry : file_of_) names.push_back(entry.first);
  return names;
}

const SafetensorsFile& Checkpoint::file_of(const std::string& name) const {
  const auto at = file_of_.find(name);
  if (at == file_of_.end()) {
    const auto near = file_of_.lower_bound(name);
    const std::string hint = near == file_of_.end() ? "" : ", but \"" + near->first + "\"";
    check(false, path_, " has no tensor \"", name, "\" (it has ", file_of_.size(), " others", hint,
          ")");
  }
  return files_[at->second];
}

int64_t Checkpoint::total_bytes() const {
  int64_t sum = 0;
  for (const auto& [name, file] : file_of_) sum += files_[file].info(name).bytes;
  return sum;
}

}  // namespace cbq
