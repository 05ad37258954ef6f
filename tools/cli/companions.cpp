#include "tools/cli/companions.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <string_view>
#include <system_error>
#include <vector>

#include "nn/formats/atomic_file.h"
#include "tensor/error.h"
#include "tools/cli/model_card.h"

namespace fs = std::filesystem;

namespace cbq::cli {
namespace {

constexpr const char* template_folder = "additional_chat_templates";

constexpr std::string_view weight_endings[] = {
    ".safetensors", ".bin",    ".pt",      ".pth",       ".ckpt",    ".gguf",       ".ggml",
    ".h5",          ".hdf5",   ".onnx",    ".onnx_data", ".msgpack", ".ot",         ".npz",
    ".npy",         ".tflite", ".mlmodel", ".pkl",       ".params",  ".index.json", ".tmp"};

/// Written of a run; that of another run would be wrong beside these weights.
constexpr std::string_view own_files[] = {"config.json", "recipe.json",   "report.json",
                                          "log.txt",     "training.json", ".cbq-replaced"};

bool is_companion(const std::string& name) {
  if (name == "tokenizer.bin") return true;
  const auto ends = [&](std::string_view ending) { return name.ends_with(ending); };
  return std::none_of(std::begin(weight_endings), std::end(weight_endings), ends) &&
         std::find(std::begin(own_files), std::end(own_files), name) == std::end(own_files);
}

bool belongs_to_tokenizer(const std::string& name) {
  static const std::set<std::string> names = {"tokenizer_config.json", "special_tokens_map.json",
                                              "added_tokens.json", "chat_template.json"};
  return names.count(name) > 0 || name.ends_with(".jinja");
}

/// In the order of names, so that two runs say the same lines.
std::vector<fs::path> entries_of(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> entries;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    entries.push_back(at->path());
  }
  if (error) fail("cannot list ", folder.string(), ": ", error.message());
  std::sort(entries.begin(), entries.end());
  return entries;
}

void copy_unless_there(const fs::path& file, const fs::path& folder) {
  const fs::path to = folder / file.filename();
  std::error_code error;
  if (!fs::exists(fs::symlink_status(to, error))) copy_file_atomically(file, to);
}

void copy_templates(const fs::path& from, const fs::path& to) {
  std::error_code error;
  if (!fs::is_directory(from / template_folder, error)) return;
  for (const fs::path& file : entries_of(from / template_folder)) {
    if (!file.string().ends_with(".jinja") || !fs::is_regular_file(file, error)) continue;
    fs::create_directories(to / template_folder);
    copy_unless_there(file, to / template_folder);
  }
}

}  // namespace

void copy_companions(const fs::path& from, const fs::path& to,
                     const std::function<void(const std::string&)>& say, int64_t most_bytes) {
  std::error_code error;
  for (const fs::path& file : entries_of(from)) {
    const std::string name = file.filename().string();
    const fs::file_status status = fs::status(file, error);
    if (fs::is_directory(status)) {
      if (name != template_folder) say(concat("not carried over: the folder ", file.string()));
    } else if (!is_companion(name) || is_model_card(file)) {
      continue;
    } else if (!fs::is_regular_file(status)) {
      say(concat("not carried over: ", file.string(), " is not a regular file"));
    } else if (static_cast<int64_t>(fs::file_size(file, error)) > most_bytes) {
      say(concat("not carried over: ", file.string(), " has more than ", most_bytes >> 20,
                 " MiB; copy it if it is needed"));
    } else {
      copy_unless_there(file, to);
    }
  }
  copy_templates(from, to);
}

void copy_tokenizer_companions(const fs::path& from, const fs::path& to) {
  std::error_code error;
  const fs::path folder = fs::is_directory(from, error) ? from : from.parent_path();
  for (const fs::path& file : entries_of(folder.empty() ? "." : folder)) {
    if (belongs_to_tokenizer(file.filename().string()) && fs::is_regular_file(file, error)) {
      copy_unless_there(file, to);
    }
  }
  copy_templates(folder, to);
}

}  // namespace cbq::cli
