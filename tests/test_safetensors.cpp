#include <cstring>

#include "nn/formats/json.h"
#include "nn/formats/safetensors.h"
#include "tensor/error.h"
#include "tests/test_data.h"

namespace cbq::test_safetensors {
namespace {

/// A file of the format: length, header, data.
std::string bytes_of(const std::string& header, const std::string& data = "") {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + header + data;
}

std::string verdict_on(const std::string& bytes) {
  const TemporaryFolder folder;
  const auto path = folder.write("model.safetensors", bytes);
  const std::string message = error_of([&] { SafetensorsFile::open(path); });
  if (message == "(no error)") return "ok";
  EXPECT_TRUE(message.starts_with(path.string() + ": ")) << message;
  return message.substr(path.string().size() + 2);
}

void expect_verdict(const std::string& bytes, const std::string& kind) {
  const std::string verdict = verdict_on(bytes);
  EXPECT_TRUE(verdict.starts_with(kind + ":")) << "expected " << kind << ", got " << verdict;
}

TEST(Safetensors, ReferenceVectors) {
  SKIP_WITHOUT_TEST_DATA();
  const auto vectors = read_json_file(test_data() / "safetensors/deserialize_vectors.json");
  ASSERT_EQ(vectors.size(), 16u);
  for (const auto& vector : vectors) {
    const std::string hex = vector["hex"];
    std::string bytes;
    for (size_t i = 0; i < hex.size(); i += 2) {
      bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    }
    const std::string expected = vector["expect"];
    SCOPED_TRACE(vector["test"].get<std::string>());
    if (expected == "ok") {
      EXPECT_EQ(verdict_on(bytes), "ok");
    } else {
      expect_verdict(bytes, expected.substr(std::strlen("error:")));
    }
  }
}

TEST(Safetensors, RefusesOverlapsHolesAndWrongSizes) {
  const std::string four(4, 'x'), eight(8, 'x');
  const auto two = [](const char* first, const char* second) {
    return std::string(R"({"a":{"dtype":"I32","shape":[1],"data_offsets":)") + first +
           R"(},"b":{"dtype":"I32","shape":[1],"data_offsets":)" + second + "}}";
  };
  EXPECT_EQ(verdict_on(bytes_of(two("[4,8]", "[0,4]"), eight)), "ok");
  expect_verdict(bytes_of(two("[0,4]", "[0,4]"), four), "InvalidOffset");
  expect_verdict(bytes_of(two("[0,4]", "[8,12]"), eight + four), "InvalidOffset");
  expect_verdict(bytes_of(two("[4,8]", "[8,12]"), eight + four), "InvalidOffset");
  expect_verdict(bytes_of(two("[0,4]", "[4,2]"), four), "InvalidOffset");
  expect_verdict(bytes_of(two("[0,4]", "[4,8]"), four), "MetadataIncompleteBuffer");
  expect_verdict(bytes_of(two("[0,4]", "[4,8]"), eight + "x"), "MetadataIncompleteBuffer");
  expect_verdict(bytes_of("{}", "x"), "MetadataIncompleteBuffer");
  std::string ten = "{";
  for (int i = 0; i < 10; ++i) {
    ten += "\"" + std::to_string(i) + R"(":{"dtype":"I32","shape":[4],"data_offsets":[0,16]},)";
  }
  ten.back() = '}';
  expect_verdict(bytes_of(ten, eight + eight), "InvalidOffset");
}

TEST(Safetensors, RefusesWrongHeaders) {
  const auto one = [](const std::string& fields) { return bytes_of("{\"a\":{" + fields + "}}"); };
  const char* kind = "InvalidHeaderDeserialization";
  expect_verdict(bytes_of("[]"), kind);
  expect_verdict(bytes_of("{} {}"), kind);
  expect_verdict(bytes_of(std::string("{}\0x", 4)), kind);
  expect_verdict(bytes_of(R"({"a":3})"), kind);
  expect_verdict(bytes_of(R"({"__metadata__":{"k":1}})"), kind);
  expect_verdict(one(R"("shape":[],"data_offsets":[0,0])"), kind);
  expect_verdict(one(R"("dtype":"F99","shape":[0],"data_offsets":[0,0])"), kind);
  expect_verdict(one(R"("dtype":"F32","shape":[-1],"data_offsets":[0,0])"), kind);
  expect_verdict(one(R"("dtype":"F32","shape":[0.0],"data_offsets":[0,0])"), kind);
  expect_verdict(one(R"("dtype":"F32","shape":0,"data_offsets":[0,0])"), kind);
  expect_verdict(one(R"("dtype":"F32","shape":[0],"data_offsets":[0])"), kind);
  expect_verdict(one(R"("dtype":"F32","shape":[0],"data_offsets":[0,0,0])"), kind);
  const std::string entry = R"({"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  expect_verdict(bytes_of("{\"a\":" + entry + ",\"a\":" + entry + "}"), kind);
  expect_verdict(bytes_of(std::string(100, '[')), kind);
  EXPECT_NE(verdict_on(bytes_of("{\"w.x\":{}}")).find("\"w.x\""), std::string::npos);
}

TEST(Safetensors, RefusesHeadersThatLeaveTheFile) {
  const std::string whole = bytes_of(R"({"__metadata__":{"k":"v"}})");
  EXPECT_EQ(verdict_on(whole), "ok");
  for (size_t kept = 8; kept < whole.size(); ++kept) {
    expect_verdict(whole.substr(0, kept), "InvalidHeaderLength");
  }
  expect_verdict(whole.substr(0, 7), "HeaderTooSmall");
}

TEST(Safetensors, RefusesSizesThatOverflow) {
  const auto shaped = [](const std::string& dtype, const std::string& shape) {
    return bytes_of("{\"a\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
                    ",\"data_offsets\":[0,0]}}");
  };
  expect_verdict(shaped("F32", "[2,9223372036854775807]"), "ValidationOverflow");
  expect_verdict(shaped("F32", "[4294967296,4294967296]"), "ValidationOverflow");
  expect_verdict(shaped("F64", "[288230376151711744]"), "ValidationOverflow");  // 2^58 * 64 bits
  expect_verdict(shaped("U8", "[1152921504606846976]"), "TensorInvalidInfo");   // 2^60 bytes
  expect_verdict(shaped("F4", "[1,3]"), "MisalignedSlice");
  const std::string huge =
      R"({"a":{"dtype":"U8","shape":[1152921504606846976],"data_offsets":[0,1152921504606846976]}})";
  expect_verdict(bytes_of(huge), "MetadataIncompleteBuffer");
}

TEST(Safetensors, WritesWhatItReads) {
  const TemporaryFolder folder;
  const auto path = folder / "a.safetensors";
  std::map<std::string, Tensor> tensors;
  tensors["scalar"] = Tensor::from<float>({1.5f}, {});
  tensors["empty"] = Tensor(Shape{2, 0}, Dtype::f16);
  tensors["b.f64"] = Tensor::from<double>({1, 2, 3}, {3});
  tensors["a.u8"] = Tensor::from<uint8_t>({7, 8, 9}, {3, 1});
  tensors["h"] = Tensor::from<float>({1, -2, 0.5f, 65504}, {2, 2}, Dtype::f16);
  tensors["bf"] = Tensor::from<float>({1, -2, 3, 4}, {2, 2}, Dtype::bf16).slice(1, 2);
  tensors["ids"] = Tensor::from<int32_t>({-1, 2}, {2});
  write_safetensors(path, tensors, {{"format", "pt"}, {"note", "ü\n"}});
  EXPECT_EQ(folder.count(), 1);

  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.metadata().at("note"), "ü\n");
  ASSERT_EQ(file.names().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const Tensor back = file.load(name);
    EXPECT_EQ(back.shape(), tensor.shape()) << name;
    EXPECT_EQ(back.dtype(), tensor.dtype()) << name;
    EXPECT_EQ(std::memcmp(back.raw(), tensor.raw(), static_cast<size_t>(tensor.bytes())), 0)
        << name;
  }
  EXPECT_EQ(file.load("bf").to_vector<float>(), (std::vector<float>{3, 4}));
  // Larger dtypes first, then names; the data begins on a multiple of 8.
  int64_t at = 0;
  for (const char* name : {"b.f64", "scalar", "ids", "bf", "empty", "h", "a.u8"}) {
    EXPECT_EQ(file.info(name).begin, at) << name;
    at += file.info(name).bytes;
  }
  const std::string bytes = read_text_file(path);
  EXPECT_EQ((bytes.size() - static_cast<size_t>(at)) % 8, 0u);
  EXPECT_EQ(bytes[8], '{');
}

