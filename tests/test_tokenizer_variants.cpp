// Every part of tokenizer.json against the ids of the library `tokenizers`
// (tools/fixtures/make_tokenizer_variants.py).
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "nn/formats/hash.h"
#include "nn/formats/json.h"
#include "nn/text/tokenizer.h"
#include "tests/test_data.h"

namespace cbq::test_tokenizer_variants {
namespace {

using Ids = std::vector<int32_t>;
using nlohmann::json;

json read_variants(const std::filesystem::path& file) { return read_json_file(file); }

std::filesystem::path fixture() {
  return std::filesystem::path(CBQ_SOURCE_DIR) / "tests/fixtures/tokenizers/variants.json";
}

std::string hash_of(const Ids& ids) {
  return hex(hash_bytes({reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t)}));
}

/// tokenizer.json of a variant: its parts, and its model with the options that differ.
std::string tokenizer_json(const json& all, const json& variant) {
  json whole = variant["parts"];
  whole["model"] = all["models"][variant["model"].get<std::string>()];
  for (const auto& [key, value] : variant["options"].items()) whole["model"][key] = value;
  return whole.dump();
}

/// Compares ids, and texts where the library's decoder keeps all bytes. Returns the bytes of text.
size_t compare(const json& all, const std::string& name) {
  const json& variant = all["variants"][name];
  const TemporaryFolder folder;
  const auto tokenizer =
      load_tokenizer(folder.write("tokenizer.json", tokenizer_json(all, variant)));
  size_t bytes = 0;
  int failures = 0;
  for (const json& vector : variant["vectors"]) {
    const std::string text = vector[0];
    const Ids ids = tokenizer->encode(text);
    bytes += text.size();
    if (vector[1].is_string()) {
      if (hash_of(ids) == vector[1]) continue;
      ADD_FAILURE() << name << ": " << vector[0];
    } else if (ids != vector[1].get<Ids>()) {
      ADD_FAILURE() << name << ": " << vector[0] << "\n"
                    << json(ids) << " instead of\n"
                    << vector[1];
    } else {
      const std::string decoded = vector[2];
      if (decoded.find("\ufffd") != std::string::npos) continue;
      EXPECT_EQ(tokenizer->decode(ids), decoded) << name << ": " << vector[0];
      continue;
    }
    if (++failures == 5) break;
  }
  return bytes;
}

TEST(TokenizerVariants, ReferenceVectors) {
  const json all = read_variants(fixture());
  ASSERT_GT(all["variants"].size(), 60u);
  for (const auto& [name, variant] : all["variants"].items()) compare(all, name);
}

TEST(TokenizerVariants, MegabytesOfText) {
  const char* file = std::getenv("CBQ_TOKENIZER_VARIANTS");
  if (file == nullptr) {
    GTEST_SKIP() << "make_tokenizer_variants.py --fuzz makes the texts; CBQ_TOKENIZER_VARIANTS "
                    "names its variants.json";
  }
  const json all = parse_json(read_text_file(file, size_t{1} << 31), file);
  for (const auto& [name, variant] : all["variants"].items()) {
    EXPECT_GT(compare(all, name), 1u << 20) << name;
  }
}

}  // namespace
}  // namespace cbq::test_tokenizer_variants
