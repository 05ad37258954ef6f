#include "nn/tokenizer.h"

#include "nn/json.h"
#include "nn/tokenizers/loaders.h"
#include "tensor/error.h"

namespace fs = std::filesystem;

namespace cbq {
namespace {

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

/// "bos_token": null, "</s>" or {"content": "</s>", ...}.
std::string content_of(const nlohmann::json& object, const char* key, const std::string& what) {
  const nlohmann::json& token = json_find(object, key, what);
  if (token.is_null()) return "";
  if (token.is_string()) return token.get<std::string>();
  return json_string(json_at(token, "content", what + ": \"" + key + "\""), "content", what);
}

}  // namespace

SpecialTokens read_special_tokens(const fs::path& folder) {
  SpecialTokens special;
  // The first file wins where both name a token.
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const fs::path file = folder / name;
    if (!is_there(file)) continue;
    const std::string what = file.string();
    const nlohmann::json root = read_json_file(file);
    special.is_given = true;
    const std::pair<const char*, std::string*> tokens[] = {{"bos_token", &special.bos},
                                                           {"eos_token", &special.eos},
                                                           {"unk_token", &special.unk},
                                                           {"pad_token", &special.pad}};
    for (const auto& [key, content] : tokens) {
      if (content->empty()) *content = content_of(root, key, what);
    }
    const nlohmann::json& add_bos = json_find(root, "add_bos_token", what);
    if (!add_bos.is_null()) special.add_bos = json_bool(add_bos, "add_bos_token", what) ? 1 : 0;
    const nlohmann::json& space = json_find(root, "add_prefix_space", what);
    if (!space.is_null()) special.add_prefix_space = json_bool(space, "add_prefix_space", what);
  }
  return special;
}

std::vector<fs::path> tokenizer_files(const fs::path& path) {
  std::error_code error;
  const bool is_folder = fs::is_directory(path, error);
  const fs::path folder = is_folder ? path : path.parent_path();
  const std::vector<fs::path> pair = {folder / "vocab.json", folder / "merges.txt"};
  if (!is_folder) {
    const bool one_of_pair = path.filename() == "vocab.json" || path.filename() == "merges.txt";
    return one_of_pair ? pair : std::vector<fs::path>{path};
  }
  for (const char* name : {"tokenizer.model", "tokenizer.json"}) {
    if (is_there(folder / name)) return {folder / name};
  }
  if (is_there(pair[0]) || is_there(pair[1])) return pair;
  if (is_there(folder / "tokenizer.bin")) return {folder / "tokenizer.bin"};
  return {};
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path) {
  const std::vector<fs::path> files = tokenizer_files(path);
  if (files.empty()) {
    fail("no tokenizer in ", path.string(),
         ": neither tokenizer.model nor tokenizer.json nor vocab.json with merges.txt; copy the ",
         "model's tokenizer there, or pass a file of token ids instead");
  }
  if (files.size() == 2) return load_vocab_and_merges(files[0].parent_path());
  if (files[0].extension() == ".json") return load_tokenizer_json(files[0]);
  if (files[0].extension() == ".bin") return load_llama2c(files[0]);
  return load_sentencepiece(files[0]);
}

void copy_tokenizer(const fs::path& path, const fs::path& folder) {
  const std::vector<fs::path> files = tokenizer_files(path);
  const auto copy = [&](const fs::path& file, const fs::path& name) {
    write_text_atomically(folder / name, read_text_file(file));
  };
  for (const fs::path& file : files) {
    const fs::path extension = file.extension();
    copy(file, files.size() == 2      ? file.filename()
               : extension == ".json" ? "tokenizer.json"
               : extension == ".bin"  ? "tokenizer.bin"
                                      : "tokenizer.model");
    for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
      const fs::path settings = file.parent_path() / name;
      if (is_there(settings) && !is_there(folder / name)) copy(settings, name);
    }
  }
}

void check_tokenizer_fits(const Tokenizer& tokenizer, int64_t vocab_size, const std::string& what) {
  check(tokenizer.vocab_size() <= vocab_size, what, " has ", tokenizer.vocab_size(),
        " tokens, the model's vocabulary only ", vocab_size,
        ": it belongs to another model; give this model's own (--tokenizer)");
}

}  // namespace cbq
