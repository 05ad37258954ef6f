#include "experiments/tasks/scoring.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "autograd/var.h"
#include "kernels/ops.h"
#include "nn/json.h"
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
std::vector<int32_t> ids_of_nothing(const Tokenizer& tokenizer) {
  const int32_t id = tokenizer.bos_id() >= 0 ? tokenizer.bos_id() : tokenizer.eos_id();
  check(id >= 0, "a request has no context, and the tokenizer neither BOS nor EOS to stand for it");
  return {id};
}

std::string beginning_of(const std::string& text) {
  std::string part = text.substr(0, 40);
  while (!is_utf8(part)) part.pop_back();
  return part + (part.size() < text.size() ? "..." : "");
}

/// Sequences to run: the tokens read, and the requests that they answer.
struct Pass {
  std::vector<int32_t> inputs;
  std::vector<size_t> requests;
};

std::vector<Pass> passes_of(const std::vector<EncodedRequest>& requests) {
  std::map<std::vector<int32_t>, std::vector<size_t>> by_inputs;
  for (size_t i = 0; i < requests.size(); ++i) {
    const std::vector<int32_t>& ids = requests[i].ids;
    by_inputs[{ids.begin(), ids.end() - 1}].push_back(i);
  }
  std::vector<Pass> passes;
  for (auto& [inputs, users] : by_inputs) passes.push_back({inputs, std::move(users)});
  std::stable_sort(passes.begin(), passes.end(),
                   [](const Pass& a, const Pass& b) { return a.inputs.size() > b.inputs.size(); });
  return passes;
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

/// Runs passes [begin, end) side by side and fills the scores of their requests.
void score_batch(Transformer& model, const std::vector<EncodedRequest>& requests,
                 const std::vector<Pass>& passes, size_t begin, size_t end, bool want_greedy,
                 std::vector<RequestScore>* scores) {
  const size_t tokens = passes[begin].inputs.size();  // the longest comes first
  std::vector<int32_t> ids((end - begin) * tokens, 0), targets;
  std::vector<int64_t> rows;
  for (size_t p = begin; p < end; ++p) {
    const std::vector<int32_t>& inputs = passes[p].inputs;
    std::copy(inputs.begin(), inputs.end(),
              ids.begin() + static_cast<std::ptrdiff_t>((p - begin) * tokens));
    for (const size_t r : passes[p].requests) {
      const auto scored = static_cast<size_t>(requests[r].scored);
      for (size_t t = inputs.size() - scored; t < inputs.size(); ++t) {
        rows.push_back(static_cast<int64_t>((p - begin) * tokens + t));
        targets.push_back(requests[r].ids[t + 1]);
      }
    }
  }
  const Sequence sequence{static_cast<int64_t>(end - begin), static_cast<int64_t>(tokens)};
  const Shape shape = {static_cast<int64_t>(ids.size())};
  Var x = model.embed(Tensor::from(ids, shape, Dtype::i32, model.device()), sequence);
  for (auto& block : model.blocks) x = block->forward(x, sequence);
  const Tensor logits = model.head(Var(kernels::gather_rows(x.value(), rows))).value();
  const Tensor next =
      Tensor::from(targets, {static_cast<int64_t>(targets.size())}, Dtype::i32, model.device());
  const auto nll = kernels::cross_entropy(logits, next).to_vector<double>();
  const std::vector<bool> greedy =
      want_greedy ? greedy_rows(logits, targets) : std::vector<bool>(targets.size(), false);
  size_t at = 0;
  for (size_t p = begin; p < end; ++p) {
    for (const size_t r : passes[p].requests) {
      RequestScore& result = (*scores)[r];
      result.is_greedy = want_greedy;
      for (int64_t t = 0; t < requests[r].scored; ++t, ++at) {
        result.log_likelihood -= nll[at];
        result.is_greedy = result.is_greedy && greedy[at];
      }
      if (!std::isfinite(result.log_likelihood)) {
        throw NonFiniteError(
            "the model's output is no number: its weights are broken, or its "
            "activations exceed the range of --dtype");
      }
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
      concat("there is no encoding ", name, "; known: joint joint_without_bos separate"));
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
    result.ids = joined(ids_of_nothing(tokenizer), ids);
    result.scored = static_cast<int64_t>(ids.size());
  } else if (encoding != Encoding::separate) {
    const auto ids_of = [&](const std::string& text) {
      return encoding == Encoding::joint ? with_prefix(text, tokenizer) : tokenizer.encode(text);
    };
    const size_t last = request.context.find_last_not_of(" \t\r\n\v\f");
    const std::string front = request.context.substr(0, last + 1);
    const std::string back = request.context.substr(last + 1) + request.continuation;
    result.ids = ids_of(front + back);
    result.scored =
        static_cast<int64_t>(result.ids.size()) - static_cast<int64_t>(ids_of(front).size());
  } else {
    const std::vector<int32_t> ids = tokenizer.encode(request.continuation);
    result.ids = joined(tokenizer.encode(request.context), ids);
    result.scored = static_cast<int64_t>(ids.size());
  }
  const auto size = static_cast<int64_t>(result.ids.size());
  check(result.scored >= 1 && result.scored < size, "the continuation \"",
        beginning_of(request.continuation), "\" has no token of its own behind \"",
        beginning_of(request.context), "\"");
  check(result.scored <= context, "the continuation \"", beginning_of(request.continuation),
        "\" has ", result.scored, " tokens, more than the model's context of ", context,
        "; this task needs a model with a longer one");
  if (size > context + 1) {
    result.ids.erase(result.ids.begin(), result.ids.end() - (context + 1));
    result.truncated = true;
  }
  return result;
}

std::vector<RequestScore> score(Transformer& model, const std::vector<EncodedRequest>& requests,
                                const ScoringOptions& options) {
  check(options.batch >= 1, "scoring: the batch must be at least 1, is ", options.batch);
  NoGrad none;
  std::vector<RequestScore> scores(requests.size());
  const std::vector<Pass> passes = passes_of(requests);
  for (size_t begin = 0; begin < passes.size();) {
    const size_t end = std::min(passes.size(), begin + static_cast<size_t>(options.batch));
    score_batch(model, requests, passes, begin, end, options.want_greedy, &scores);
    begin = end;
    if (options.progress) {
      options.progress(static_cast<int64_t>(end), static_cast<int64_t>(passes.size()));
    }
  }
  return scores;
}

}  // namespace cbq
