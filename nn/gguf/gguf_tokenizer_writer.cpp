#include "nn/gguf/gguf_tokenizer_writer.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "nn/formats/atomic_file.h"
#include "nn/formats/json.h"
#include "nn/gguf/gguf_tokenizer.h"
#include "nn/gguf/gguf_vocabulary.h"
#include "nn/text/tokenizer.h"
#include "nn/text/tokenizers/companions.h"
#include "nn/text/tokenizers/loaders.h"
#include "nn/text/tokenizers/sentencepiece_model.h"
#include "tensor/error.h"

namespace fs = std::filesystem;

namespace cbq {
namespace {

using nlohmann::json;

constexpr size_t max_bytes = size_t{256} << 20;
/// More than any tokenizer has. A larger id would make as many placeholders.
constexpr int64_t most_tokens = int64_t{1} << 20;
constexpr const char* end_of_text = "<|endoftext|>";

int32_t number_of(PieceType type) { return static_cast<int32_t>(type); }

/// The tokens so far, by content, while they are put together.
class Tokens {
 public:
  Tokens(GgufTokenizer& tokenizer, std::string what) : t_(tokenizer), what_(std::move(what)) {}

  void put(int64_t id, const std::string& content, PieceType type, float score = 0.0f) {
    if (id < 0 || id >= most_tokens) {
      fail(what_, ": the token \"", content, "\" has the id ", id, "; ids from 0 to ",
           most_tokens - 1, " are read");
    }
    const auto at = static_cast<size_t>(id);
    if (at >= t_.tokens.size()) grow(at + 1);
    t_.tokens[at] = content;
    t_.types[at] = number_of(type);
    if (t_.model == "llama") t_.scores[at] = score;
    ids_[content] = id;
  }
  /// -1: there is none.
  int64_t id_of(const std::string& content) const {
    const auto found = ids_.find(content);
    return content.empty() || found == ids_.end() ? -1 : found->second;
  }
  bool is_normal(int64_t id) const {
    return t_.types[static_cast<size_t>(id)] == number_of(PieceType::normal);
  }
  /// Fills the list up to the embedding's rows.
  void finish(int64_t vocab_size) {
    const auto rows = static_cast<size_t>(vocab_size);
    if (t_.tokens.size() > rows) {
      fail(what_, ": ", t_.tokens.size(), " tokens, but the model's embedding has only ", rows,
           " rows, and GGUF wants as many of both");
    }
    grow(rows);
  }

 private:
  void grow(size_t size) {
    for (size_t id = t_.tokens.size(); id < size; ++id)
      t_.tokens.push_back(concat("[PAD", id, "]"));
    t_.types.resize(size, number_of(PieceType::unused));
    if (t_.model == "llama") t_.scores.resize(size, 0.0f);
  }