TEST(Safetensors, WriterRefusesNonsenseAndKeepsTheOldFile) {
  const TemporaryFolder folder;
  const auto path = folder / "a.safetensors";
  const Tensor one = Tensor::from<float>({1}, {1});
  write_safetensors(path, {{"w", one}});
  EXPECT_EQ(SafetensorsFile::open(path).metadata().at("format"), "pt");
  expect_error<std::invalid_argument>(
      [&] {
        write_safetensors(path, {{"v", Tensor()}});
      },
      {"\"v\"", "undefined"});
  expect_error<std::invalid_argument>(
      [&] {
        write_safetensors(path, {{"__metadata__", one}});
      },
      {"__metadata__"});
  expect_error<std::invalid_argument>([&] { write_safetensors(path, {{"\xff", one}}); }, {"name"});
  const std::string large(100'000'001, 'x');
  expect_error<std::invalid_argument>(
      [&] {
        write_safetensors(path, {{"v", one}}, {{"k", large}});
      },
      {"100000000"});
  EXPECT_TRUE(SafetensorsFile::open(path).has("w"));
  EXPECT_EQ(folder.count(), 1);
  // Over a file that is mapped: the old bytes stay readable.
  const SafetensorsFile old = SafetensorsFile::open(path);
  write_safetensors(path, {{"w", Tensor::from<float>({2}, {1})}});
  EXPECT_EQ(old.load("w").item(), 1);
  EXPECT_EQ(SafetensorsFile::open(path).load("w").item(), 2);
}

