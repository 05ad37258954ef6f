// Byte-pair encoding of one word (Gage 1994; Sennrich et al. 2016).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cbq {

/// A word starts as its characters; the adjacent pair of lowest rank (the leftmost of several)
/// becomes one symbol, again and again, until no pair has a rank. Byte-level vocabularies see words
/// in the byte alphabet, so that their characters are bytes.
class Bpe {
 public:
  struct Options {
    bool ignore_merges = false;  // a word that is a token as a whole is not split (LLaMA 3)
    bool byte_fallback = false;  // a character without a token becomes its bytes: <0x00> to <0xFF>
    std::optional<std::string> unknown;  // what a character without a token becomes otherwise
    bool fuse_unknown = false;           // several in a row become one
    std::string prefix;                  // in front of every character but a word's first
    std::string suffix;                  // behind a word's last character
    bool over_bytes = false;  // every character is a byte: one without a token is an error
  };
  /// `vocabulary`: each token and its id. `merges` in the order of their ranks. Throws
  /// std::runtime_error, naming `what`, for a merge of or into tokens that are not in the
  /// vocabulary, and for an unknown token that is not.
  Bpe(std::unordered_map<std::string, int32_t> vocabulary,
      const std::vector<std::pair<std::string, std::string>>& merges, Options options,
      const std::string& what);

  /// Appends the word's ids. O(n log n) for n characters. A character without a token becomes its
  /// bytes or the unknown token; where the vocabulary has neither, it is left out, with a warning
  /// on standard error for the first one (std::invalid_argument for bytes).
  void encode(std::string_view word, std::vector<int32_t>* ids) const;

 private:
  struct Merge {
    int32_t rank, id;
  };
  const Merge* merge_of(int32_t left, int32_t right) const;
  int32_t id_of(const std::string& token) const;  // -1: none
  int32_t id_of_character(std::string_view character, bool is_first, bool is_last) const;
  std::vector<int32_t> characters_of(std::string_view word) const;
  void report_left_out(std::string_view character) const;

  std::unordered_map<std::string, int32_t> vocabulary_;
  std::unordered_map<uint64_t, Merge> merges_;  // by both ids
  std::array<int32_t, 0x800> short_ids_;        // of characters of one or two bytes; -1: none
  std::array<int32_t, 256> byte_ids_;           // of <0x00> to <0xFF>; -1: none
  int32_t unknown_id_ = -1;
  Options options_;
  std::string what_;
  mutable std::atomic<bool> has_warned_ = false;
};

}  // namespace cbq
