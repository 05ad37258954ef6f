// cbq tokenize: text -> token file.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "experiments/command_line.h"
#include "experiments/token_source.h"
#include "nn/formats/output_lock.h"
#include "nn/text/tokens.h"
#include "tools/cli/command.h"

namespace cbq::cli {
namespace {

struct Options {
  std::vector<std::string> texts;
  std::string tokenizer, output;
  int64_t length = 0, count = 0;
  uint64_t seed = 0;
};

void tokenize_texts(const Options& o) {
  const OutputLock lock(o.output);  // a place that cannot be written is found here
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(o.tokenizer);
  const std::vector<int32_t> ids = tokenize_files(o.texts, *tokenizer);
  TokenSet set;
  if (o.length == 0) {
    check(o.count == 0, "--segments needs --segment-length");
    set.segments = {ids};
    set.protocol = "one text";
  } else {
    set = o.count > 0 ? random_segments(ids, o.count, o.length, o.seed)
                      : consecutive_segments(ids, o.length);
  }
  set.tokenizer_hash = tokenizer->hash();
  save_tokens(o.output, set);
  std::cout << o.output << ": " << set.token_count() << " tokens, " << set.protocol << "\n";
}

}  // namespace

Action setup_tokenize(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("text", o->texts, "text files (.txt, .jsonl), joined in this order")->required();
  app.add_option("--tokenizer", o->tokenizer, "tokenizer file, or a folder with one")->required();
  app.add_option("-o,--output", o->output, "token file to write (.h5)")->required();
  app.add_option("--segment-length", o->length,
                 "cut into consecutive segments of this many tokens; 0: one long text");
  app.add_option("--segments", o->count, "instead this many segments at random places");
  app.add_option("--seed", o->seed, "of the random places")
      ->capture_default_str()
      ->check(refuse_negative);
  return [o] { tokenize_texts(*o); };
}

}  // namespace cbq::cli
