// Byte-pair encoding of one word (Gage 1994; Sennrich et al. 2016), over bytes.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cbq {

/// A word starts as its bytes; the adjacent pair of lowest rank (the leftmost of several) becomes
/// one symbol, again and again, until no pair has a rank.
class Bpe {
 public:
  /// `vocabulary`: bytes of each token and its id. `merges` in the order of their ranks.
  /// `ignore_merges`: a word that is a token as a whole is not split (LLaMA 3). Throws
  /// std::runtime_error, naming `what`, for a merge of or into tokens that are not in the
  /// vocabulary.
  Bpe(std::unordered_map<std::string, int32_t> vocabulary,
      const std::vector<std::pair<std::string, std::string>>& merges, bool ignore_merges,
      const std::string& what);

  /// Appends the word's ids. O(n log n) for n bytes. Throws std::invalid_argument for a byte
  /// without a token.
  void encode(std::string_view word, std::vector<int32_t>* ids) const;

 private:
  struct Merge {
    int32_t rank, id;
  };
  const Merge* merge_of(int32_t left, int32_t right) const;

  std::unordered_map<std::string, int32_t> vocabulary_;
  std::unordered_map<uint64_t, Merge> merges_;  // by both ids
  std::array<int32_t, 256> byte_ids_;           // -1: none
  bool ignore_merges_;
  std::string what_;
};

}  // namespace cbq
