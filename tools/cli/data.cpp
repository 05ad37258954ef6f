// cbq data: known data sets -> token files, by the protocols that papers report.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "experiments/command_line.h"
#include "nn/formats/hash.h"
#include "nn/formats/output_lock.h"
#include "nn/text/gptq_samples.h"
#include "nn/text/tokens.h"
#include "tools/cli/command.h"

namespace cbq::cli {
namespace {

struct Options {
  std::string protocol;
  std::vector<std::string> files;
  std::string tokenizer, output;
  int64_t length = 0, count = 128;
  uint64_t seed = 0;
  int64_t skip = 0, every = 1, at_most = 0;  // of the segments made, those that are written
};

Documents documents_of(const Options& o) {
  return Documents::read({o.files.begin(), o.files.end()});
}

/// One segment per text.
TokenSet single_texts(const Options& o, const Tokenizer& tokenizer) {
  const Documents documents = documents_of(o);
  TokenSet set;
  set.protocol = "each text on its own";
  set.source_hash = documents.hash();
  SkippedRows skipped(documents.name());
  for (int64_t i = 0; i < documents.count(); ++i) {
    const std::optional<std::string> text = documents.try_text(i, &skipped);
    if (!text) continue;
    set.segments.push_back(tokenize(*text, tokenizer));
    set.documents.push_back(i);
  }
  check(!set.segments.empty(), documents.name(), ": no row can be read: ", skipped.first_reason());
  skipped.report(documents.count());
  return set;
}

/// `whole`: the protocol of a text that stays one segment.
TokenSet segments_of_text(const Options& o, const Tokenizer& tokenizer, const std::string& text,
                          bool samples, const char* whole = "one text") {
  const std::vector<int32_t> ids = tokenize(text, tokenizer);
  TokenSet set;
  if (samples) {
    set = gptq_text_segments(ids, o.count, o.length, o.seed);
  } else if (o.length > 0) {
    set = consecutive_segments(ids, o.length);
  } else {
    set.segments = {ids};
    set.protocol = whole;
  }
  set.source_hash = hex(hash_bytes(text));
  return set;
}

std::string text_of_files(const Options& o) {
  std::string text;
  for (const std::string& file : o.files) text += read_text(file);
  return text;
}

TokenSet plain_text(const Options& o, const Tokenizer& tokenizer, bool samples) {
  return segments_of_text(o, tokenizer, text_of_files(o), samples);
}

/// WikiText of all files: raw text, one row per line.
TokenSet wikitext(const Options& o, const Tokenizer& tokenizer, bool samples) {
  const std::string rows = text_of_files(o);
  TokenSet set = segments_of_text(o, tokenizer, join_wikitext_rows(rows), samples,
                                  "rows joined as GPTQ joins them");
  set.source_hash = hex(hash_bytes(rows));
  return set;
}

/// All documents as one text, a newline between two.
TokenSet joined_documents(const Options& o, const Tokenizer& tokenizer) {
  const Documents documents = documents_of(o);
  std::string text;
  for (int64_t i = 0; i < documents.count(); ++i) text += (i > 0 ? "\n" : "") + documents.text(i);
  return segments_of_text(o, tokenizer, text, false);
}

/// Of the segments numbered 0, 1, ..., those numbered skip, skip + every, skip + 2 every, ...
void select_segments(const Options& o, TokenSet* set) {
  check(o.skip >= 0 && o.every >= 1 && o.at_most >= 0,
        "--skip and --at-most must not be negative, --every must be at least 1");
  if (o.skip == 0 && o.every == 1 && (o.at_most == 0 || o.at_most >= set->count())) return;
  std::vector<int64_t> chosen;
  for (int64_t i = o.skip; i < set->count(); i += o.every) {
    if (o.at_most > 0 && static_cast<int64_t>(chosen.size()) == o.at_most) break;
    chosen.push_back(i);
  }
  check(!chosen.empty(), "--skip ", o.skip, ": there are only ", set->count(), " segments");
  *set = set->chosen(chosen);
  set->protocol +=
      concat(", ", chosen.size(), " of them: number ", o.skip, ", then every ", o.every, "th");
}

struct Protocol {
  const char* name;
  const char* help;
  bool needs_length;
  TokenSet (*make)(const Options&, const Tokenizer&);
};

constexpr Protocol protocols[] = {
    {"wikitext2", "WikiText-2's rows joined as GPTQ does, whole or in consecutive segments", false,
     [](const Options& o, const Tokenizer& t) { return wikitext(o, t, false); }},
    {"wikitext2-samples", "of that, --segments at the random places GPTQ draws", true,
     [](const Options& o, const Tokenizer& t) { return wikitext(o, t, true); }},
    {"c4-samples",
     "C4 (.json, .json.gz): --segments from random long documents, as GPTQ draws them", true,
     [](const Options& o, const Tokenizer& t) {
       return gptq_document_segments(documents_of(o), t, o.count, o.length, o.seed);
     }},
    {"c4-validation", "C4's validation shard: 256 segments, drawn so with seed 0", true,
     [](const Options& o, const Tokenizer& t) {
       return gptq_document_segments(documents_of(o), t, 256, o.length, 0);
     }},
    {"c4-new", "C4's validation shard: the first 1,100 documents, at most 256 segments", true,
     [](const Options& o, const Tokenizer& t) {
       return c4_new_segments(documents_of(o), t, o.length);
     }},
    {"lambada", "LAMBADA (.jsonl with \"text\"): each text on its own", false, single_texts},
    {"c4-joined", "C4: all documents, a newline between two, whole or in consecutive segments",
     false, joined_documents},
    {"text", "any text, whole or in consecutive segments", false,
     [](const Options& o, const Tokenizer& t) { return plain_text(o, t, false); }},
    {"text-samples", "any text: --segments at the random places that GPTQ's rule draws", true,
     [](const Options& o, const Tokenizer& t) { return plain_text(o, t, true); }},
};

const Protocol& protocol_of(const std::string& name) {
  std::string known;
  for (const Protocol& p : protocols) {
    if (name == p.name) return p;
    known += concat(" ", p.name);
  }
  throw std::invalid_argument(message_of("there is no protocol ", name, "; known:", known));
}

void make_data(const Options& o) {
  const OutputLock lock(o.output);  // a place that cannot be written is found here
  const Protocol& protocol = protocol_of(o.protocol);
  check(o.length > 0 || !protocol.needs_length, o.protocol, " needs --segment-length");
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(o.tokenizer);
  TokenSet set = protocol.make(o, *tokenizer);
  set.tokenizer_hash = tokenizer->hash();
  select_segments(o, &set);
  if (o.protocol != "text") set.protocol = concat(o.protocol, ": ", set.protocol);
  save_tokens(o.output, set);
  std::cout << o.output << ": " << set.token_count() << " tokens in " << set.count()
            << " segment(s); " << set.protocol << "\n";
}

}  // namespace

Action setup_data(CLI::App& app) {
  auto o = std::make_shared<Options>();
  std::string help = "how the text becomes segments:";
  for (const Protocol& p : protocols) help += concat("\n  ", p.name, ": ", p.help);
  app.add_option("protocol", o->protocol, help)->required();
  app.add_option("files", o->files, "files of the data set, in this order")->required();
  app.add_option("--tokenizer", o->tokenizer, "tokenizer file, or a folder with one")->required();
  app.add_option("-o,--output", o->output, "token file to write (.h5)")->required();
  app.add_option("--segment-length", o->length, "tokens per segment");
  app.add_option("--segments", o->count, "how many, where the protocol draws them")
      ->capture_default_str();
  app.add_option("--seed", o->seed, "of Python's random.seed, where the protocol draws")
      ->check(refuse_negative)
      ->capture_default_str();
  app.add_option("--skip", o->skip, "write the segments from this one on (the first is 0)");
  app.add_option("--every", o->every, "write every Nth of these segments");
  app.add_option("--at-most", o->at_most, "of these, so many; 0: all");
  return [o] { make_data(*o); };
}

}  // namespace cbq::cli
