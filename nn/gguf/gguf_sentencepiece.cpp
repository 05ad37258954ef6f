#include "nn/gguf/gguf_sentencepiece.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>

#include "nn/text/tokenizers/loaders.h"
#include "tensor/error.h"

namespace cbq {

using nlohmann::json;

namespace {

constexpr std::string_view space_mark = "\u2581";

/// Whether `text` repeats itself every `period` bytes.
bool has_period(std::string_view text, size_t period) {
  return text.substr(period) == text.substr(0, text.size() - period);
}

/// The character of which `text` is a run ("    ", "=="); empty: it has others.
std::string_view character_of_run(std::string_view text) {
  size_t bytes = 1;
  while (bytes < text.size() && (static_cast<unsigned char>(text[bytes]) & 0xc0) == 0x80) ++bytes;
  return text.size() % bytes == 0 && has_period(text, bytes) ? text.substr(0, bytes) : "";
}

/// Pairs of tokens in the order in which BPE joins them. Sentencepiece joins the two neighbours
/// whose union has the best score; so the unions, by falling score, with every pair that makes
/// them. Null where two unions have one score: sentencepiece then joins the leftmost, for which
/// ranks have no expression. Runs of one character may have one score (LLaMA-2's runs of spaces
/// do): they meet in longer runs alone, and for_each_probe tries these. (Of two pairs with one
/// union sentencepiece joins the leftmost, too; that matters only where they overlap, in texts that
/// repeat themselves, which for_each_probe tries as well.)
json merges_of(const GgufVocabulary& v, const std::vector<double>& scores) {
  std::set<std::string_view> normal;
  std::vector<size_t> order;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    if (v.types[id] != PieceType::normal) continue;
    normal.insert(v.tokens[id]);
    order.push_back(id);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  json merges = json::array();
  std::optional<double> last_score;
  std::string_view last_run;
  for (const size_t id : order) {
    const std::string_view token = v.tokens[id];
    const size_t before = merges.size();
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const std::string_view left = token.substr(0, cut), right = token.substr(cut);
      if (!normal.contains(left) || !normal.contains(right)) continue;
      merges.push_back(json::array({std::string(left), std::string(right)}));
    }
    if (merges.size() == before) continue;
    const std::string_view run = character_of_run(token);
    if (last_score == scores[id] && (run.empty() || run != last_run)) return nullptr;
    last_score = scores[id];
    last_run = run;
  }
  return merges;
}

/// A token as it stands in a text.
std::string text_of_piece(std::string_view piece) {
  std::string text;
  for (size_t at = 0; at < piece.size();) {
    const bool is_space = piece.substr(at).starts_with(space_mark);
    text += is_space ? ' ' : piece[at];
    at += is_space ? space_mark.size() : 1;
  }
  return text;
}

/// Calls f(text) with texts in which tokens meet: each token that overlaps itself, in runs of it
/// that end anywhere; all tokens in three orders; and characters outside the vocabulary. Stops and
/// returns false as soon as f does.
template <class F>
bool for_each_probe(const GgufVocabulary& v, F&& f) {
  std::vector<std::string> texts;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    if (v.types[id] == PieceType::normal) texts.push_back(text_of_piece(v.tokens[id]));
  }
  constexpr size_t longest_run = 64;
  for (const std::string& text : texts) {
    if (text.size() > longest_run) continue;
    size_t smallest = 0;
    for (size_t period = 1; period < text.size(); ++period) {
      // A multiple of the smallest period makes the same runs.
      if ((smallest > 0 && period % smallest == 0) || !has_period(text, period)) continue;
      if (smallest == 0) smallest = period;
      std::string run = text;
      // One byte more than the longest probe: it tells whether that one ends inside a character.
      for (size_t count = 0; count <= text.size(); ++count) run += run[run.size() - period];
      for (size_t size = text.size(); size < run.size(); ++size) {
        const bool is_cut = (static_cast<unsigned char>(run[size]) & 0xc0) == 0x80;
        if (!is_cut && !(f(run.substr(0, size)) && f("x" + run.substr(0, size) + "x")))
          return false;
      }
    }
  }
  constexpr size_t tokens_at_once = 4096;  // bounds the length of a text
  for (const size_t step : {size_t{1}, size_t{7919}, size_t{104729}}) {
    std::string text;
    for (size_t i = 0; i < texts.size(); ++i) {
      text += texts[i * step % texts.size()];
      if ((i + 1) % tokens_at_once != 0 && i + 1 < texts.size()) continue;
      if (!f(text)) return false;
      text.clear();
    }
  }
  return f("") && f(" ") && f("  a\n\n  b \t") && f("\u00e9\u4e2d\U0001f600\u0378\u0379 \u0378");
}

}  // namespace

