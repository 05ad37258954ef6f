#include "experiments/tasks/scoring.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "autograd/var.h"
#include "experiments/tasks/varlen_passes.h"
#include "kernels/ops.h"
#include "nn/block_walk.h"
#include "nn/formats/json.h"
#include "nn/formats/unicode.h"
#include "nn/rope.h"
#include "tensor/error.h"

namespace cbq {
namespace {

std::vector<int32_t> with_prefix(const std::string& text, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids = tokenizer.prefix();
  const std::vector<int32_t> more = tokenizer.encode(text);
  ids.insert(ids.end(), more.begin(), more.end());
  return ids;
}

std::vector<int32_t> joined(std::vector<int32_t> front, const std::vector<int32_t>& back) {
  front.insert(front.end(), back.begin(), back.end());
  return front;
}

/// What stands before a continuation without a context.
std::vector<int32_t> ids_of_nothing(const Tokenizer& tokenizer, Encoding encoding) {
  const int32_t bos = tokenizer.bos_id(), eos = tokenizer.eos_id();
  const bool wants_eos = encoding == Encoding::separate;
  const int32_t id = wants_eos ? (eos >= 0 ? eos : bos) : (bos >= 0 ? bos : eos);
  check(id >= 0, "a request has no context, and the tokenizer neither BOS nor EOS to stand for it");
  return {id};
}

std::string beginning_of(const std::string& text) {
  std::string part = text.substr(0, 40);
  while (!is_utf8(part)) part.pop_back();
  return part + (part.size() < text.size() ? "..." : "");
}

/// The different token sequences to read, sorted, and the requests that each of them answers.
struct Readings {
  std::vector<std::vector<int32_t>> sequences;
  std::vector<std::vector<size_t>> requests;
};

Readings readings_of(const std::vector<EncodedRequest>& requests) {
  std::map<std::vector<int32_t>, std::vector<size_t>> by_inputs;
  for (size_t i = 0; i < requests.size(); ++i) {
    const std::vector<int32_t>& ids = requests[i].ids;
    by_inputs[{ids.begin(), ids.end() - 1}].push_back(i);
  }
  Readings readings;
  for (auto& [inputs, users] : by_inputs) {
    readings.sequences.push_back(inputs);
    readings.requests.push_back(std::move(users));
  }
  return readings;
}

/// Row `row` of a pass predicts the token `target` of request `request`.
struct ScoredRow {
  int32_t row, target;
  size_t request;
};

std::vector<ScoredRow> scored_rows(const VarlenPass& pass, const Readings& readings,
                                   const std::vector<EncodedRequest>& requests) {
  std::vector<ScoredRow> rows;
  for (const VarlenPass::Member& member : pass.members) {
    for (const size_t r : readings.requests[member.index]) {
      const auto size = static_cast<int64_t>(requests[r].ids.size());
      for (int64_t t = size - requests[r].scored; t < size; ++t) {
        rows.push_back({static_cast<int32_t>(member.row_of(t - 1)),
                        requests[r].ids[static_cast<size_t>(t)], r});
      }
    }
  }
  return rows;
}

/// Whether `target` is the first largest of each row.
std::vector<bool> greedy_rows(const Tensor& logits, const std::vector<int32_t>& targets) {
  const auto values = kernels::cast(logits, Dtype::f32).to(Device::cpu()).to_vector<float>();
  const size_t width = values.size() / targets.size();
  std::vector<bool> greedy(targets.size());
  for (size_t r = 0; r < targets.size(); ++r) {
    const auto row = values.begin() + static_cast<std::ptrdiff_t>(r * width);
    greedy[r] = std::max_element(row, row + static_cast<std::ptrdiff_t>(width)) - row == targets[r];
  }
  return greedy;
}

/// Adds the log-likelihoods of rows [begin, end) of the residual stream to their requests'.
void score_rows(Transformer& model, const Tensor& hidden, const std::vector<ScoredRow>& rows,
                size_t begin, size_t end, bool want_greedy, std::vector<RequestScore>* scores) {
  std::vector<int32_t> at, targets;
  for (size_t i = begin; i < end; ++i) {
    at.push_back(rows[i].row);
    targets.push_back(rows[i].target);
  }
  const Shape shape = {static_cast<int64_t>(at.size())};
  const Tensor picked =
      kernels::embedding(Tensor::from(at, shape, Dtype::i32, model.device()), hidden);
  const Tensor logits = model.head(Var(picked)).value();
  const Tensor next = Tensor::from(targets, shape, Dtype::i32, model.device());
  const auto nll = kernels::cross_entropy(logits, next).to_vector<double>();
  const std::vector<bool> greedy =
      want_greedy ? greedy_rows(logits, targets) : std::vector<bool>(targets.size(), false);
  for (size_t i = begin; i < end; ++i) {
    RequestScore& result = (*scores)[rows[i].request];
    result.log_likelihood -= nll[i - begin];
    result.is_greedy = result.is_greedy && greedy[i - begin];
  }
}

// Elements of the logits at a time: 128 MiB in f32.
constexpr int64_t most_logits = int64_t{1} << 25;

/// Scores a pass from its residual stream behind the last block.
void score_pass(Transformer& model, const Tensor& hidden, const std::vector<ScoredRow>& rows,
                bool want_greedy, std::vector<RequestScore>* scores) {
  const auto step =
      static_cast<size_t>(std::max<int64_t>(1, most_logits / model.config.vocab_size));
  for (size_t begin = 0; begin < rows.size(); begin += step) {
    score_rows(model, hidden, rows, begin, std::min(rows.size(), begin + step), want_greedy,
               scores);
  }
  for (const ScoredRow& row : rows) {
    if (std::isfinite((*scores)[row.request].log_likelihood)) continue;
    throw NonFiniteError(
        "the model's output is no number: its weights are broken, or its "
        "activations exceed the range of --dtype");
  }
}

/// Kernels on a GPU take ids as they are.
void check_ids(const Transformer& model, const std::vector<EncodedRequest>& requests) {
  for (size_t r = 0; r < requests.size(); ++r) {
    for (const int32_t id : requests[r].ids) {
      check(id >= 0 && id < model.config.vocab_size, "score: request ", r, " holds token id ", id,
            ", outside the model's vocabulary of ", model.config.vocab_size,
            " (was the text tokenized for another model?)");
    }
  }
}

}  // namespace

Encoding encoding_from_name(const std::string& name) {
  for (const Encoding encoding :
       {Encoding::joint, Encoding::joint_without_bos, Encoding::separate}) {
    if (name == name_of(encoding)) return encoding;
  }
  throw std::invalid_argument(
      message_of("there is no encoding ", name, "; known: joint joint_without_bos separate"));
}

std::string name_of(Encoding encoding) {
  if (encoding == Encoding::joint) return "joint";
  return encoding == Encoding::separate ? "separate" : "joint_without_bos";
}

EncodedRequest encode(const Request& request, const Tokenizer& tokenizer, Encoding encoding,
                      int64_t context) {
  EncodedRequest result;
  if (request.context.empty()) {
    const std::vector<int32_t> ids = tokenizer.encode(request.continuation);
    result.ids = joined(ids_of_nothing(tokenizer, encoding), ids);
    result.scored = static_cast<int64_t>(ids.size());
  } else if (encoding != Encoding::separate) {
    const auto ids_of = [&](const std::string& text) {
      return encoding == Encoding::joint ? with_prefix(text, tokenizer) : tokenizer.encode(text);
    };
    const std::string front(python_rstrip(request.context));
    const std::string back = request.context.substr(front.size()) + request.continuation;
    result.ids = ids_of(front + back);
    result.scored =
        static_cast<int64_t>(result.ids.size()) - static_cast<int64_t>(ids_of(front).size());
  } else {
    const std::vector<int32_t> ids = tokenizer.encode(request.continuation);
    result.ids = joined(tokenizer.encode(request.context), ids);
    result.scored = static_cast<int64_t>(ids.size());
  }
  const auto size = static_cast<int64_t>(result.ids.size());
  const auto continuation = [&] { return beginning_of(request.continuation); };
  check(
      result.scored >= 1 && result.scored < size, "the continuation \"", continuation,
      "\" has no token of its own behind \"", [&] { return beginning_of(request.context); }, "\"");
  check(result.scored <= context, "the continuation \"", continuation, "\" has ", result.scored,
        " tokens, more than the model's context of ", context,
        "; this task needs a model with a longer one");
  if (size > context + 1) {
    result.ids.erase(result.ids.begin(), result.ids.end() - (context + 1));
    result.truncated = true;
  }
  return result;
}

std::vector<RequestScore> score(Transformer& model, const std::vector<EncodedRequest>& requests,
                                const ScoringOptions& options) {
  NoGrad none;
  check_ids(model, requests);
  std::vector<RequestScore> scores(requests.size(), {0.0, options.want_greedy});
  const Readings readings = readings_of(requests);
  const std::vector<VarlenPass> passes =
      varlen_passes(readings.sequences, options.tokens, uniform_length(model.config.rope));
  std::vector<TokenBatch> batches;
  for (const VarlenPass& pass : passes) {
    batches.push_back({pass.ids, {1, static_cast<int64_t>(pass.ids.size())}, pass.groups});
  }
  const int64_t all = static_cast<int64_t>(readings.sequences.size()) * model.block_count();
  int64_t done = 0;
  BatchWalkOptions walk;
  walk.waiting_bytes = options.waiting_bytes;
  walk.passed = [&](size_t i) {
    done += static_cast<int64_t>(passes[i].members.size());
    if (options.progress) options.progress(done, all);
  };
  walk_batches(
      model, batches,
      [&](size_t i, const Tensor& hidden) {
        const std::vector<ScoredRow> rows = scored_rows(passes[i], readings, requests);
        score_pass(model, hidden, rows, options.want_greedy, &scores);
      },
      walk);
  return scores;
}

}  // namespace cbq
