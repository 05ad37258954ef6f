// Texts, documents and token ids.
#include <zlib.h>

#include "nn/formats/json.h"
#include "nn/text/documents.h"
#include "nn/text/gptq_samples.h"
#include "nn/text/tokens.h"
#include "tensor/error.h"
#include "tests/byte_tokenizer.h"
#include "tests/fuzz/fuzz.h"

namespace fs = std::filesystem;

namespace cbq::fuzz {
namespace {

constexpr const char* documents_text =
    "{\"text\": \"The first document, with \\u00fc and \\ud83d\\ude00.\", \"url\": \"x\"}\n"
    "{\"timestamp\": 3, \"text\": \"A second one\\nof two lines that is somewhat longer.\"}\n\n"
    "{\"text\": \"The third.\", \"meta\": {\"a\": [1, 2, null]}}\n";

/// zlib's own limits on what a window may refer to are part of what is tested: level 1 to 9.
std::string gzipped(const std::string& text, int level) {
  std::string bytes(text.size() + 1024, '\0');
  z_stream stream{};
  if (deflateInit2(&stream, level, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
    fail("deflateInit2");
  }
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(bytes.data());
  stream.avail_out = static_cast<uInt>(bytes.size());
  const bool done = deflate(&stream, Z_FINISH) == Z_STREAM_END;
  bytes.resize(stream.total_out);
  deflateEnd(&stream);
  if (!done) fail("deflate");
  return bytes;
}

void read_documents(const fs::path& file) {
  const Documents documents = Documents::read({file}, size_t{64} << 20);
  for (int64_t i = 0; i < documents.count(); ++i) documents.text(i);
  documents.hash();
}

const bool json = add_target(
    {.name = "json",
     .format = Format::json,
     .file = "file.json",
     .seeds =
         [](const fs::path& folder) {
           write_seed(folder, 0, "file.json",
                      R"({"a": [1, -2, 3.5e-3, {"b": null}], "c": "\u00fc\n", "d": {"e": {}}})");
           write_seed(folder, 1, "file.json",
                      "[[[]], {}, true, false, \"\", 18446744073709551615]");
         },
     .run = [](const fs::path& file) { read_json_file(file, size_t{1} << 22).dump(); }});

const bool documents = add_target(
    {.name = "documents",
     .format = Format::json,
     .file = "documents.jsonl",
     .seeds = [](const fs::path& f) { write_seed(f, 0, "documents.jsonl", documents_text); },
     .run = read_documents});

const bool documents_gz =
    add_target({.name = "documents_gz",
                .format = Format::binary,
                .file = "documents.json.gz",
                .seeds =
                    [](const fs::path& folder) {
                      std::string many;
                      for (int i = 0; i < 100; ++i) many += documents_text;
                      write_seed(folder, 0, "documents.json.gz", gzipped(documents_text, 9));
                      write_seed(folder, 1, "documents.json.gz", gzipped(many, 1));
                      write_seed(folder, 2, "documents.json.gz", documents_text);
                      write_seed(folder, 3, "documents.json.gz",
                                 gzipped(documents_text, 6) + gzipped(documents_text, 6));
                    },
                .run = read_documents});

const bool gptq_samples = add_target(
    {.name = "gptq_samples",
     .format = Format::json,
     .file = "c4.json",
     .seeds =
         [](const fs::path& folder) {
           write_seed(folder, 0, "c4.json", documents_text);
           write_seed(folder, 1, "c4.json", std::string(documents_text) + documents_text);
         },
     .run =
         [](const fs::path& file) {
           const Documents documents = Documents::read({file}, size_t{64} << 20);
           const ByteTokenizer tokenizer(256, false);
           gptq_document_segments(documents, tokenizer, 3, 8, 0).hash();
           const TokenSet set = c4_new_segments(documents, tokenizer, 8);
           gptq_text_segments(set.segments.at(0), 2, 4, 0).hash();
         },
     .names = {"documents has more than", "tokens, less than one segment"}});

const bool text = add_target(
    {.name = "text",
     .format = Format::text,
     .file = "text.txt",
     .seeds =
         [](const fs::path& folder) {
           write_seed(folder, 0, "text.txt", " = Title = \n \n A line of \xc3\xbc text . \n \n");
           write_seed(folder, 1, "text.txt", "One\r\ntwo\rthree\n\xf0\x9f\x98\x80");
         },
     .run = [](const fs::path& file) { join_wikitext_rows(read_text(file)); }});

const bool text_jsonl =
    add_target({.name = "text_jsonl",
                .format = Format::json,
                .file = "text.jsonl",
                .seeds = [](const fs::path& f) { write_seed(f, 0, "text.jsonl", documents_text); },
                .run = [](const fs::path& file) { read_text(file); }});

const bool text_gz =
    add_target({.name = "text_gz",
                .format = Format::binary,
                .file = "text.txt.gz",
                .seeds =
                    [](const fs::path& folder) {
                      write_seed(folder, 0, "text.txt.gz", gzipped(documents_text, 6));
                      write_seed(folder, 1, "text.txt.gz", gzipped(std::string(100000, 'a'), 9));
                    },
                .run = [](const fs::path& file) { read_text(file); }});

const bool token_ids_json =
    add_target({.name = "token_ids_json",
                .format = Format::json,
                .file = "ids.json",
                .seeds =
                    [](const fs::path& folder) {
                      write_seed(folder, 0, "ids.json",
                                 R"({"test": [[1, 2, 3], [4, 5, 6]], "calibration": [[7]]})");
                      write_seed(folder, 1, "ids.json", "[[1, 2], [3]]");
                    },
                .run =
                    [](const fs::path& file) {
                      const bool is_list = read_bytes(file).starts_with('[');
                      const TokenSet set = tokens_from_json(file, is_list ? "" : "test");
                      set.hash();
                      set.slice(0, set.count());
                    }});

}  // namespace
}  // namespace cbq::fuzz