std::string sentencepiece_model(const GgufFile& file, const GgufVocabulary& v) {
  const std::string path = file.path().string();
  const std::vector<double> scores = file.numbers(gguf_tokenizer_prefix + "scores");
  if (scores.size() != v.tokens.size()) {
    fail(path, ": \"", gguf_tokenizer_prefix, "scores\" has ", scores.size(), " elements for ",
         v.tokens.size(), " tokens");
  }
  if (file.has(gguf_tokenizer_prefix + "precompiled_charsmap")) {
    fail(path, ": a normalization of characters (\"", gguf_tokenizer_prefix,
         "precompiled_charsmap\") is not supported");
  }
  SentencepieceModel model;
  SentencepieceSettings settings;
  settings.unk_id = v.unk;
  settings.byte_fallback = false;
  int64_t unknown = 0;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    model.add_piece(v.tokens[id], static_cast<float>(scores[id]), v.types[id]);
    settings.byte_fallback |= v.types[id] == PieceType::byte;
    if (v.types[id] != PieceType::unknown) continue;
    settings.unk_id = static_cast<int64_t>(id);
    ++unknown;
  }
  if (unknown != 1) {
    fail(path, ": ", unknown, " tokens are of the type unknown (\"", gguf_tokenizer_prefix,
         "token_type\" 2); sentencepiece needs exactly one");
  }
  settings.bos_id = v.bos;
  settings.eos_id = v.eos;
  settings.pad_id = v.pad;
  settings.add_dummy_prefix = file.flag(gguf_tokenizer_prefix + "add_space_prefix", true);
  settings.remove_extra_whitespaces =
      file.flag(gguf_tokenizer_prefix + "remove_extra_whitespaces", false);
  return model.bytes(settings);
}

json sentencepiece_tokenizer_json(const GgufFile& file, const GgufVocabulary& v) {
  const bool has_unused =
      std::find(v.types.begin(), v.types.end(), PieceType::unused) != v.types.end();
  const bool has_bytes =
      std::find(v.types.begin(), v.types.end(), PieceType::byte) != v.types.end();
  if (has_unused || file.flag(gguf_tokenizer_prefix + "remove_extra_whitespaces", false))
    return nullptr;
  // "Prepend" would put a space in front of every part between such tokens, not of the text alone.
  const bool has_user_defined =
      std::find(v.types.begin(), v.types.end(), PieceType::user_defined) != v.types.end();
  if (has_user_defined && file.flag(gguf_tokenizer_prefix + "add_space_prefix", true))
    return nullptr;
  json vocabulary = json::object();
  for (size_t id = 0; id < v.tokens.size(); ++id) vocabulary[v.tokens[id]] = id;
  if (vocabulary.size() != v.tokens.size()) return nullptr;  // the reader of the model refuses it
  json merges = merges_of(v, file.numbers(gguf_tokenizer_prefix + "scores"));
  if (merges.is_null()) return nullptr;
  json model = bpe_model(std::move(vocabulary), std::move(merges));
  const auto unknown = std::find(v.types.begin(), v.types.end(), PieceType::unknown);
  model["unk_token"] = v.tokens[static_cast<size_t>(unknown - v.types.begin())];
  model["fuse_unk"] = true;
  model["byte_fallback"] = has_bytes;
  const std::string space(space_mark);
  json normalizers = json::array();
  json decoders =
      json::array({{{"type", "Replace"}, {"pattern", {{"String", space}}}, {"content", " "}},
                   {{"type", "ByteFallback"}},
                   {{"type", "Fuse"}}});
  if (file.flag(gguf_tokenizer_prefix + "add_space_prefix", true)) {
    normalizers.push_back({{"type", "Prepend"}, {"prepend", space}});
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", space}});
  const bool adds_bos = file.flag(gguf_tokenizer_prefix + "add_bos_token", true) && v.bos >= 0;
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", gguf_added_tokens(v)},
          {"normalizer", {{"type", "Sequence"}, {"normalizers", std::move(normalizers)}}},
          {"pre_tokenizer", nullptr},
          {"post_processor",
           adds_bos ? bos_processor(v.tokens[static_cast<size_t>(v.bos)], v.bos) : json(nullptr)},
          {"decoder", {{"type", "Sequence"}, {"decoders", std::move(decoders)}}},
          {"model", std::move(model)}};
}

bool is_same_tokenizer(const std::string& model, const std::string& tokenizer_json,
                       const GgufVocabulary& v, const std::string& what) {
  const auto ours = sentencepiece_from(model, what);
  const auto theirs = tokenizer_json_from(tokenizer_json, what);
  return for_each_probe(
      v, [&](const std::string& text) { return ours->encode(text) == theirs->encode(text); });
}

}  // namespace cbq
