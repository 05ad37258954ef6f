// Token sets: the segments of ids that calibration and evaluation run on, and their files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "nn/text/tokenizer.h"
#include "tensor/tensor.h"

namespace cbq {

/// Segments of token ids, and where they come from.
struct TokenSet {
  std::vector<std::vector<int32_t>> segments;  // none of them empty
  std::string protocol;        // how the segments were made, e.g. "consecutive segments of 2048"
  std::string tokenizer_hash;  // Tokenizer::hash(); empty when the ids came without a tokenizer
  std::string source_hash;     // of the text or the file of ids
  /// The number of the document that each segment is from, where the protocol knows it: statistics
  /// take segments of one document together. Empty: not known. No part of hash().
  std::vector<int64_t> documents = {};

  int64_t count() const { return static_cast<int64_t>(segments.size()); }
  /// The length that all segments share. Throws std::invalid_argument when they differ.
  int64_t length() const;
  int64_t token_count() const;
  /// Ids of the segments [begin, end), i32 [(end - begin) * length()].
  Tensor batch(int64_t begin, int64_t end, Device device = Device::cpu()) const;
  /// The segments [begin, end) as a set of their own.
  TokenSet slice(int64_t begin, int64_t end) const;
  /// The segments of these numbers, in this order, as a set of their own.
  TokenSet chosen(const std::vector<int64_t>& numbers) const;
  /// 16 hexadecimal digits of all ids and lengths.
  std::string hash() const;
  /// Throws std::invalid_argument, naming segment, position and id, unless every id is within
  /// [0, vocab_size).
  void check_vocabulary(int64_t vocab_size) const;
};

// Making segments. All throw std::invalid_argument for an empty text or one shorter than a segment.

/// All ids of a text, tokenized once, behind the tokenizer's prefix() (BOS, where the family has
/// it).
std::vector<int32_t> tokenize(const std::string& text, const Tokenizer& tokenizer);
/// ids[begin, begin + length), which must lie within them.
std::vector<int32_t> segment_of(const std::vector<int32_t>& ids, int64_t begin, int64_t length);
/// GPTQ's evaluation protocol (Frantar et al. 2022): consecutive, disjoint segments of `length`
/// ids; what is left at the end is dropped. Only the first segment begins with BOS.
TokenSet consecutive_segments(const std::vector<int32_t>& ids, int64_t length);
/// GPTQ's calibration protocol: `count` segments of `length` ids at random places, which may
/// overlap. Place = mt19937_64(seed)() modulo the number of places, the same on every machine.
TokenSet random_segments(const std::vector<int32_t>& ids, int64_t count, int64_t length,
                         uint64_t seed);

/// The text of a file, uncompressed where it is gzip's: plain, or for .jsonl (.jsonl.gz) the "text"
/// of each line, joined by two newlines. Line ends are read as Python does: "\r\n" and "\r" become
/// "\n" (but not those within a JSON string, which are written as escapes). Lines of JSON that
/// cannot be read are left out, with a warning on standard error. Throws std::runtime_error for a
/// missing file, one that is not UTF-8, or one without a readable line, std::invalid_argument when
/// it holds no text.
std::string read_text(const std::filesystem::path& path);
/// WikiText as GPTQ reads it: lines are rows that keep their newline, rows that are blank to
/// Python's str.strip become empty, rows are joined by two newlines.
std::string join_wikitext_rows(std::string_view text);

// Files.

/// Segments from JSON: `key` names a list of lists of ids in the top-level object; empty: the file
/// is that list itself.
TokenSet tokens_from_json(const std::filesystem::path& path, const std::string& key);
/// Writes a token file: HDF5 with the ids end to end ("ids" i32), where each segment begins
/// ("offsets" i32, one more than segments), where they are known the documents of the segments
/// ("documents" i32), and the hashes as attributes. `is_sealed`: with a checksum at its end, for
/// check_seal() (nn/formats/sealed_files.h). Throws std::invalid_argument for documents that do not
/// fit the segments.
void save_tokens(const std::filesystem::path& path, const TokenSet& tokens, bool is_sealed = false);
/// Reads a token file. Throws std::runtime_error when it is broken.
TokenSet load_tokens(const std::filesystem::path& path);

/// Where ids come from, as a user writes it: FILE.h5, FILE.json or FILE.json:KEY; any other name is
/// a text's. A file whose whole name holds a colon has precedence over a key.
struct TokenSource {
  std::filesystem::path path;
  std::string key;  // of a JSON file

  static TokenSource parse(const std::string& source);
  bool holds_ids() const;  // rather than a text
  /// Reads the ids. Throws as tokens_from_json and load_tokens do.
  TokenSet load() const;
  /// "file" or "file:key": what a table calls it.
  std::string name() const;
};

}  // namespace cbq
