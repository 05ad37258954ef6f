// Vocabularies of every kind, and the settings beside them.
#include <cstring>
#include <nlohmann/json.hpp>

#include "nn/text/tokenizer.h"
#include "nn/text/tokenizers/byte_alphabet.h"
#include "tests/fuzz/fuzz.h"

namespace fs = std::filesystem;

namespace cbq::fuzz {
namespace {

fs::path fixture(const std::string& name) {
  return fs::path(CBQ_SOURCE_DIR) / "tests/fixtures/tokenizers" / name;
}

/// Loads the vocabulary of the folder and uses it.
void use(const fs::path& file) {
  const auto tokenizer = load_tokenizer(file.parent_path());
  for (const char* text :
       {"Hello world, 1234  it's\n\n done.", "\xc3\xbc \xe6\x97\xa5\xf0\x9f\x98\x80 e\xcc\x81",
        "<s> </s><|endoftext|>  x", ""}) {
    tokenizer->decode(tokenizer->encode(text));
  }
  tokenizer->prefix();
  tokenizer->hash();
}

constexpr const char* settings_text =
    R"({"add_bos_token": true, "add_prefix_space": false, "bos_token": "<|endoftext|>",
        "eos_token": {"content": "<|endoftext|>", "lstrip": false, "normalized": true},
        "unk_token": null, "model_max_length": 1000000000000000019884624838656,
        "added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": true}},
        "tokenizer_class": "GPT2Tokenizer"})";

constexpr const char* merges_text = "#version: 0.2\nh e\nl l\nhe ll\nhell o\n\xc4\xa0 w\n";

/// {"<first>": 0, a token per byte, then `more`}: any text can be encoded.
std::string vocabulary_text(const std::string& first, const std::vector<std::string>& more) {
  nlohmann::json vocabulary = {{first, 0}};
  int id = 1;
  for (int b = 0; b < 256; ++b) vocabulary[token_of_byte(static_cast<unsigned char>(b))] = id++;
  for (const std::string& token : more) vocabulary[token] = id++;
  return vocabulary.dump();
}

std::string hello_vocabulary() {
  return vocabulary_text("<|endoftext|>", {"he", "ll", "hell", "hello", "\xc4\xa0w"});
}

void pair_seeds(const fs::path& folder) {
  for (const char* seed : {"plain", "settings"}) {
    write_bytes(folder / seed / "vocab.json", hello_vocabulary());
    write_bytes(folder / seed / "merges.txt", merges_text);
  }
  write_bytes(folder / "settings/tokenizer_config.json", settings_text);
  write_bytes(folder / "opt/vocab.json", vocabulary_text("</s>", {"ab"}));
  write_bytes(folder / "opt/merges.txt", "a b\n");
  write_bytes(folder / "opt/config.json", R"({"model_type": "opt"})");
}

void settings_seeds(const fs::path& folder) {
  write_bytes(folder / "pair/vocab.json", hello_vocabulary());
  write_bytes(folder / "pair/merges.txt", merges_text);
  write_bytes(folder / "pair/tokenizer_config.json", settings_text);
  fs::create_directories(folder / "json");
  fs::copy_file(fixture("gpt2.json"), folder / "json/tokenizer.json");
  write_bytes(folder / "json/tokenizer_config.json", settings_text);
}

/// Parts that the tokenizers of published models above do not have.
void variant_seeds(const fs::path& folder) {
  const auto all = nlohmann::json::parse(read_bytes(fixture("variants.json")));
  const char* parts[] = {"\"Metaspace\"", "\"Strip\"", "\"Replace\"", "\"ByteFallback\""};
  std::vector<bool> is_there(std::size(parts), false);
  for (const auto& [name, variant] : all["variants"].items()) {
    const std::string text = variant["parts"].dump();
    bool is_new = false;
    for (size_t i = 0; i < std::size(parts); ++i) {
      if (is_there[i] || text.find(parts[i]) == std::string::npos) continue;
      is_there[i] = is_new = true;
    }
    if (!is_new) continue;
    nlohmann::json whole = variant["parts"];
    whole["model"] = all["models"][variant["model"].get<std::string>()];
    for (const auto& [key, value] : variant["options"].items()) whole["model"][key] = value;
    write_bytes(folder / name / "tokenizer.json", whole.dump());
  }
}

void json_seeds(const fs::path& folder) {
  variant_seeds(folder);
  for (const char* name : {"bloom", "gpt2", "llama3", "qwen"}) {
    fs::create_directories(folder / name);
    fs::copy_file(fixture(name + std::string(".json")), folder / name / "tokenizer.json");
  }
  // A vocabulary so small that mutations meet what stands around it.
  write_bytes(folder / "small/tokenizer.json", std::string(R"({"version": "1.0",
    "added_tokens": [{"id": 0, "content": "<s>", "special": true, "lstrip": false, "rstrip": true,
                      "single_word": false, "normalized": false}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s+"},
       "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
              "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
              "ignore_merges": true, "vocab": )") + vocabulary_text("<s>", {"ab"}) +
                                                   R"(,
              "merges": ["a b"]}})");
}

const bool tokenizer_json = add_target({.name = "tokenizer_json",
                                        .format = Format::json,
                                        .file = "tokenizer.json",
                                        .seeds = json_seeds,
                                        .run = use});
const bool vocab_json = add_target({.name = "tokenizer_vocab_json",
                                    .format = Format::json,
                                    .file = "vocab.json",
                                    .seeds = pair_seeds,
                                    .run = use});
