#include "tools/reference/real_model.h"

#include "experiments/inputs.h"
#include "nn/perplexity.h"
#include "nn/text/documents.h"
#include "nn/text/tokens.h"

namespace cbq {
namespace {

constexpr int64_t segment_length = 512;

/// Segments number 0, `every`, 2 `every`, ... of `ids`, at most `count`.
std::vector<std::vector<int32_t>> segments_of(const std::vector<int32_t>& ids, int64_t every,
                                              int64_t count) {
  const TokenSet all = consecutive_segments(ids, segment_length);
  std::vector<std::vector<int32_t>> chosen;
  for (int64_t i = 0; i < all.count() && static_cast<int64_t>(chosen.size()) < count; i += every) {
    chosen.push_back(all.segments[static_cast<size_t>(i)]);
  }
  return chosen;
}

}  // namespace

void real_model_rows(const std::filesystem::path& data, bool fast, Report& report) {
  const std::filesystem::path folder = model_folder("smollm2", project_root());
  require_file(folder / "config.json", "model", "./setup.sh smollm2 makes it");
  const auto tokenizer = load_tokenizer(folder);
  const std::vector<int32_t> test =
      tokenize(join_wikitext_rows(read_text(data / "wikitext-2/wiki.test.raw")), *tokenizer);
  const std::vector<int32_t> calibration =
      tokenize(read_text(data / "wikitext-2/wiki.valid.tokens"), *tokenizer);
  const Documents documents = Documents::read({data / "webtext/c4_en_sample_30docs.jsonl"});
  std::string joined;
  for (int64_t i = 0; i < documents.count(); ++i) {
    if (i > 0) joined += '\n';
    joined += documents.text(i);
  }
  const std::vector<int32_t> c4 = tokenize(joined, *tokenizer);
  const auto count = [](const auto& ids) { return static_cast<double>(ids.size()); };
  report.near("smollm2: ids of WikiText-2's test text", count(test), 304978, 0);
  report.near("smollm2: ids of WikiText-2's validation text", count(calibration), 273868, 0);
  report.near("smollm2: ids of 30 documents of C4", count(c4), 12025, 0);

  const auto model = load_model(folder, Dtype::f32, Device::cpu());
  const auto mean_nll = [&](const std::vector<std::vector<int32_t>>& segments) {
    return perplexity(*model, segments).mean_nll();
  };
  if (fast) {
    report.near("smollm2: WikiText-2, segments 0 and 4", mean_nll(segments_of(test, 4, 2)),
                3.227683, 1e-5);
    return;
  }
  report.near("smollm2: WikiText-2, 40 segments", mean_nll(segments_of(test, 4, 40)), 3.371610,
              1e-5);
  report.near("smollm2: WikiText-2, 20 segments (test)", mean_nll(segments_of(test, 4, 20)),
              3.398377, 1e-5);
  report.near("smollm2: C4, 12 segments", mean_nll(segments_of(c4, 1, 12)), 3.572581, 1e-5);
}

}  // namespace cbq