  GgufTokenizer& t_;
  std::string what_;
  std::map<std::string, int64_t> ids_;
};

/// Tokens that the files beside the vocabulary list; their types decide, since they are looked for
/// before anything else.
void put_listed(const fs::path& folder, Tokens& tokens, size_t size) {
  auto next = static_cast<int64_t>(size);
  for (const ListedToken& listed : read_listed_tokens(folder)) {
    const std::string& content = listed.token.content;
    int64_t id = tokens.id_of(content);
    if (id >= 0 && !tokens.is_normal(id)) continue;  // the vocabulary says more of it
    if (id < 0) id = listed.said_id >= 0 ? listed.said_id : next;
    next = std::max(next, id + 1);
    tokens.put(id, content, listed.token.special ? PieceType::control : PieceType::user_defined);
  }
}

void put_specials(const SpecialTokens& special, const Tokens& tokens, GgufTokenizer& t) {
  const std::pair<const std::string*, int64_t*> ids[] = {{&special.bos, &t.bos},
                                                         {&special.eos, &t.eos},
                                                         {&special.unk, &t.unk},
                                                         {&special.pad, &t.pad}};
  for (const auto& [content, id] : ids) {
    if (const int64_t found = tokens.id_of(*content); found >= 0) *id = found;
  }
}

// ---- sentencepiece ------------------------------------------------------------------------------

GgufTokenizer of_sentencepiece(const std::string& bytes, const fs::path& file) {
  const SentencepieceContents contents = read_sentencepiece_model(bytes, file.string());
  if (!contents.is_bpe) {
    fail(file.string(), ": a sentencepiece model of another kind than BPE has no place in GGUF's ",
         "tokenizer \"llama\"");
  }
  if (contents.normalizes) {
    fail(file.string(), ": a normalization of characters has no place in GGUF's tokenizer");
  }
  GgufTokenizer t;
  t.model = "llama";
  t.pre = "default";
  Tokens tokens(t, file.string());
  for (size_t id = 0; id < contents.pieces.size(); ++id) {
    const SentencepiecePiece& piece = contents.pieces[id];
    tokens.put(static_cast<int64_t>(id), piece.text, piece.type, piece.score);
  }
  t.bos = tokens.id_of(contents.bos);
  t.eos = tokens.id_of(contents.eos);
  t.unk = tokens.id_of(contents.unk);
  t.pad = tokens.id_of(contents.pad);
  t.adds_space = contents.settings.add_dummy_prefix;
  t.adds_bos = true;
  return t;
}

GgufTokenizer of_sentencepiece_file(const fs::path& file) {
  const bool is_llama2c = file.extension() == ".bin";
  const std::string bytes = read_text_file(file, max_bytes);
  GgufTokenizer t =
      of_sentencepiece(is_llama2c ? llama2c_model(bytes, file.string()) : bytes, file);
  if (is_llama2c) return t;
  const fs::path folder = file.parent_path();
  const SpecialTokens special = read_special_tokens(folder);
  Tokens tokens(t, file.string());
  for (size_t id = 0; id < t.tokens.size(); ++id) {
    tokens.put(static_cast<int64_t>(id), t.tokens[id], static_cast<PieceType>(t.types[id]),
               t.scores[id]);
  }
  put_listed(folder, tokens, t.tokens.size());
  put_specials(special, tokens, t);
  t.adds_bos = special.add_bos != 0;
  if (special.says_prefix_space) t.adds_space = special.add_prefix_space;
  return t;
}

// ---- BPE over bytes -----------------------------------------------------------------------------

/// The token that "post_processor" puts in front of a text; empty: none.
std::string prefix_of(const json& processor) {
  if (!processor.is_object()) return "";
  if (const auto list = processor.find("processors"); list != processor.end()) {
    for (const json& one : *list) {
      if (std::string found = prefix_of(one); !found.empty()) return found;
    }
    return "";
  }
  const auto single = processor.find("single");
  if (single == processor.end() || !single->is_array() || single->empty()) return "";
  const auto special = single->front().find("SpecialToken");
  if (special == single->front().end() || !special->is_object()) return "";
  const auto id = special->find("id");
  return id != special->end() && id->is_string() ? id->get<std::string>() : "";
}

void put_merges(const json& merges, GgufTokenizer& t, const std::string& what) {
  if (!merges.is_array()) fail(what, ": \"merges\" must be a list");
  for (const json& merge : merges) {
    const bool is_pair = merge.is_array() && merge.size() == 2;
    t.merges.push_back(is_pair ? json_string(merge[0], "merges", what) + " " +
                                     json_string(merge[1], "merges", what)
                               : json_string(merge, "merges", what));
  }
}

GgufTokenizer of_tokenizer_json(const json& root, const fs::path& folder, const std::string& what) {
  GgufTokenizer t;
  t.model = "gpt2";
  t.pre = gguf_pre_tokenizer_of(root);
  if (t.pre.empty()) {
    fail(what, ": GGUF has no name for the rule by which this tokenizer divides texts into words ",
         "(known: ", known_gguf_pre_tokenizers(),
         "); a model of sentencepiece (tokenizer.model) beside it would be taken");
  }
  const json& model = json_at(root, "model", what);
  Tokens tokens(t, what);
  for (const auto& [content, id] : json_at(model, "vocab", what).items()) {
    tokens.put(json_int(id, content, what, 0, std::numeric_limits<int32_t>::max()), content,
               PieceType::normal);
  }
  put_merges(json_at(model, "merges", what), t, what);
  if (const json& added = json_find(root, "added_tokens", what); added.is_array()) {
    for (const json& entry : added) {
      const json& special = json_find(entry, "special", what);
      const bool is_special = special.is_boolean() && special.get<bool>();
      tokens.put(
          json_int(json_at(entry, "id", what), "id", what, 0, std::numeric_limits<int32_t>::max()),
          json_string(json_at(entry, "content", what), "content", what),
          is_special ? PieceType::control : PieceType::user_defined);
    }
  }
  put_listed(folder, tokens, t.tokens.size());
  const SpecialTokens special = read_special_tokens(folder);
  put_specials(special, tokens, t);
  // Without an id, a reader would put its own default in front.
  if (const std::string prefix = prefix_of(json_find(root, "post_processor", what));
      !prefix.empty()) {
    if (t.bos < 0) t.bos = tokens.id_of(prefix);
    t.adds_bos = t.bos >= 0;
  }
  return t;
}

/// vocab.json and merges.txt as the tokenizer.json that the library would make of them.
json json_of_pair(const fs::path& folder) {
  json merges = json::array();
  const std::string text = read_text_file(folder / "merges.txt", max_bytes);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty() && !(begin == 0 && line.starts_with("#version"))) merges.push_back(line);
    begin = end + 1;
  }
  const bool is_qwen2 = vocab_family_of(folder) == VocabFamily::qwen2;
  json root = gguf_rule_json(is_qwen2 ? "qwen2" : "gpt-2");
  json vocabulary = read_json_file(folder / "vocab.json");
  if (const auto end = vocabulary.find(end_of_text); end != vocabulary.end()) {
    root["added_tokens"] =
        json::array({{{"id", *end}, {"content", end_of_text}, {"special", true}}});
  }
  root["model"] = bpe_model(std::move(vocabulary), std::move(merges));
  return root;
}

