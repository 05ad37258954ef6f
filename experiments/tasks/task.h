// Zero-shot tasks: what is asked, and how the answers are judged.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace cbq {

/// How likely is `continuation` behind `context`?
struct Request {
  std::string context, continuation;
  /// Of the choice as the data set writes it (no space in front), for acc_norm; in code points.
  int64_t length = 0;
};

/// One question: the choices it has, and which is right.
struct TaskItem {
  std::vector<Request> choices;
  int64_t gold = -1;  // -1: not known (a request file may leave it out)
};

/// What is reported of a task.
enum class Measure {
  accuracy,    // acc: the likeliest choice is the right one (the first of equals)
  normalized,  // acc and acc_norm: log-likelihoods divided by the choices' lengths
  ranking,     // MuTual: r@1, r@2 (the right one is first, among the first two), mrr
  word  // LAMBADA: perplexity of the only choice; acc: every one of its tokens is the likeliest
};

struct Task {
  std::string name;
  Measure measure = Measure::normalized;
  std::vector<TaskItem> items;
  std::string source;       // the file(s) it was read from
  std::string source_hash;  // 16 hexadecimal digits of their bytes
};

}  // namespace cbq
