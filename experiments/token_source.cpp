#include "experiments/token_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <iostream>

#include "cbq/sampling.h"
#include "cbq/watch.h"
#include "experiments/progress.h"
#include "tensor/runtime/program.h"

namespace fs = std::filesystem;

namespace cbq {
namespace {

std::unique_ptr<Tokenizer> tokenizer_of(const TokenContext& context) {
  check(!context.tokenizer.empty(), "a text needs a tokenizer; give --tokenizer");
  return tokenizer_for(context.config.vocab_size, context.tokenizer);
}

/// Ids from another vocabulary are numbers without meaning, even where none is out of range.
void warn_of_other_tokenizer(const TokenSet& set, const TokenContext& context,
                             const std::string& source) {
  if (set.tokenizer_hash.empty() || context.tokenizer.empty()) return;
  std::error_code error;
  const std::vector<fs::path> files = tokenizer_files(context.tokenizer);
  if (files.empty() || !fs::exists(files[0], error)) return;
  if (load_tokenizer(context.tokenizer)->hash() == set.tokenizer_hash) return;
  std::cerr << "warning: " << source << " was made with another tokenizer than "
            << files[0].string() << std::endl;
}

TokenSet ids_of(const std::string& source, const TokenContext& context) {
  const TokenSource ids = TokenSource::parse(source);
  if (ids.holds_ids()) {
    TokenSet set = ids.load();
    warn_of_other_tokenizer(set, context, source);
    return set;
  }
  const std::string text = read_text(source);  // first: an empty one is the nearer fault
  const std::unique_ptr<Tokenizer> tokenizer = tokenizer_of(context);
  TokenSet set;
  set.segments.push_back(tokenize(text, *tokenizer));
  set.tokenizer_hash = tokenizer->hash();
  return set;
}

/// One segment that is longer than what is wanted is a text, not a segment.
bool is_stream(const TokenSet& set, int64_t length) {
  return set.count() == 1 && static_cast<int64_t>(set.segments[0].size()) > length;
}

/// The first `count` segments, cut to `length`; 0: all, whole.
TokenSet shortened(TokenSet set, int64_t count, int64_t length) {
  const int64_t all = set.count();
  if (count > 0 && count < all) set = set.slice(0, count);
  bool cut = false;
  for (auto& segment : set.segments) {
    if (length == 0 || static_cast<int64_t>(segment.size()) <= length) continue;
    segment.resize(static_cast<size_t>(length));
    cut = true;
  }
  if (set.count() < all) set.protocol += concat(", the first ", set.count());
  if (cut) set.protocol += concat(", cut to ", length, " tokens");
  return set;
}

// What papers and peers measure with, and what memory and time of a CPU allow.
constexpr int64_t longest_default = 2048, longest_sampled_default = 512, default_count = 128;

/// Bytes of the parameters of all blocks.
int64_t block_bytes(Transformer& model) {
  int64_t bytes = parameter_bytes(model);
  const ParameterVisitor outer = [&](const std::string&, Var& p) { bytes -= p.value().bytes(); };
  model.visit_embedding("", outer);
  model.visit_head("", outer);
  return bytes;
}

std::vector<std::vector<int32_t>> sample_with_progress(const TokenContext& context, int64_t count,
                                                       int64_t length, uint64_t seed) {
  Transformer& model = *context.model;
  Progress progress(std::cerr, stderr_is_terminal());
  const auto say = [&](const std::string& line) {
    context.say ? context.say(line) : progress.line(line);
  };
  say(concat("sampling ", count, " segments of ", length,
             " tokens from the model: ", sampling_passes(model, count, length),
             " tokens pass it, the remaining time follows (--segments and --segment-length "
             "decide, a text as --calibration needs none of it)"));
  const int64_t reads = sampling_reads(model, count, length);
  if (reads > 0) {
    say(fmt::format(
        "for that the blocks are read {} times, {:.1f} GiB of parameters each time; --load whole "
        "keeps them in memory",
        reads, static_cast<double>(block_bytes(model)) / (1 << 30)));
  }
  const Watch& watch = context.watch;
  return sample_segments(model, count, length, seed, [&](int64_t done, int64_t total) {
    if (watch.interrupted ? watch.interrupted() : interrupted()) {
      throw Interrupted("interrupted while sampling from the model");
    }
    const char* what = "tokens, sampling";
    watch.progress ? watch.progress(done, total, what) : progress.update(done, total, what);
  });
}

}  // namespace

std::unique_ptr<Tokenizer> tokenizer_for(int64_t vocab_size, const fs::path& path) {
  std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(path);
  check_tokenizer_fits(*tokenizer, vocab_size, path.string());
  if (tokenizer->vocab_size() > vocab_size) {
    std::cerr << "warning: " << path.string() << " has " << tokenizer->vocab_size()
              << " tokens, the model " << vocab_size << " embeddings: a text that holds one of the "
              << "special tokens beyond them will be refused" << std::endl;
  }
  if (tokenizer->vocab_size() < vocab_size - vocab_size / 10) {
    std::cerr << "warning: " << path.string() << " has " << tokenizer->vocab_size()
              << " tokens, the model " << vocab_size << " embeddings: is it another model's?"
              << std::endl;
  }
  return tokenizer;
}

std::vector<int32_t> tokenize_files(const std::vector<std::string>& texts,
                                    const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (const std::string& path : texts) {
    const std::vector<int32_t> part = tokenize(read_text(path), tokenizer);
    ids.insert(ids.end(), part.begin(), part.end());
  }
  return ids;
}

SampledSize sampled_size(int64_t context, int64_t count, int64_t length) {
  return {count > 0 ? count : default_count,
          length > 0 ? length : std::min(context, longest_sampled_default)};
}

TokenSet calibration_tokens(const std::string& source, const TokenContext& context, int64_t count,
                            int64_t length, uint64_t seed) {
  const int64_t longest = context.config.context();
  check(length <= longest, "--segment-length ", length, " is longer than the model's context of ",
        longest);
  TokenSet set;
  if (source == "model") {
    check(context.model != nullptr, "calibration 'model': there is no model to sample from");
    const auto [n, t] = sampled_size(longest, count, length);
    set.segments = sample_with_progress(context, n, t, seed);
    set.protocol = concat("sampled from the model, ", n, " segments of ", t, ", seed ", seed);
  } else {
    set = ids_of(source, context);
    const int64_t wanted = length > 0 ? length : std::min(longest, longest_default);
    if (is_stream(set, wanted)) {
      const std::string hash = set.tokenizer_hash;
      set = random_segments(set.segments[0], count > 0 ? count : default_count, wanted, seed);
      set.tokenizer_hash = hash;
    } else {
      set = shortened(std::move(set), count, length);
    }
  }
  set.check_vocabulary(context.config.vocab_size);
  set.length();  // throws when they differ
  return set;
}

TokenSet evaluation_tokens(const std::string& source, const TokenContext& context, int64_t count,
                           int64_t length, const char* length_option) {
  const int64_t longest = context.config.context();
  check(length <= longest, length_option, " ", length, " is longer than the model's context of ",
        longest);
  const int64_t wanted = length > 0 ? length : std::min(longest, longest_default);
  TokenSet set = ids_of(source, context);
  // A segment's last id is only predicted, never read: one more than the context is no text yet.
  if (is_stream(set, wanted + 1) || !TokenSource::parse(source).holds_ids()) {
    if (length == 0 && wanted < longest) {
      std::cerr << source << ": cut into segments of " << wanted
                << " tokens; the model's context is " << longest << " (" << length_option << ")"
                << std::endl;
    }
    const TokenSet whole = std::move(set);
    set = consecutive_segments(whole.segments[0], wanted);
    set.tokenizer_hash = whole.tokenizer_hash;
    // How the text was put together stays part of the protocol ("wikitext2: ...").
    if (!whole.protocol.empty() && whole.protocol != "one text") {
      set.protocol = concat(whole.protocol, ", ", set.protocol);
    }
    length = 0;
  }
  set = shortened(std::move(set), count, length);
  set.check_vocabulary(context.config.vocab_size);
  return set;
}

TokenSet evenly_spaced(const TokenSet& all, int64_t max_tokens) {
  const int64_t count = all.count();
  const int64_t mean = std::max<int64_t>(1, all.token_count() / std::max<int64_t>(1, count));
  const int64_t wanted = max_tokens == 0 ? count : std::max<int64_t>(1, max_tokens / mean);
  if (wanted >= count) return all;
  std::vector<int64_t> numbers;
  for (int64_t i = 0; i < wanted; ++i) numbers.push_back(i * count / wanted);
  TokenSet some = all.chosen(numbers);
  some.protocol = concat(all.protocol, ", ", wanted, " of ", count, " evenly spaced");
  return some;
}

std::string name_of_source(const std::string& source) { return TokenSource::parse(source).name(); }

}  // namespace cbq
