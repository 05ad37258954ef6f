// Calibration and validation segments as the scripts of GPTQ draw them (Frantar et al. 2022, and
// most of what came after), to the id: Python's random numbers, documents as their tokenizer sees
// them.
#pragma once

#include <cstdint>
#include <vector>

#include "nn/text/documents.h"
#include "nn/text/tokens.h"

namespace cbq {

/// C4's rule. random.seed(seed); for each of `count` segments: documents i = randint(0, n - 1) are
/// drawn until one has more than `length` tokens (prefix included), and in it the place
/// randint(0, tokens - length - 1). With seed 0 and 256 segments: the validation set of the papers'
/// C4 perplexities. Throws std::invalid_argument when no document is long enough.
TokenSet gptq_document_segments(const Documents& documents, const Tokenizer& tokenizer,
                                int64_t count, int64_t length, uint64_t seed);

/// WikiText's rule: places randint(0, ids - length - 1) of one text. Throws std::invalid_argument
/// for a text of `length` tokens or fewer.
TokenSet gptq_text_segments(const std::vector<int32_t>& ids, int64_t count, int64_t length,
                            uint64_t seed);

/// The later C4 validation set ("c4-new"): the first 1,100 documents joined by a space, of their
/// tokens the first 256 * length, in consecutive segments.
TokenSet c4_new_segments(const Documents& documents, const Tokenizer& tokenizer, int64_t length);

}  // namespace cbq