/// Both files together name no special tokens; these are GPT-2's and Qwen2's.
void put_usual_specials(const fs::path& folder, GgufTokenizer& t) {
  const auto end = std::find(t.tokens.begin(), t.tokens.end(), end_of_text);
  if (t.bos >= 0 || t.eos >= 0 || end == t.tokens.end()) return;
  t.eos = end - t.tokens.begin();
  if (vocab_family_of(folder) != VocabFamily::qwen2) t.bos = t.eos;
}

std::string read_chat_template(const fs::path& folder) {
  std::error_code error;
  if (fs::exists(folder / "chat_template.jinja", error)) {
    return read_text_file(folder / "chat_template.jinja", max_bytes);
  }
  const fs::path file = folder / "tokenizer_config.json";
  if (!fs::exists(file, error)) return "";
  const json found = read_json_file(file).value("chat_template", json());
  return found.is_string() ? found.get<std::string>() : "";
}

}  // namespace

GgufTokenizer read_gguf_tokenizer(const fs::path& path, int64_t vocab_size) {
  const std::vector<fs::path> files = tokenizer_files(path);
  if (files.empty()) fail("no tokenizer in ", path.string());
  const fs::path folder = files.front().parent_path();
  const auto sentencepiece = std::find_if(files.begin(), files.end(), [](const fs::path& file) {
    return file.extension() == ".model" || file.extension() == ".bin";
  });
  GgufTokenizer t;
  if (sentencepiece != files.end()) {
    t = of_sentencepiece_file(*sentencepiece);
  } else if (files.size() == 2) {
    t = of_tokenizer_json(json_of_pair(folder), folder, folder.string());
    put_usual_specials(folder, t);
  } else {
    t = of_tokenizer_json(read_json_file(files.front()), folder, files.front().string());
  }
  Tokens(t, path.string()).finish(vocab_size);
  t.chat_template = read_chat_template(folder);
  return t;
}

void write_gguf_tokenizer(const GgufTokenizer& t, GgufWriter& writer) {
  const std::string& prefix = gguf_tokenizer_prefix;
  writer.text(prefix + "model", t.model);
  writer.text(prefix + "pre", t.pre);
  writer.texts(prefix + "tokens", t.tokens);
  if (!t.scores.empty()) writer.reals(prefix + "scores", t.scores);
  writer.integers(prefix + "token_type", t.types);
  if (t.model == "gpt2") writer.texts(prefix + "merges", t.merges);
  const std::pair<const char*, int64_t> ids[] = {{"bos_token_id", t.bos},
                                                 {"eos_token_id", t.eos},
                                                 {"unknown_token_id", t.unk},
                                                 {"padding_token_id", t.pad}};
  for (const auto& [key, id] : ids) {
    if (id >= 0) writer.number(prefix + key, static_cast<uint32_t>(id));
  }
  writer.flag(prefix + "add_bos_token", t.adds_bos);
  if (t.model == "llama") writer.flag(prefix + "add_space_prefix", t.adds_space);
  if (!t.chat_template.empty()) writer.text("tokenizer.chat_template", t.chat_template);
}

}  // namespace cbq
