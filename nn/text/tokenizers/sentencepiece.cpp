// Sentencepiece vocabularies (Kudo & Richardson 2018), read by its own library.
#include <sentencepiece_processor.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "nn/formats/atomic_file.h"
#include "nn/formats/hash.h"
#include "nn/text/tokenizers/companions.h"
#include "nn/text/tokenizers/loaders.h"
#include "nn/text/tokenizers/sentencepiece_model.h"
#include "nn/text/tokenizers/unsupported.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr size_t max_model_bytes = size_t{256} << 20;

/// What is put in front of the parts of a text that lie between control tokens.
enum class Prefix {
  of_model,      // whatever the model's settings say, in front of every part
  unless_space,  // a space, unless the part begins with one (transformers' LlamaTokenizer,
                 // "legacy")
  first,         // the same for the text's beginning only (LlamaTokenizer)
  never          // ("add_prefix_space": false)
};

/// As transformers' tokenizer of that family.
Prefix prefix_rule(const SpecialTokens& special, const std::string& model_type) {
  const bool is_llama = special.tokenizer_class == "LlamaTokenizer" ||
                        special.tokenizer_class == "CodeLlamaTokenizer";
  const bool is_mistral = model_type.starts_with("mistral") ||
                          model_type.starts_with("ministral") || model_type.starts_with("mixtral");
  if (!is_llama || is_mistral) return Prefix::of_model;
  if (special.says_prefix_space && !special.add_prefix_space) return Prefix::never;
  return special.legacy ? Prefix::unless_space : Prefix::first;
}

/// How a sentencepiece model is read beyond its own settings.
struct Rules {
  bool add_bos = true;
  bool finds_control_tokens = false;  // written in a text, and tokens that the companions list
  Prefix prefix = Prefix::of_model;
  std::vector<ListedToken> listed;
  std::string bos, eos;  // tokens; empty, or not in the vocabulary: those that the model names
};

class SentencepieceTokenizer : public Tokenizer {
 public:
  SentencepieceTokenizer(const std::string& model, const std::string& path, const Rules& rules)
      : path_(path), hash_(hex(hash_bytes(model))), add_bos_(rules.add_bos), prefix_(rules.prefix) {
    load(model, &processor_);
    if (prefix_ != Prefix::of_model) load(without_dummy_prefix(model), &without_prefix_);
    if (!add_bos_) hash_ = hex(hash_bytes("without bos", hash_bytes(model)));  // other ids
    std::vector<AddedToken> added;
    if (rules.finds_control_tokens) {
      for (int id = 0; id < processor_.GetPieceSize(); ++id) {
        if (!processor_.IsControl(id) && !processor_.IsUnknown(id)) continue;
        added.push_back({id, processor_.IdToPiece(id), true});
      }
    }
    const auto id_of = [&](const std::string& piece) {
      const int id = processor_.PieceToId(piece);
      return processor_.IdToPiece(id) == piece ? int32_t{id} : -1;
    };
    const std::string changes =
        add_listed_tokens(rules.listed, path, processor_.GetPieceSize(), id_of, &added);
    if (!changes.empty()) hash_ = hex(hash_bytes(changes, hash_bytes(hash_)));
    const auto special_id = [&](const std::string& content, int32_t otherwise) {
      if (content.empty()) return otherwise;
      if (const int32_t id = id_of(content); id >= 0) return id;
      const auto at = std::find_if(added.begin(), added.end(), [&](const AddedToken& token) {
        return token.content == content;
      });
      return at == added.end() ? otherwise : at->id;
    };
    bos_id_ = special_id(rules.bos, processor_.bos_id());
    eos_id_ = special_id(rules.eos, processor_.eos_id());
    if (add_bos_ && bos_id_ != processor_.bos_id()) {  // other ids in front of a text
      hash_ = hex(hash_bytes(concat("bos ", bos_id_), hash_bytes(hash_)));
    }
    for (const AddedToken& token : added) {
      const int32_t beyond = token.id - processor_.GetPieceSize();
      if (beyond < 0) continue;
      texts_.resize(std::max(texts_.size(), static_cast<size_t>(beyond) + 1));
      texts_[static_cast<size_t>(beyond)] = token.special ? "" : token.content;
    }
    finder_ = AddedTokenFinder(std::move(added));
  }

  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    if (text.empty()) append_ids(processor_, text, &ids);
    for (const auto& part : finder_.split(text)) {
      if (part.token) {
        ids.push_back(part.token->id);
        continue;
      }
      const bool is_first = part.text.data() == text.data();
      const bool takes_prefix =
          prefix_ == Prefix::of_model ||
          (prefix_ != Prefix::never && (is_first || prefix_ == Prefix::unless_space) &&
           !part.text.starts_with(' ') && !part.text.starts_with("\u2581"));
      append_ids(takes_prefix ? processor_ : without_prefix_, part.text, &ids);
    }
    return ids;
  }

  std::string decode(const std::vector<int32_t>& ids) const override {
    std::string text;
    std::vector<int> pieces;
    const auto decode_pieces = [&] {
      std::string part;
      const auto status = processor_.Decode(pieces, &part);
      if (!status.ok()) fail(path_, ": cannot decode: ", status.ToString());
      text += part;
      pieces.clear();
    };
    for (size_t i = 0; i < ids.size(); ++i) {
      check(ids[i] >= 0 && ids[i] < vocab_size(), path_, ": cannot decode token id ", ids[i],
            " at position ", i, ": the vocabulary has ", vocab_size(), " tokens");
      if (ids[i] < processor_.GetPieceSize()) {
        pieces.push_back(ids[i]);
        continue;
      }
      if (!pieces.empty()) decode_pieces();
      text += texts_[static_cast<size_t>(ids[i] - processor_.GetPieceSize())];
    }
    if (!pieces.empty()) decode_pieces();
    return text;
  }

  int32_t vocab_size() const override {
    return processor_.GetPieceSize() + static_cast<int32_t>(texts_.size());
  }
  int32_t text_vocab_size() const override { return processor_.GetPieceSize(); }
  int32_t bos_id() const override { return bos_id_; }
  int32_t eos_id() const override { return eos_id_; }
  std::vector<int32_t> prefix() const override {
    if (!add_bos_ || bos_id() < 0) return {};
    return {bos_id()};
  }
  std::string hash() const override { return hash_; }

 private:
  void load(const std::string& model, sentencepiece::SentencePieceProcessor* processor) const {
    std::string fault;
    try {
      const auto status = processor->LoadFromSerializedProto(model);
      if (!status.ok()) {
        fault = status.ToString();
      } else if (processor->GetPieceSize() <= 0) {
        fault = "no pieces";
      }
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {  // the library's search tree refuses some damage so
      fault = error.what();
    }
    if (!fault.empty()) {
      fail(path_, " is not a sentencepiece model (", fault, "); fetch it again");
    }
  }

  void append_ids(const sentencepiece::SentencePieceProcessor& processor, std::string_view text,
                  std::vector<int32_t>* ids) const {
    std::vector<int> more;
    const auto status = processor.Encode({text.data(), text.size()}, &more);
    if (!status.ok()) fail(path_, ": cannot encode a text: ", status.ToString());
    ids->insert(ids->end(), more.begin(), more.end());
  }

  sentencepiece::SentencePieceProcessor processor_, without_prefix_;
  AddedTokenFinder finder_;
  std::vector<std::string> texts_;  // of the tokens behind the model's pieces
  std::string path_;
  std::string hash_;
  bool add_bos_;
  int32_t bos_id_ = -1, eos_id_ = -1;
  Prefix prefix_;
};