TEST(Safetensors, ManyTensorsTakeTimeInProportion) {
  const TemporaryFolder folder;
  std::map<std::string, Tensor> tensors;
  for (int i = 0; i < 25'000; ++i) tensors[concat("t.", i)] = Tensor(Shape{0}, Dtype::u8);
  const auto path = folder / "a.safetensors";
  write_safetensors(path, tensors);
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.entries().size(), 25'000u);
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST(Safetensors, IntegersOfTheMetadata) {
  const TemporaryFolder folder;
  const auto number = [&](const char* text, int64_t low, int64_t high) {
    write_safetensors(folder / "a.safetensors", {}, {{"step", text}});
    return metadata_int(SafetensorsFile::open(folder / "a.safetensors"), "step", low, high);
  };
  EXPECT_EQ(number("0", 0, 9), 0);
  EXPECT_EQ(number("-5", -5, 9), -5);
  EXPECT_EQ(number("9223372036854775807", 0, INT64_MAX), INT64_MAX);
  for (const char* bad :
       {"-5", "abc", "3.7", "", " 3", "3 ", "+3", "0x3", "10", "9223372036854775808", "3\n"}) {
    expect_error<std::runtime_error>([&] { number(bad, 0, 9); },
                                     {"a.safetensors", "\"step\"", "within [0, 9]"});
  }
  expect_error<std::runtime_error>(
      [&] { metadata_int(SafetensorsFile::open(folder / "a.safetensors"), "steps"); },
      {"a.safetensors", "\"steps\"", "missing"});
}

TEST(Safetensors, UnknownNamesAndDtypesAreNamed) {
  const TemporaryFolder folder;
  const auto path = folder.write(
      "a.safetensors",
      bytes_of(R"({"s":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", std::string(8, '\1')));
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.info("s").dtype, "I64");
  EXPECT_EQ(file.bytes("s").size(), 8u);
  expect_error<std::invalid_argument>([&] { file.load("s"); }, {"a.safetensors", "\"s\"", "I64"});
  expect_error<std::invalid_argument>([&] { file.load("t"); }, {"a.safetensors", "\"t\""});
  expect_error<std::runtime_error>([&] { SafetensorsFile::open(folder / "b"); }, {"No such file"});
  expect_error<std::runtime_error>([&] { SafetensorsFile::open(folder.path()); },
                                   {"not a regular file"});
}

TEST(Checkpoint, ReadsARealModel) {
  SKIP_WITHOUT_TEST_DATA();
  const Checkpoint model(test_data() / "models/stories260K_hf");
  EXPECT_EQ(model.info("model.embed_tokens.weight").shape, (Shape{512, 64}));
  EXPECT_EQ(model.load("model.norm.weight").shape(), (Shape{64}));
  expect_error<std::invalid_argument>([&] { model.load("model.norm.weights"); },
                                      {"stories260K_hf", "\"model.norm.weights\""});
}

class Shards : public ::testing::Test {
 protected:
  void SetUp() override {
    write_safetensors(folder_ / "one.safetensors", {{"a", tensor_}, {"b", tensor_}});
    write_safetensors(folder_ / "two.safetensors", {{"c", tensor_}, {"extra", tensor_}});
  }
  void expect_error_with_index(const std::string& map, std::initializer_list<const char*> parts) {
    folder_.write("model.safetensors.index.json", "{\"weight_map\":" + map + "}");
    expect_error<std::runtime_error>([&] { Checkpoint(folder_.path()); }, parts);
  }
  TemporaryFolder folder_;
  Tensor tensor_ = Tensor::from<float>({1, 2}, {2});
};

TEST_F(Shards, AreReadThroughTheIndex) {
  folder_.write("model.safetensors.index.json",
                R"({"metadata":{"total_size":24},"weight_map":
                {"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"}})");
  const Checkpoint model(folder_.path());
  // The shards say what there is: "extra" is not in the index.
  EXPECT_EQ(model.names(), (std::vector<std::string>{"a", "b", "c", "extra"}));
  EXPECT_EQ(model.total_bytes(), 32);
  EXPECT_EQ(model.file_of("c").path().filename(), "two.safetensors");
  EXPECT_EQ(model.load("c").to_vector<float>(), (std::vector<float>{1, 2}));
}

