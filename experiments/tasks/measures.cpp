#include "experiments/tasks/measures.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tensor/error.h"

namespace cbq {
namespace {

MeasuredValue mean_of(const std::string& name, const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  double sum = 0.0, squares = 0.0;
  for (const double v : values) sum += v;
  const double mean = sum / n;
  for (const double v : values) squares += (v - mean) * (v - mean);
  const double error = n > 1 ? std::sqrt(squares / (n - 1) / n) : 0.0;
  return {name, mean, error};
}

/// Index of the first largest.
int64_t best_of(const std::vector<double>& values) {
  return std::max_element(values.begin(), values.end()) - values.begin();
}

std::vector<double> log_likelihoods(const std::vector<RequestScore>& scores) {
  std::vector<double> values;
  for (const RequestScore& score : scores) values.push_back(score.log_likelihood);
  return values;
}

std::vector<MeasuredValue> measure_choices(const Task& task,
                                           const std::vector<std::vector<RequestScore>>& scores) {
  std::vector<double> acc, acc_norm, first_two, reciprocal;
  for (size_t i = 0; i < scores.size(); ++i) {
    const TaskItem& item = task.items[i];
    const auto gold = static_cast<size_t>(item.gold);
    std::vector<double> values = log_likelihoods(scores[i]);
    // 1 + how many choices are likelier than the right one.
    const auto rank =
        1 + std::count_if(values.begin(), values.end(), [&](double v) { return v > values[gold]; });
    acc.push_back(best_of(values) == item.gold ? 1.0 : 0.0);
    first_two.push_back(rank <= 2 ? 1.0 : 0.0);
    reciprocal.push_back(1.0 / static_cast<double>(rank));
    if (task.measure != Measure::normalized) continue;
    for (size_t c = 0; c < values.size(); ++c) {
      check(item.choices[c].length > 0, task.name, ": choice ", c, " of item ", i, " is empty");
      values[c] /= static_cast<double>(item.choices[c].length);
    }
    acc_norm.push_back(best_of(values) == item.gold ? 1.0 : 0.0);
  }
  if (task.measure == Measure::ranking) {
    return {mean_of("r@1", acc), mean_of("r@2", first_two), mean_of("mrr", reciprocal)};
  }
  if (task.measure == Measure::accuracy) return {mean_of("acc", acc)};
  return {mean_of("acc", acc), mean_of("acc_norm", acc_norm)};
}

std::vector<MeasuredValue> measure_words(const Task& task,
                                         const std::vector<std::vector<RequestScore>>& scores) {
  std::vector<double> values, greedy;
  for (const std::vector<RequestScore>& item : scores) {
    check(item.size() == 1, task.name, ": one continuation per item is expected, one has ",
          item.size());
    values.push_back(item[0].log_likelihood);
    greedy.push_back(item[0].is_greedy ? 1.0 : 0.0);
  }
  const MeasuredValue mean = mean_of("", values);
  const double perplexity = std::exp(-mean.value);
  return {{"perplexity", perplexity, perplexity * mean.standard_error}, mean_of("acc", greedy)};
}

}  // namespace

std::vector<MeasuredValue> measure(const Task& task,
                                   const std::vector<std::vector<RequestScore>>& scores) {
  check(!scores.empty() && scores.size() <= task.items.size(), task.name, ": ", scores.size(),
        " scores for ", task.items.size(), " items");
  for (size_t i = 0; i < scores.size(); ++i) {
    check(scores[i].size() == task.items[i].choices.size(), task.name, ": item ", i, " has ",
          task.items[i].choices.size(), " choices and ", scores[i].size(), " scores");
  }
  if (task.measure == Measure::word) return measure_words(task, scores);
  for (size_t i = 0; i < scores.size(); ++i) {
    if (task.items[i].gold < 0) return {};
  }
  return measure_choices(task, scores);
}

TaskResult evaluate_task(Transformer& model, const Tokenizer& tokenizer, const Task& task,
                         Encoding encoding, int64_t limit, ScoringOptions options) {
  const auto all = static_cast<int64_t>(task.items.size());
  check(all > 0, task.name, ": there are no items");
  const auto count = static_cast<size_t>(limit > 0 ? std::min(limit, all) : all);
  options.want_greedy |= task.measure == Measure::word;
  const auto start = std::chrono::steady_clock::now();
  TaskResult result;
  result.name = task.name;
  result.items = all;
  result.source = task.source;
  result.source_hash = task.source_hash;
  std::vector<EncodedRequest> requests;
  for (size_t i = 0; i < count; ++i) {
    for (const Request& request : task.items[i].choices) {
      // Said before the scoring, not hours later.
      check(task.measure != Measure::normalized || request.length > 0, task.name,
            ": a choice of item ", i, " is empty");
      requests.push_back(encode(request, tokenizer, encoding, model.config.context()));
      result.truncated += requests.back().truncated;
    }
  }
  const std::vector<RequestScore> scores = score(model, requests, options);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  size_t at = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t choices = task.items[i].choices.size();
    const auto first = scores.begin() + static_cast<std::ptrdiff_t>(at);
    result.scores.emplace_back(first, first + static_cast<std::ptrdiff_t>(choices));
    at += choices;
  }
  result.values = measure(task, result.scores);
  return result;
}

TaskResult mean_accuracy(const std::string& name, const std::vector<const TaskResult*>& subsets) {
  check(!subsets.empty(), name, ": no subset to take the mean of");
  TaskResult result;
  result.name = name;
  MeasuredValue mean{"acc", 0.0, 0.0};
  for (const TaskResult* subset : subsets) {
    check(!subset->values.empty() && subset->values[0].name == "acc", name, ": ", subset->name,
          " has no accuracy");
    mean.value += subset->values[0].value;
    mean.standard_error += subset->values[0].standard_error * subset->values[0].standard_error;
    result.items += subset->items;
  }
  const auto n = static_cast<double>(subsets.size());
  mean.value /= n;
  mean.standard_error = std::sqrt(mean.standard_error) / n;
  result.values = {mean};
  return result;
}

nlohmann::json to_harness_json(const std::vector<TaskResult>& results, Encoding encoding) {
  nlohmann::json json;
  for (const TaskResult& r : results) {
    nlohmann::json& values = json["results"][r.name] = {{"alias", r.name}};
    nlohmann::json& better = json["higher_is_better"][r.name] = nlohmann::json::object();
    for (const MeasuredValue& v : r.values) {
      values[v.name + ",none"] = v.value;
      values[v.name + "_stderr,none"] = v.standard_error;
      better[v.name] = v.name != "perplexity";
    }
    json["n-shot"][r.name] = 0;
    if (r.scores.empty()) continue;  // a mean of others
    json["n-samples"][r.name] = {{"original", r.items}, {"effective", r.scores.size()}};
    json["configs"][r.name] = {{"task", r.name},
                               {"encoding", name_of(encoding)},
                               {"truncated_requests", r.truncated},
                               {"source", r.source},
                               {"requests_hash", r.source_hash}};
  }
  return json;
}

}  // namespace cbq
