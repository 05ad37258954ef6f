// The reader of GGUF: values of every type, and every way in which a file can be wrong.
#include <gtest/gtest.h>

#include <cstring>

#include "nn/formats/safetensors.h"
#include "nn/gguf/gguf.h"
#include "tests/gguf_writer.h"
#include "tests/test_data.h"

namespace cbq::test::test_gguf {
namespace {

std::filesystem::path fixture_of(const char* name) {
  return std::filesystem::path(CBQ_SOURCE_DIR) / "tests/fixtures/gguf" / name;
}

/// "ok", or what opening a file of these bytes says, without the path.
std::string verdict_on(const std::string& bytes) {
  const TemporaryFolder folder;
  const auto path = folder.write("model.gguf", bytes);
  const std::string message = error_of([&] { GgufFile::open(path); });
  if (message == "(no error)") return "ok";
  EXPECT_TRUE(message.starts_with(path.string())) << message;
  return message.substr(path.string().size());
}

void expect_verdict(const std::string& bytes, const char* part) {
  const std::string verdict = verdict_on(bytes);
  EXPECT_NE(verdict.find(part), std::string::npos) << "expected: " << part << "\ngot: " << verdict;
}

TEST(Gguf, DequantizesEveryTypeAsTheReferenceDoes) {
  const GgufFile file = GgufFile::open(fixture_of("blocks.gguf"));
  const SafetensorsFile expected = SafetensorsFile::open(fixture_of("blocks.safetensors"));
  ASSERT_EQ(file.tensors().size(), 13u);
  for (const auto& [name, tensor] : file.tensors()) {
    EXPECT_STREQ(tensor.format->name, name.c_str());
    const Tensor ours = file.load(name), theirs = expected.load(name);
    ASSERT_EQ(ours.shape(), theirs.shape()) << name;
    EXPECT_EQ(std::memcmp(ours.raw(), theirs.raw(), static_cast<size_t>(ours.bytes())), 0) << name;
  }
}

TEST(Gguf, ReadsRowsOfATensor) {
  const GgufFile file = GgufFile::open(fixture_of("blocks.gguf"));
  const std::vector<float> all = file.load("Q5_K").to_vector<float>();
  std::vector<float> rows(2 * 512);
  const GgufTensor& tensor = file.tensor("Q5_K");
  file.read_rows(tensor, 1, 2, rows.data());
  EXPECT_TRUE(std::equal(rows.begin(), rows.end(), all.begin() + 512));
  EXPECT_THROW(file.read_rows(tensor, 2, 2, rows.data()), std::invalid_argument);
  EXPECT_THROW(file.read_rows(tensor, -1, 1, rows.data()), std::invalid_argument);
  EXPECT_THROW(file.tensor("absent"), std::runtime_error);
}

TEST(Gguf, ReadsFieldsOfEveryType) {
  const std::string nested = gguf_type(GgufType::array) + little_endian<uint64_t>(2) +
                             gguf_type(GgufType::u8) + little_endian<uint64_t>(1) + "x" +
                             gguf_type(GgufType::u8) + little_endian<uint64_t>(0);
  GgufBytes bytes;
  bytes.text("t", "ä").flag("b", true).real("r", 1e-5f).number("n", 4294967295u);
  bytes.field("i8", GgufType::i8, "\xff")
      .field("u64", GgufType::u64, little_endian<uint64_t>(~0ull));
  bytes.field("f64", GgufType::f64, little_endian(0.1)).texts("ts", {"a", "", "c"});
  bytes.integers("is", {-1, 7}).field("nested", GgufType::array, nested);
  bytes.field("nan", GgufType::f32, little_endian(std::numeric_limits<float>::quiet_NaN()));
  const TemporaryFolder folder;
  const GgufFile file = GgufFile::open(folder.write("m.gguf", bytes.bytes()));
  EXPECT_EQ(file.text("t"), "ä");
  EXPECT_EQ(file.text("absent", "x"), "x");
  EXPECT_TRUE(file.flag("b", false));
  EXPECT_TRUE(file.flag("absent", true));
  EXPECT_EQ(file.number("r"), 1e-5);  // not 9.999999747378752e-06
  EXPECT_EQ(file.number("f64"), 0.1);
  EXPECT_EQ(file.number("n"), 4294967295.0);
  EXPECT_EQ(file.integer("i8", -5, 5), -1);
  EXPECT_EQ(file.texts("ts"), (std::vector<std::string>{"a", "", "c"}));
  EXPECT_EQ(file.integers("is", -1, 7), (std::vector<int64_t>{-1, 7}));
  EXPECT_EQ(file.integers("n", 0, 1ll << 40), std::vector<int64_t>{4294967295});
  // Each message names the file and the field.
  expect_error<std::runtime_error>([&] { file.integer("is", 0, 9); }, {"m.gguf", "\"is\"", "list"});
  expect_error<std::runtime_error>([&] { file.integers("is", 0, 9); },
                                   {"\"is\"", "element 0", "-1", "[0, 9]"});
  expect_error<std::runtime_error>([&] { file.integer("u64", 0, 9); }, {"\"u64\"", "2^63"});
  expect_error<std::runtime_error>([&] { file.integer("r", 0, 9); }, {"\"r\"", "integers"});
  expect_error<std::runtime_error>([&] { file.number("nan"); }, {"\"nan\"", "finite"});
  expect_error<std::runtime_error>([&] { file.number("t"); }, {"\"t\"", "finite numbers"});
  expect_error<std::runtime_error>([&] { file.text("ts"); }, {"\"ts\"", "string"});
  expect_error<std::runtime_error>([&] { file.texts("t"); }, {"\"t\"", "list of strings"});
  expect_error<std::runtime_error>([&] { file.flag("n", true); }, {"\"n\"", "boolean"});
  expect_error<std::runtime_error>([&] { file.texts("nested"); }, {"\"nested\""});
  expect_error<std::runtime_error>([&] { file.text("absent"); }, {"\"absent\" is missing"});
}

TEST(Gguf, RefusesWhatIsNoGguf) {
  const std::string good = GgufBytes().text("k", "v").bytes();
  EXPECT_EQ(verdict_on(good), "ok");
  expect_verdict("", "truncated");
  expect_verdict("GGUX" + good.substr(4), "does not begin with the letters GGUF");
  expect_verdict("GGUF" + little_endian<uint32_t>(1) + good.substr(8), "version 1");
  expect_verdict("GGUF" + little_endian<uint32_t>(4) + good.substr(8), "version 4");
  expect_verdict("GGUF" + little_endian<uint32_t>(3 << 24) + good.substr(8), "big-endian");
  EXPECT_EQ(verdict_on("GGUF" + little_endian<uint32_t>(2) + good.substr(8)), "ok");
  const TemporaryFolder folder;
  expect_error<std::runtime_error>([&] { GgufFile::open(folder.path()); }, {"not a regular file"});
  expect_error<std::runtime_error>([&] { GgufFile::open(folder / "x"); }, {"cannot open"});
}

TEST(Gguf, EveryTruncationIsAnError) {
  GgufBytes bytes;
  bytes.text("key", "value").integers("list", {1, 2}).texts("words", {"a", "b"});
  bytes.values("w", {4, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
  const std::string good = bytes.bytes();
  EXPECT_EQ(verdict_on(good), "ok");
  for (size_t kept = 0; kept < good.size(); ++kept) {
    expect_verdict(good.substr(0, kept), "truncated");
  }
}

TEST(Gguf, CountsDoNotDecideAboutMemory) {
  const uint64_t huge = ~uint64_t{0};
  const auto header = [](uint64_t tensors, uint64_t fields) {
    return "GGUF" + little_endian<uint32_t>(3) + little_endian(tensors) + little_endian(fields);
  };
  for (const uint64_t count : {huge, huge / 8, uint64_t{1} << 40, uint64_t{1}}) {
    expect_verdict(header(count, 0), "tensors");
    expect_verdict(header(0, count), "fields");
  }
  const auto list = [&](GgufType type, uint64_t count) {
    return GgufBytes().field("k", GgufType::array, gguf_type(type) + little_endian(count)).bytes();
  };
  for (const GgufType type : {GgufType::u8, GgufType::f64, GgufType::string, GgufType::array}) {
    for (const uint64_t count : {huge, huge / 8, uint64_t{1} << 61, uint64_t{1} << 40}) {
      expect_verdict(list(type, count), "field \"k\" would need");
    }
  }
  for (const uint64_t size : {huge, uint64_t{1} << 40}) {
    expect_verdict(GgufBytes().field("k", GgufType::string, little_endian(size)).bytes(),
                   "field \"k\"");
    expect_verdict(header(0, 1) + little_endian(size) + std::string(64, 'x'), "key of field 0");
  }
}

TEST(Gguf, RefusesMalformedFields) {
  expect_verdict(GgufBytes().text("k", "v").number("k", 1).bytes(), "two fields \"k\"");
  expect_verdict(GgufBytes().field("k", static_cast<GgufType>(13), "").bytes(), "unknown type 13");
  expect_verdict(GgufBytes()
                     .field("k", GgufType::array, little_endian<uint32_t>(99) + little_endian(0ull))
                     .bytes(),
                 "list of the unknown type 99");
  expect_verdict(GgufBytes().field("k", GgufType::boolean, "\2").bytes(), "neither 0 nor 1");
  expect_verdict(GgufBytes().text("", "v").bytes(), "empty or not UTF-8");
  expect_verdict(GgufBytes().text("\xff", "v").bytes(), "empty or not UTF-8");
  std::string deep;
  for (int i = 0; i < 20; ++i) deep += gguf_type(GgufType::array) + little_endian<uint64_t>(1);
  expect_verdict(GgufBytes().field("k", GgufType::array, deep).bytes(), "nested deeper than 8");
}

TEST(Gguf, RefusesMalformedTensors) {
  const std::string data(64, 'x');
  const auto one = [&](const std::vector<uint64_t>& extents, uint32_t type, uint64_t offset) {
    return GgufBytes().tensor("w", extents, type, offset).data(data).bytes();
  };
  EXPECT_EQ(verdict_on(one({4, 4}, 0, 0)), "ok");
  EXPECT_EQ(verdict_on(one({4}, 0, 32)), "ok");
  expect_verdict(one({}, 0, 0), "0 dimensions");
  expect_verdict(one({1, 1, 1, 1, 1}, 0, 0), "5 dimensions");
  expect_verdict(one({0, 4}, 0, 0), "the extent 0");
  expect_verdict(one({uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0), "exceeds 64 bits");
  expect_verdict(one({~uint64_t{0}}, 0, 0), "exceeds 64 bits");
  expect_verdict(one({uint64_t{1} << 62}, 0, 0), "exceeds 64 bits");  // 2^64 bytes
  expect_verdict(one({uint64_t{1} << 60}, 0, 0), "64 bytes of data");
  expect_verdict(one({4}, 20, 0), "IQ4_NL");
  expect_verdict(one({4}, 99, 0), "type 99");
  expect_verdict(one({4}, 99, 0), "Q6_K");  // among what is supported
  expect_verdict(one({33}, 2, 0), "a block of Q4_0 has 32");
  expect_verdict(one({128}, 12, 0), "a block of Q4_K has 256");
  expect_verdict(one({4}, 0, 8), "not a multiple of the alignment 32");
  expect_verdict(one({4}, 0, 64), "64 bytes of data");
  expect_verdict(one({4}, 0, ~uint64_t{0} - 31), "64 bytes of data");
  expect_verdict(GgufBytes().tensor("w", {4}, 0, 0).tensor("w", {4}, 0, 32).data(data).bytes(),
                 "two tensors \"w\"");
  expect_verdict(GgufBytes().tensor("a", {16}, 0, 0).tensor("b", {4}, 0, 32).data(data).bytes(),
                 "tensor \"b\" begins at byte 32 of the data, within tensor \"a\"");
  expect_verdict(GgufBytes().tensor("a", {4}, 0, 0).tensor("b", {4}, 0, 0).data(data).bytes(),
                 "within tensor \"a\"");
  EXPECT_EQ(
      verdict_on(GgufBytes().tensor("b", {4}, 0, 32).tensor("a", {8}, 0, 0).data(data).bytes()),
      "ok");  // any order
}

TEST(Gguf, AlignmentIsTheFiles) {
  const auto aligned = [](uint32_t alignment, uint64_t offset) {
    return GgufBytes()
        .number("general.alignment", alignment)
        .tensor("w", {1}, 0, offset)
        .data(std::string(64, 'x'))
        .bytes(alignment == 0 ? 32 : alignment);
  };
  EXPECT_EQ(verdict_on(aligned(8, 8)), "ok");
  EXPECT_EQ(verdict_on(aligned(64, 0)), "ok");
  expect_verdict(aligned(64, 32), "not a multiple of the alignment 64");
  expect_verdict(aligned(24, 0), "not a power of two");
  expect_verdict(aligned(0, 0), "general.alignment");
}

}  // namespace
}  // namespace cbq::test::test_gguf
