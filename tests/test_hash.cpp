// Hashes that are in files of earlier runs: caches, runs to resume, token files.
#include <gtest/gtest.h>

#include "nn/formats/hash.h"

namespace cbq::test_hash {
namespace {

// Computed by a second program from the definitions (nn/formats/hash.h).
TEST(Hash, IsWhatFilesHold) {
  struct Row {
    const char *text, *hash, *digest;
  };
  for (const Row& row :
       {Row{"", "865b95931d97978f", "40c802951014803dae40f5be036397ba"},
        Row{"abc", "119e3e513d4d6635", "885f7a89c9f8e80a7ebfd26fecbf8fce"},
        Row{"abcdefgh", "c1b5732848ef0cb2", "0d1c807f124c7cc2d325bda6f4d97dbb"},
        Row{"The quick brown fox", "9a38730a317d5c15", "90a439caf9d59656452542e94e5719b8"}}) {
    EXPECT_EQ(hex(hash_bytes(row.text)), row.hash) << row.text;
    EXPECT_EQ(Digest().add(std::string_view(row.text)).hex(), row.digest) << row.text;
  }
  EXPECT_EQ(Digest().add("ab").add(int64_t{7}).hex(), "8912cba1bf584b637d67d3216c587d6c");
}

TEST(Hash, SeesEveryByte) {
  EXPECT_EQ(hex(0x123456789abcdefull), "0123456789abcdef");
  EXPECT_NE(hash_bytes(""), hash_bytes(std::string_view("\0", 1)));
  EXPECT_NE(hash_bytes("abcdefgh"), hash_bytes(std::string_view("abcdefgh\0", 9)));
  EXPECT_NE(hash_bytes("ab", hash_bytes("c")), hash_bytes("c", hash_bytes("ab")));
  const std::string text(100, 'a');
  for (size_t i = 0; i < text.size(); ++i) {
    std::string other = text;
    other[i] ^= 1;
    EXPECT_NE(hash_bytes(other), hash_bytes(text)) << i;
    EXPECT_NE(Digest().add(other).hex(), Digest().add(text).hex()) << i;
  }
}

TEST(Hash, ADigestTellsPartsTensorsAndDtypesApart) {
  EXPECT_NE(Digest().add("ab").add("c").hex(), Digest().add("a").add("bc").hex());
  const Tensor x = Tensor::from<float>({1, 2}, {2}), row = x.reshape({1, 2});
  EXPECT_EQ(Digest().add(x).hex(), Digest().add(x.clone()).hex());
  EXPECT_NE(Digest().add(x).hex(), Digest().add(row).hex());
  EXPECT_NE(Digest().add(Tensor::zeros({1}, Dtype::f32)).hex(),
            Digest().add(Tensor::zeros({1}, Dtype::i32)).hex());
}

}  // namespace
}  // namespace cbq::test_hash