// ---- llama2.c's file, rewritten as a sentencepiece model ----------------------------------------

std::string piece_of(size_t id, std::string_view token, PieceType* type) {
  constexpr const char* first_three[] = {"<unk>", "<s>", "</s>"};
  *type = id == 0 ? PieceType::unknown : id < 3 ? PieceType::control : PieceType::normal;
  if (id < 3) return first_three[id];
  if (token.size() == 6 && token.starts_with("<0x") && token.ends_with('>')) {
    *type = PieceType::byte;
  }
  std::string piece;
  for (const char c : token) piece += c == ' ' ? std::string("\u2581") : std::string(1, c);
  return piece;
}

template <class T>
T take(std::string_view* bytes, const std::string& path, size_t id) {
  if (bytes->size() < sizeof(T)) {
    fail(path, " is not a vocabulary of llama2.c: it ends within token ", id);
  }
  T value;
  std::memcpy(&value, bytes->data(), sizeof(T));
  bytes->remove_prefix(sizeof(T));
  return value;
}

}  // namespace

std::string llama2c_model(std::string_view bytes, const std::string& path) {
  static_assert(std::endian::native == std::endian::little);
  const auto longest = take<uint32_t>(&bytes, path, 0);
  SentencepieceModel model;
  size_t id = 0;
  for (; !bytes.empty(); ++id) {
    const auto score = take<float>(&bytes, path, id);
    const auto length = take<int32_t>(&bytes, path, id);
    if (length < 0 || static_cast<uint32_t>(length) > longest ||
        static_cast<size_t>(length) > bytes.size()) {
      fail(path, " is not a vocabulary of llama2.c: token ", id, " is said to have ", length,
           " bytes, the longest ", longest);
    }
    PieceType type{};
    const std::string piece = piece_of(id, bytes.substr(0, static_cast<size_t>(length)), &type);
    model.add_piece(piece, score, type);
    bytes.remove_prefix(static_cast<size_t>(length));
  }
  if (id < 259) fail(path, " is not a vocabulary of llama2.c: ", id, " tokens, not even the bytes");
  return model.bytes({});
}

bool is_tiktoken(std::string_view bytes) {
  const std::string_view line = bytes.substr(0, bytes.find('\n'));
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 >= line.size()) return false;
  const auto only = [](std::string_view text, std::string_view characters) {
    return text.find_first_not_of(characters) == std::string_view::npos;
  };
  return only(line.substr(0, space),
              "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") &&
         only(line.substr(space + 1), "0123456789\r");
}

std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& file) {
  const std::string model = read_text_file(file, max_model_bytes);
  if (is_tiktoken(model)) {
    refuse_tokenizer(file.string(), " is a vocabulary of tiktoken, which does not say how text is ",
                     "divided into words; copy the model's tokenizer.json beside it");
  }
  const std::filesystem::path folder = file.parent_path();
  const SpecialTokens special = read_special_tokens(folder);
  const Rules rules = {
      special.add_bos != 0,       true,        prefix_rule(special, read_model_type(folder)),
      read_listed_tokens(folder), special.bos, special.eos};
  return std::make_unique<SentencepieceTokenizer>(model, file.string(), rules);
}

std::unique_ptr<Tokenizer> sentencepiece_from(const std::string& model, const std::string& name) {
  Rules rules;
  rules.finds_control_tokens = true;
  return std::make_unique<SentencepieceTokenizer>(model, name, rules);
}

std::unique_ptr<Tokenizer> load_llama2c(const std::filesystem::path& file) {
  const std::string model = llama2c_model(read_text_file(file, max_model_bytes), file.string());
  return std::make_unique<SentencepieceTokenizer>(model, file.string(), Rules());
}

}  // namespace cbq
