// Where token segments come from, as every command line names them.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "cbq/watch.h"
#include "nn/text/tokenizer.h"
#include "nn/text/tokens.h"
#include "nn/transformer.h"

namespace cbq {

/// The model that tokens are for.
struct TokenContext {
  const ModelConfig& config;        // vocabulary and context
  std::filesystem::path tokenizer;  // file or folder; read only when a text is to be read
  Transformer* model = nullptr;     // needed for "model" alone
  /// Who hears of sampling, which takes long; without them, the terminal and its Ctrl-C.
  Watch watch = {};
  std::function<void(const std::string& line)> say = {};
};

/// The tokenizer at `path` (file or folder) for a model with `vocab_size` embeddings. Throws if
/// text is made of more tokens than that. A warning goes to standard error where special tokens lie
/// beyond the embeddings, and where there are far fewer tokens (models pad their vocabulary by a
/// percent at most): ids of another model's tokenizer are numbers without meaning.
std::unique_ptr<Tokenizer> tokenizer_for(int64_t vocab_size, const std::filesystem::path& path);

/// The ids of one or several texts: each encoded whole, in one call, then joined in order.
std::vector<int32_t> tokenize_files(const std::vector<std::string>& texts,
                                    const Tokenizer& tokenizer);

/// Segments that calibration_tokens() samples from a model of `context` tokens, and their length,
/// where `count` and `length` were asked for (0: the default).
struct SampledSize {
  int64_t count, length;
};
SampledSize sampled_size(int64_t context, int64_t count, int64_t length);

/// What one learns from:
///   "model"               sampled from the model itself (data-free)
///   FILE.h5               token file
///   FILE.json or FILE.json:KEY   list of lists of ids
///   any other file        text
/// Text and token files of one long segment give `count` random segments of `length`; the others
/// their first `count` segments, cut to `length`. 0: as many, as long as they are.
/// Where nobody chose: 128 segments of the model's context, at most 2,048 tokens of a text and 512
/// of "model", whose every token passes the model by itself; sampling says what it will cost, shows
/// progress, and throws Interrupted after Ctrl-C (TokenContext::watch).
/// Throws unless all segments have one length and all ids are in the model's vocabulary.
TokenSet calibration_tokens(const std::string& source, const TokenContext& context, int64_t count,
                            int64_t length, uint64_t seed);

/// What one measures on: sources as above (but not "model"); text and long segments are cut into
/// consecutive segments of `length` (0: the model's context, at most 2,048, which a line on
/// standard error says), the first `count` of them (0: all). `length_option` is what sets `length`
/// on the command line, for messages.
TokenSet evaluation_tokens(const std::string& source, const TokenContext& context, int64_t count,
                           int64_t length, const char* length_option = "--segment-length");

/// As many of the segments as hold `max_tokens` ids, evenly spaced over the set (a dictionary
/// begins with A), which the protocol then says; 0: all.
TokenSet evenly_spaced(const TokenSet& all, int64_t max_tokens);

/// "wordnet.test" of "build/text/wordnet.test.txt", "sampled:held_out" of "sampled.json:held_out".
std::string name_of_source(const std::string& source);

}  // namespace cbq
