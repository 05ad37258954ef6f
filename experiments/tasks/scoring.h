// Log-likelihoods of continuations: log p(continuation | context) = sum_t log p(token_t | before).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "experiments/tasks/task.h"
#include "nn/text/tokenizer.h"
#include "nn/transformer.h"

namespace cbq {

/// How a context and its continuation become ids. Results differ by tenths of a point: always name
/// the encoding.
enum class Encoding {
  /// lm-evaluation-harness 0.4.13: both as one text behind the tokenizer's prefix; the continuation
  /// is what follows as many tokens as the context alone has. Spaces at the context's end belong to
  /// the continuation.
  joint,
  /// Earlier versions of 0.4: the same without the prefix, unless the model was set to add it.
  joint_without_bos,
  /// lm-evaluation-harness 0.3, of which the papers' tables are: each on its own, no prefix.
  separate
};
/// "joint", "joint_without_bos", "separate". Throws std::invalid_argument for another name.
Encoding encoding_from_name(const std::string& name);
std::string name_of(Encoding encoding);

/// Ids of a request; the last `scored` of them are the continuation.
struct EncodedRequest {
  std::vector<int32_t> ids;
  int64_t scored = 0;
  bool truncated = false;
};

/// Ids from the left are dropped until the model's `context` holds all but the last one. An empty
/// context becomes BOS, with `separate` EOS, as in the harness' versions; the other one where the
/// tokenizer lacks it. Throws std::invalid_argument, quoting the request's beginning,
/// when the continuation has no token of its own or alone exceeds the context.
EncodedRequest encode(const Request& request, const Tokenizer& tokenizer, Encoding encoding,
                      int64_t context);

struct RequestScore {
  double log_likelihood = 0.0;  // nats
  bool is_greedy = false;       // every token is the likeliest at its place; only where asked for
};

struct ScoringOptions {
  int64_t tokens = 2048;     // read in one forward pass, if no single request has more
  bool want_greedy = false;  // copies the scored rows of the logits to the host
  /// Called whenever a pass has gone through a block, with how many of all such passes of a
  /// sequence are done; may throw to stop.
  std::function<void(int64_t done, int64_t all)> progress = {};
  /// As in BatchWalkOptions (nn/block_walk.h).
  int64_t waiting_bytes = 0;
};

/// Scores requests without padding: passes of about `tokens` tokens hold sequences of any lengths
/// (Sequence::varlen), and what requests have in common at their beginnings, the context of a
/// question's choices, is read once (experiments/tasks/varlen_passes.h). Requests that read the
/// same tokens (choices of one token) share all of them. The head sees scored positions only.
/// Progress counts different sequences, once per block. Where blocks are loaded on demand, each is
/// read once for all passes whose residual streams may wait, with the same results, bit for bit. In
/// the order given. Throws NonFiniteError when the model's output is no number.
std::vector<RequestScore> score(Transformer& model, const std::vector<EncodedRequest>& requests,
                                const ScoringOptions& options);

}  // namespace cbq
