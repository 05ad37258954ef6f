// cbq generate: what a model writes, and beside it what another one, say its quantized form, does.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cbq/generation.h"
#include "cbq/watch.h"
#include "experiments/command_line.h"
#include "experiments/model_loading.h"
#include "experiments/token_source.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/output_lock.h"
#include "nn/text/text_stream.h"
#include "nn/text/tokens.h"
#include "tools/cli/command.h"

namespace cbq::cli {
namespace {

using nlohmann::json;

struct Options {
  std::string model, compare, tokenizer, prompt_file, json_file;
  std::vector<std::string> prompts;
  GenerationSettings settings;
  LoadOptions loading;
  ComputeOptions compute;
};

struct Continuation {
  std::string tokenizer;  // its hash
  std::vector<int32_t> prompt;
  Generation made;
  std::string text;
};

std::vector<std::string> prompts_of(const Options& o) {
  std::vector<std::string> prompts = o.prompts;
  if (!o.prompt_file.empty()) prompts.push_back(read_text(o.prompt_file));
  if (prompts.empty()) prompts.emplace_back();
  return prompts;
}

/// An empty prompt is the token that begins a text.
std::vector<int32_t> ids_of(const std::string& prompt, const Tokenizer& tokenizer,
                            const ModelConfig& config) {
  if (!prompt.empty()) return tokenize(prompt, tokenizer);
  check(config.bos_token_id >= 0, "this model has no token that begins a text; give a --prompt");
  return {static_cast<int32_t>(config.bos_token_id)};
}

const char* text_of(StopReason reason) {
  switch (reason) {
    case StopReason::end_of_text:
      return "the model ended the text";
    case StopReason::context_is_full:
      return "the model's context is full";
    case StopReason::enough_tokens:
      break;
  }
  return "--tokens reached";
}

/// Writes the continuation to standard output as it grows.
Continuation continue_prompt(Transformer& model, const Tokenizer& tokenizer,
                             const std::string& prompt, const GenerationSettings& settings) {
  Continuation c;
  c.tokenizer = tokenizer.hash();
  c.prompt = ids_of(prompt, tokenizer, model.config);
  TextStream stream(tokenizer, c.prompt);
  const auto show = [&](const std::string& piece) {
    c.text += piece;
    std::cout << piece << std::flush;
  };
  std::cout << prompt;
  c.made = generate(model, c.prompt, settings, [&](int32_t id) {
    show(stream.add(id));
    if (interrupted()) throw Interrupted("interrupted");
  });
  show(stream.rest());
  std::cout << "\n" << std::flush;
  std::cerr << fmt::format("({} tokens; {})", c.made.ids.size(), text_of(c.made.reason))
            << std::endl;
  return c;
}

json json_of(const std::string& folder, const Continuation& c) {
  return {{"model", folder},
          {"text", c.text},
          {"ids", c.made.ids},
          {"stopped", text_of(c.made.reason)}};
}

/// How many tokens two continuations have in common before they part.
size_t common_length(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  size_t n = 0;
  while (n < a.size() && n < b.size() && a[n] == b[n]) ++n;
  return n;
}

class Generate {
 public:
  explicit Generate(const Options& o)
      : o_(o), prompts_(prompts_of(o)), device_(o.compute.apply()) {}

  void run() {
    std::optional<OutputLock> lock;
    if (!o_.json_file.empty()) lock.emplace(o_.json_file);
    catch_interrupts();
    const std::vector<Continuation> first = all_of(o_.model, nullptr);
    if (!o_.compare.empty()) all_of(o_.compare, &first);
  }

 private:
  /// One model at a time is in memory. `other`: what to compare with.
  std::vector<Continuation> all_of(const std::string& folder,
                                   const std::vector<Continuation>* other) {
    const auto say = [](const std::string& line) { std::cerr << line << std::endl; };
    const auto model =
        o_.loading.open(folder, o_.compute.dtype_for(folder, device_), device_, {say, interrupted});
    const auto tokenizer =
        tokenizer_for(model->config.vocab_size, o_.tokenizer.empty() ? folder : o_.tokenizer);
    if (!o_.compare.empty()) std::cout << "---- " << folder << "\n";
    std::vector<Continuation> all;
    for (size_t i = 0; i < prompts_.size(); ++i) {
      all.push_back(continue_prompt(*model, *tokenizer, prompts_[i], o_.settings));
      json result = json_of(folder, all.back());
      if (other != nullptr) compare(*model, all.back(), (*other)[i], result);
      results_.push_back(result);
      write();
    }
    return all;
  }

  /// All that is finished so far: what comes may be interrupted, or fail.
  void write() const {
    if (o_.json_file.empty()) return;
    // A text may end within a character.
    write_text_atomically(o_.json_file,
                          results_.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  }

  void compare(Transformer& model, const Continuation& mine, const Continuation& other,
               json& result) const {
    if (mine.tokenizer != other.tokenizer || mine.prompt != other.prompt) {
      std::cout << "(the tokenizers differ: nothing to compare token by token)\n";
      return;
    }
    if (other.made.ids.empty()) return;
    const size_t same = common_length(mine.made.ids, other.made.ids);
    const Agreement a = agreement(model, other.prompt, other.made.ids);
    std::cout << fmt::format(
        "(the first {} tokens are those of {}; of all {} tokens there, this model finds {} the "
        "likeliest as well, each behind the text before it: mean NLL {:.4f})\n",
        same, o_.model, a.tokens, a.likeliest, a.mean_nll);
    result["compared"] = {{"with", o_.model},
                          {"same_tokens", same},
                          {"tokens", a.tokens},
                          {"likeliest_too", a.likeliest},
                          {"mean_nll", a.mean_nll}};
  }

  const Options& o_;
  std::vector<std::string> prompts_;
  Device device_;
  json results_ = json::array();
};

}  // namespace

Action setup_generate(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("model", o->model, "model folder, floating point or quantized")->required();
  app.add_option("--prompt", o->prompts,
                 "text to continue, once or several times; none: the model begins a text");
  app.add_option("--prompt-file", o->prompt_file, "a file that holds a prompt");
  app.add_option("--compare", o->compare, "another model folder: its text, and how far both agree");
  app.add_option("--tokens", o->settings.tokens, "new tokens, at most")
      ->capture_default_str()
      ->check(expect_positive);
  app.add_option("--temperature", o->settings.temperature,
                 "0: always the likeliest token; else tokens are drawn from softmax(logits / "
                 "temperature)")
      ->capture_default_str();
  app.add_option("--seed", o->settings.seed, "of the draws")
      ->capture_default_str()
      ->check(refuse_negative);
  app.add_option("--tokenizer", o->tokenizer, "default: the model folder's own");
  app.add_option("--json", o->json_file, "write texts, ids and the comparison to this file, too");
  o->loading.add_to(app);
  o->compute.add_to(app);
  return [o] { Generate(*o).run(); };
}

}  // namespace cbq::cli