/// Bytes of this process that are in memory, mapped files included.
int64_t resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::stoll(line.substr(6)) * 1024;
  }
  return 0;
}

TEST_F(Shards, ReadingTensorByTensorTakesTheMemoryOfOne) {
#ifdef CBQ_DEBUG
  GTEST_SKIP() << "AddressSanitizer keeps what is freed";
#endif
  constexpr int64_t bytes = int64_t{8} << 20;
  constexpr int files = 3, tensors = 4;  // 96 MiB in all
  nlohmann::json map;
  {
    const Tensor tensor = Tensor::zeros({bytes / 4}, Dtype::f32);
    for (int f = 0; f < files; ++f) {
      std::map<std::string, Tensor> of_file;
      const std::string file = "big-" + std::to_string(f) + ".safetensors";
      for (int t = 0; t < tensors; ++t) {
        const std::string name = "t" + std::to_string(f) + "." + std::to_string(t);
        of_file[name] = tensor;
        map[name] = file;
      }
      write_safetensors(folder_ / file, of_file);
    }
  }
  folder_.write("model.safetensors.index.json", nlohmann::json({{"weight_map", map}}).dump());
  const Checkpoint model(folder_.path());
  EXPECT_EQ(model.total_bytes(), files * tensors * bytes);
  model.load("t0.0");  // the allocator has its block from here on
  const int64_t before = resident_bytes();
  ASSERT_GT(before, 0);
  int64_t most = 0;
  for (const std::string& name : model.names()) {
    const Tensor tensor = model.load(name);
    most = std::max(most, resident_bytes() - before);
  }
  EXPECT_LT(most, 2 * bytes) << "the shards stay in memory";
}

TEST_F(Shards, IndexMayNotLieOrLeaveTheFolder) {
  for (const char* name : {"../one.safetensors", "/etc/passwd", "x/../one.safetensors", "..", "",
                           "x\\\\one.safetensors"}) {
    expect_error_with_index("{\"a\":\"" + std::string(name) + "\"}", {"\"a\"", "plain file name"});
  }
  expect_error_with_index(R"({"a":"none.safetensors"})", {"none.safetensors", "not there"});
  expect_error_with_index(R"({"a":3})", {"\"a\"", "string"});
  expect_error_with_index("{}", {"weight_map"});
  expect_error_with_index("[]", {"weight_map"});
  const Tensor other = Tensor::from<float>({1, 3}, {2});
  write_safetensors(folder_ / "three.safetensors", {{"b", other}, {"d", tensor_}});
  expect_error_with_index(R"({"a":"one.safetensors","d":"three.safetensors"})",
                          {"\"b\"", "two files", "one.safetensors", "three.safetensors"});
}

TEST_F(Shards, WhatTheIndexListsAndNoShardHas) {
  folder_.write(
      "model.safetensors.index.json",
      R"({"weight_map":{"c":"two.safetensors","b":"two.safetensors","z":"two.safetensors"}})");
  const Checkpoint model(folder_.path());
  EXPECT_EQ(model.names(), (std::vector<std::string>{"c", "extra"}))
      << "one.safetensors is no shard";
  EXPECT_EQ(model.missing_reason("z"),
            "the index says that it is in two.safetensors, which does not have it");
  EXPECT_EQ(model.missing_reason("c"), "");
  EXPECT_EQ(model.missing_reason("unheard of"), "");
}

TEST(Checkpoint, NamesTheRemedyForOtherFolders) {
  const TemporaryFolder folder;
  const auto open = [&] { Checkpoint(folder.path()); };
  expect_error<std::runtime_error>(open, {"neither model.safetensors nor"});
  write_safetensors(folder / "other.safetensors", {});
  expect_error<std::runtime_error>(open, {"it has other.safetensors"});
  EXPECT_TRUE(Checkpoint(folder / "other.safetensors").names().empty());
  folder.write("pytorch_model.bin", "x");
  expect_error<std::runtime_error>(open, {"tools/convert_checkpoint.py"});
  expect_error<std::runtime_error>([&] { Checkpoint(folder / "none"); },
                                   {"none", "does not exist"});
}

}  // namespace
}  // namespace cbq::test_safetensors
