#include "nn/text/tokenizer.h"

#include <fstream>
#include <iostream>

#include "nn/formats/json.h"
#include "nn/text/tokenizers/companions.h"
#include "nn/text/tokenizers/loaders.h"
#include "nn/text/tokenizers/unsupported.h"

namespace fs = std::filesystem;

namespace cbq {
namespace {

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

bool is_tiktoken_file(const fs::path& file) {
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return false;
  std::string beginning(size_t{1} << 12, '\0');
  std::ifstream in(file, std::ios::binary);
  in.read(beginning.data(), static_cast<std::streamsize>(beginning.size()));
  return is_tiktoken(std::string_view(beginning).substr(0, static_cast<size_t>(in.gcount())));
}

std::unique_ptr<Tokenizer> load_file(const fs::path& file) {
  if (file.extension() == ".json") return load_tokenizer_json(file);
  if (file.extension() == ".bin") return load_llama2c(file);
  return load_sentencepiece(file);
}

bool is_vocab_and_merges(const std::vector<fs::path>& files) {
  return files.size() == 2 && files[1].filename() == "merges.txt";
}

constexpr const char* settings_files[] = {"tokenizer_config.json", "special_tokens_map.json",
                                          "added_tokens.json"};

/// Another folder has another config.json: the class that it stands for is written down.
void write_family(const fs::path& from, const fs::path& folder) {
  if (!read_special_tokens(from).tokenizer_class.empty()) return;
  const VocabFamily family = vocab_family_of(from);
  if (family == VocabFamily::gpt2) return;
  const fs::path file = folder / "tokenizer_config.json";
  nlohmann::json config = is_there(file) ? read_json_file(file) : nlohmann::json::object();
  if (family == VocabFamily::qwen2) {
    config["tokenizer_class"] = "Qwen2Tokenizer";
  } else {
    config["tokenizer_class"] = "GPT2Tokenizer";
    config.emplace("add_bos_token", true);
    config.emplace("bos_token", "</s>");
    config.emplace("eos_token", "</s>");
  }
  write_text_atomically(file, config.dump(2) + "\n");
}

}  // namespace

std::vector<fs::path> tokenizer_files(const fs::path& path) {
  std::error_code error;
  const bool is_folder = fs::is_directory(path, error);
  const fs::path folder = is_folder ? path : path.parent_path();
  const std::vector<fs::path> pair = {folder / "vocab.json", folder / "merges.txt"};
  if (!is_folder) {
    const bool one_of_pair = path.filename() == "vocab.json" || path.filename() == "merges.txt";
    return one_of_pair ? pair : std::vector<fs::path>{path};
  }
  const fs::path json = folder / "tokenizer.json", model = folder / "tokenizer.model";
  if (is_there(json)) {
    return is_there(model) && !is_tiktoken_file(model) ? std::vector{json, model}
                                                       : std::vector{json};
  }
  const bool has_pair = is_there(pair[0]) || is_there(pair[1]);
  if (is_there(model) && !(has_pair && is_tiktoken_file(model))) return {model};
  if (has_pair) return pair;
  if (is_there(folder / "tokenizer.bin")) return {folder / "tokenizer.bin"};
  return {};
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path) {
  const std::vector<fs::path> files = tokenizer_files(path);
  if (files.empty()) {
    fail("no tokenizer in ", path.string(),
         ": neither tokenizer.json nor tokenizer.model nor vocab.json with merges.txt; copy the ",
         "model's tokenizer there, or pass a file of token ids instead");
  }
  if (is_vocab_and_merges(files)) return load_vocab_and_merges(files[0].parent_path());
  try {
    return load_file(files[0]);
  } catch (const UnsupportedTokenizer& error) {
    if (files.size() == 1) throw;
    std::cerr << "warning: " << error.what() << "; " << files[1].filename().string()
              << " beside it is used" << std::endl;
    return load_file(files[1]);
  }
}

void copy_tokenizer(const fs::path& path, const fs::path& folder) {
  const std::vector<fs::path> files = tokenizer_files(path);
  const auto copy = [&](const fs::path& file, const fs::path& name) {
    write_text_atomically(folder / name, read_text_file(file));
  };
  for (const fs::path& file : files) {
    const fs::path extension = file.extension();
    copy(file, is_vocab_and_merges(files) ? file.filename()
               : extension == ".json"     ? "tokenizer.json"
               : extension == ".bin"      ? "tokenizer.bin"
                                          : "tokenizer.model");
    for (const char* name : settings_files) {
      const fs::path settings = file.parent_path() / name;
      if (is_there(settings) && !is_there(folder / name)) copy(settings, name);
    }
  }
  if (is_vocab_and_merges(files)) write_family(files[0].parent_path(), folder);
}

void check_tokenizer_fits(const Tokenizer& tokenizer, int64_t vocab_size, const std::string& what) {
  check(tokenizer.text_vocab_size() <= vocab_size, what, " has ", tokenizer.text_vocab_size(),
        " tokens, the model's vocabulary only ", vocab_size,
        ": it belongs to another model; give this model's own (--tokenizer)");
}

}  // namespace cbq
