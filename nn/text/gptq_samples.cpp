#include "nn/text/gptq_samples.h"

#include <algorithm>

#include "nn/formats/hash.h"
#include "nn/text/python_random.h"

namespace cbq {
namespace {

void check_sizes(int64_t count, int64_t length) {
  check(count >= 1 && length >= 1, "at least one segment of one token, asked for ", count, " of ",
        length);
}

/// The ids of one document; a blank one is no error here, it is only too short.
std::vector<int32_t> ids_of(const std::string& text, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids = tokenizer.prefix();
  const std::vector<int32_t> more = tokenizer.encode(text);
  ids.insert(ids.end(), more.begin(), more.end());
  return ids;
}

/// Draws documents; remembers which were too short, so that a set without long ones ends.
class LongDocuments {
 public:
  LongDocuments(const Documents& documents, const Tokenizer& tokenizer, int64_t length)
      : documents_(documents),
        tokenizer_(tokenizer),
        length_(length),
        too_short_(static_cast<size_t>(documents.count())),
        skipped_(documents.name()) {}

  struct Drawn {
    int64_t document;
    std::vector<int32_t> ids;
  };
  Drawn draw(PythonRandom* random) {
    while (short_count_ < documents_.count()) {
      const int64_t i = random->randint(0, documents_.count() - 1);
      if (too_short_[static_cast<size_t>(i)]) continue;
      const std::optional<std::string> text = documents_.try_text(i, &skipped_);
      if (text) {
        std::vector<int32_t> ids = ids_of(*text, tokenizer_);
        if (static_cast<int64_t>(ids.size()) > length_) return {i, std::move(ids)};
      }
      too_short_[static_cast<size_t>(i)] = true;
      ++short_count_;
    }
    report_skipped();
    throw std::invalid_argument(message_of("none of the ", documents_.count(),
                                           " documents has more than ", length_,
                                           " tokens; use shorter segments (--segment-length)"));
  }

  void report_skipped() const { skipped_.report(documents_.count()); }

 private:
  const Documents& documents_;
  const Tokenizer& tokenizer_;
  int64_t length_;
  std::vector<bool> too_short_;  // or not readable
  SkippedRows skipped_;
  int64_t short_count_ = 0;
};

}  // namespace

TokenSet gptq_document_segments(const Documents& documents, const Tokenizer& tokenizer,
                                int64_t count, int64_t length, uint64_t seed) {
  check_sizes(count, length);
  TokenSet set;
  set.protocol = concat(count, " segments of ", length, " from random documents, seed ", seed,
                        " (GPTQ's draw)");
  set.tokenizer_hash = tokenizer.hash();
  set.source_hash = documents.hash();
  PythonRandom random(seed);
  LongDocuments long_documents(documents, tokenizer, length);
  for (int64_t s = 0; s < count; ++s) {
    const auto [document, ids] = long_documents.draw(&random);
    const int64_t place = random.randint(0, static_cast<int64_t>(ids.size()) - length - 1);
    set.segments.push_back(segment_of(ids, place, length));
    set.documents.push_back(document);
  }
  long_documents.report_skipped();
  return set;
}

TokenSet gptq_text_segments(const std::vector<int32_t>& ids, int64_t count, int64_t length,
                            uint64_t seed) {
  check_sizes(count, length);
  const auto size = static_cast<int64_t>(ids.size());
  check(size > length, "the text has ", size, " tokens; more than one segment of ", length,
        " is needed");
  TokenSet set;
  set.protocol = concat(count, " random segments of ", length, ", seed ", seed, " (GPTQ's draw)");
  PythonRandom random(seed);
  for (int64_t s = 0; s < count; ++s) {
    set.segments.push_back(segment_of(ids, random.randint(0, size - length - 1), length));
  }
  return set;
}

TokenSet c4_new_segments(const Documents& documents, const Tokenizer& tokenizer, int64_t length) {
  check_sizes(256, length);
  std::string text;
  const int64_t count = std::min<int64_t>(documents.count(), 1100);
  SkippedRows skipped(documents.name());
  for (int64_t i = 0; i < count; ++i) {
    const std::optional<std::string> document = documents.try_text(i, &skipped);
    if (!document) continue;
    if (!text.empty()) text += ' ';
    text += *document;
  }
  skipped.report(count);
  std::vector<int32_t> ids = ids_of(text, tokenizer);
  if (static_cast<int64_t>(ids.size()) > 256 * length)
    ids.resize(static_cast<size_t>(256 * length));
  TokenSet set = consecutive_segments(ids, length);
  set.protocol = concat("the first ", count, " documents joined by spaces, ", set.count(),
                        " consecutive segments of ", length);
  set.tokenizer_hash = tokenizer.hash();
  set.source_hash = documents.hash();
  return set;
}

}  // namespace cbq