const bool merges_txt = add_target({.name = "tokenizer_merges_txt",
                                    .format = Format::text,
                                    .file = "merges.txt",
                                    .seeds = pair_seeds,
                                    .run = use});
// Files that are read where tokenizer_config.json does not list the tokens itself.
constexpr const char* added_tokens_text = R"({"<|new|>": 262, "<|other|>": 263, "hello": 260})";
constexpr const char* special_tokens_text =
    R"({"bos_token": "<|endoftext|>", "eos_token": {"content": "<|new|>", "lstrip": true},
        "unk_token": null, "pad_token": "<|pad|>",
        "additional_special_tokens": ["<|x|>", {"content": "<|y|>", "single_word": true}]})";

void companion_seeds(const fs::path& folder) {
  write_bytes(folder / "pair/vocab.json", hello_vocabulary());
  write_bytes(folder / "pair/merges.txt", merges_text);
  fs::create_directories(folder / "json");
  fs::copy_file(fixture("gpt2.json"), folder / "json/tokenizer.json");
  for (const char* seed : {"pair", "json"}) {
    write_bytes(folder / seed / "added_tokens.json", added_tokens_text);
    write_bytes(folder / seed / "special_tokens_map.json", special_tokens_text);
  }
}

const bool added_tokens = add_target({.name = "tokenizer_added_tokens",
                                      .format = Format::json,
                                      .file = "added_tokens.json",
                                      .seeds = companion_seeds,
                                      .run = use});
const bool special_tokens_map = add_target({.name = "tokenizer_special_tokens_map",
                                            .format = Format::json,
                                            .file = "special_tokens_map.json",
                                            .seeds = companion_seeds,
                                            .run = use});
const bool tokenizer_config = add_target({.name = "tokenizer_config",
                                          .format = Format::json,
                                          .file = "tokenizer_config.json",
                                          .seeds = settings_seeds,
                                          .run = use});

// ---- sentencepiece ------------------------------------------------------------------------------

std::string field(uint64_t number, uint64_t value) { return varint(number << 3) + varint(value); }
std::string field(uint64_t number, const std::string& value) {
  return varint(number << 3 | 2) + varint(value.size()) + value;
}
std::string score(float value) {
  std::string bytes(4, '\0');
  std::memcpy(bytes.data(), &value, 4);
  return varint(2 << 3 | 5) + bytes;
}

/// The protocol buffer of sentencepiece_model.proto. `type`: 1 unigram, 2 BPE.
std::string sentencepiece_model(uint64_t type, bool bytes) {
  enum Piece : uint64_t { normal = 1, unknown = 2, control = 3, byte = 6 };
  std::string model;
  const auto add = [&](const std::string& text, float value, Piece kind) {
    model += field(1, field(1, text) + score(value) + field(3, kind));
  };
  add("<unk>", 0, unknown);
  add("<s>", 0, control);
  add("</s>", 0, control);
  const char* digits = "0123456789ABCDEF";
  for (size_t b = 0; bytes && b < 256; ++b) {
    add(std::string("<0x") + digits[b / 16] + digits[b % 16] + ">", 0, byte);
  }
  float value = 0;
  for (const char* text : {"\xe2\x96\x81", "H", "e", "l", "o", "w", "r", "d", "\xe2\x96\x81H", "el",
                           "lo", "\xe2\x96\x81w", "or", "ld", "1", "\xc3\xbc"}) {
    add(text, --value, normal);
  }
  const std::string trainer = field(3, type) + field(35, bytes ? 1 : 0) + field(40, uint64_t{0}) +
                              field(41, 1) + field(42, 2) + field(43, ~uint64_t{0});
  const std::string normalizer =
      field(1, std::string("identity")) + field(3, 1) + field(4, uint64_t{0}) + field(5, 1);
  return model + field(2, trainer) + field(3, normalizer);
}

void sentencepiece_seeds(const fs::path& folder) {
  write_seed(folder, 0, "tokenizer.model", sentencepiece_model(2, true));
  write_seed(folder, 1, "tokenizer.model", sentencepiece_model(2, false));
  write_seed(folder, 2, "tokenizer.model", sentencepiece_model(1, true));
  write_bytes(folder / "0/tokenizer_config.json", R"({"add_bos_token": false})");
}

const bool sentencepiece = add_target({.name = "tokenizer_sentencepiece",
                                       .format = Format::protobuf,
                                       .file = "tokenizer.model",
                                       .seeds = sentencepiece_seeds,
                                       .run = use});

void llama2c_seeds(const fs::path& folder) {
  std::string bytes("\x06\0\0\0", 4);
  const auto add = [&](const std::string& token, float value) {
    const auto size = static_cast<int32_t>(token.size());
    bytes.append(reinterpret_cast<const char*>(&value), 4);
    bytes.append(reinterpret_cast<const char*>(&size), 4);
    bytes += token;
  };
  for (const char* token : {"<unk>", "\n<s>\n", "\n</s>\n"}) add(token, 0);
  const char* digits = "0123456789ABCDEF";
  for (size_t b = 0; b < 256; ++b) {
    add(std::string("<0x") + digits[b / 16] + digits[b % 16] + ">", 0);
  }
  float value = 0;
  for (const char* token : {" ", "H", "e", "l", "o", " w", "el", "lo", "or", "ld"})
    add(token, --value);
  write_seed(folder, 0, "tokenizer.bin", bytes);
}

const bool llama2c = add_target({.name = "tokenizer_llama2c",
                                 .format = Format::binary,
                                 .file = "tokenizer.bin",
                                 .seeds = llama2c_seeds,
                                 .run = use});

}  // namespace
}  // namespace cbq::fuzz
