#include <sys/resource.h>
#include <sys/stat.h>

#include <cmath>
#include <csignal>

#include "nn/formats/json.h"
#include "tensor/error.h"
#include "tensor/runtime/notice.h"
#include "tests/test_data.h"

namespace cbq::test_json {
namespace {

void expect_refused(std::string_view text, std::initializer_list<const char*> parts) {
  expect_error<std::runtime_error>([&] { parse_json(text, "a.json"); }, parts);
}

TEST(Json, ReadsWhatIsValid) {
  const nlohmann::json json = parse_json(R"({"a": [1, -2, 2.5, null], "b": {"a": "ü"}})", "a.json");
  EXPECT_EQ(json["a"][1], -2);
  EXPECT_EQ(json["b"]["a"], "ü");
  // Equal keys are fine in different objects.
  EXPECT_NO_THROW(parse_json(R"([{"k": {"k": 1}}, {"k": 2}])", "a.json"));
}

TEST(Json, SaysWhereASyntaxErrorIs) {
  expect_refused("{\n\"a\": 1,\n}", {"a.json", "line 3"});
  expect_refused("", {"a.json"});
  expect_refused("{} x", {"a.json"});
}

TEST(Json, RefusesWhatTheParserWouldLetPass) {
  expect_refused(R"({"a": 1, "b": 2, "a": 3})", {"duplicate key \"a\""});
  expect_refused(R"({"o": {"x": {"k": 1}, "x": 2}})", {"duplicate key \"x\""});
  expect_refused(std::string_view("{}\0garbage", 10), {"zero byte"});
  expect_refused("{\"a\": \"\xff\"}", {"not UTF-8"});
}

TEST(Json, BoundsTheDepth) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(parse_json(nested(64), "a.json"));
  expect_refused(nested(65), {"64 levels"});
  expect_refused(std::string(1'000'000, '['), {"64 levels"});
  std::string objects;
  for (int i = 0; i < 65; ++i) objects += "{\"a\":";
  expect_refused(objects, {"64 levels"});
}

TEST(Json, ThePythonDialectReadsWhatPythonReads) {
  const auto parsed = [](const char* text) {
    return parse_json(text, "a.json", JsonDialect::python);
  };
  const NoticeRecorder notices;
  const nlohmann::json json = parsed(
      R"({"NaN": [NaN, "NaN", -Infinity, Infinity], "\"NaN": "\\", "n": NaN, "d": {"a": 1}, "d": [2]})");
  EXPECT_TRUE(std::isnan(json["NaN"][0].get<double>()));
  EXPECT_EQ(json["NaN"][1], "NaN");
  EXPECT_EQ(json["NaN"][2].get<double>(), -INFINITY);
  EXPECT_EQ(json["NaN"][3].get<double>(), INFINITY);
  EXPECT_EQ(json["\"NaN"], "\\");
  EXPECT_TRUE(std::isnan(json["n"].get<double>()));
  EXPECT_EQ(json["d"], nlohmann::json({2}));
  ASSERT_EQ(notices.lines().size(), 1u);
  EXPECT_NE(notices.lines()[0].find("a.json: the key \"d\" is there twice"), std::string::npos);
  parsed(R"({"a": {"b": 1}, "a": {"b": 1}})");
  EXPECT_EQ(notices.lines().size(), 1u) << "equal values are no news";
  for (const char* bad : {"{NaN: 1}", "[NaNNaN]", "[Nan]", "[+Infinity]", "[- Infinity]", "[N]",
                          "[NaN", "{\"a\": NaN,}", "nan", "[\"NaN]"}) {
    SCOPED_TRACE(bad);
    expect_error<std::runtime_error>([&] { parsed(bad); }, {"a.json", "not valid JSON"});
  }
  expect_error<std::runtime_error>([&] { parsed("{\n\"a\": NaN,\n]"); }, {"line 3"});
  expect_refused("[NaN]", {"not valid JSON"});
  expect_refused("[Infinity]", {"not valid JSON"});
}

TEST(Json, TakesTimeInProportionToTheText) {
  // With a cost per element that grows with its list, these take minutes.
  std::string lists = "[[]";
  for (int i = 0; i < 300'000; ++i) lists += ",[1]";
  const nlohmann::json list = parse_json(lists + "]", "a.json");
  EXPECT_EQ(list.size(), 300'001u);
  EXPECT_EQ(list.back(), nlohmann::json({1}));
  std::string objects = "{\"\":{}";
  for (int i = 0; i < 100'000; ++i) objects += concat(",\"", i, "\":{\"a\":[]}");
  EXPECT_EQ(parse_json(objects + "}", "a.json").size(), 100'001u);
  expect_refused(objects + ",\"7\":1}", {"duplicate key \"7\""});
}

TEST(Json, NumbersAreNotWrappedOrTruncated) {
  const auto integer = [](const char* text, int64_t low = INT64_MIN, int64_t high = INT64_MAX) {
    return json_int(parse_json(text, "a.json"), "key", "a.json", low, high);
  };
  EXPECT_EQ(integer("-1"), -1);
  EXPECT_EQ(integer("9223372036854775807"), INT64_MAX);
  for (const char* bad : {"3.0", "9223372036854775808", "18446744073709551616", "1e3", "\"3\"",
                          "null", "[3]", "true"}) {
    expect_error<std::runtime_error>([&] { integer(bad); }, {"a.json", "\"key\"", "integer"});
  }
  expect_error<std::runtime_error>([&] { integer("-1", 0); }, {"[0, "});
  expect_error<std::runtime_error>([&] { integer("8", 0, 7); }, {"[0, 7]", "8"});
  expect_error<std::runtime_error>([&] { json_double("x", "key", "a.json"); },
                                   {"a number", "\"x\""});
  expect_error<std::runtime_error>([&] { json_bool(1, "key", "a.json"); }, {"true or false"});
  expect_error<std::runtime_error>([&] { json_string(1, "key", "a.json"); }, {"a string"});
  expect_error<std::runtime_error>(
      [&] {
        json_at({{"a", 1}}, "b", "a.json");
      },
      {"\"b\"", "missing"});
  EXPECT_TRUE(json_find({{"a", 1}}, "b", "a.json").is_null());
  expect_error<std::runtime_error>([&] { json_find(3, "b", "a.json"); }, {"an object"});
}

TEST(Json, MissingFileAndFolderInItsPlace) {
  const TemporaryFolder folder;
  expect_error<MissingFile>([&] { read_json_file(folder / "none.json"); },
                            {"none.json", "No such file"});
  expect_error<std::runtime_error>([&] { read_json_file(folder.path()); }, {"is a folder"});
  const auto path = folder.write("a.json", "[1, 2, 3]");
  EXPECT_EQ(read_json_file(path).size(), 3u);
  expect_error<std::runtime_error>([&] { read_json_file(path, 8); }, {"a.json", "larger than"});
}

TEST(AtomicFile, ReplacesOnlyWhenFinished) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.txt", "old");
  {
    AtomicFile file(path);
    file.write("new, but never finished");
    EXPECT_EQ(folder.count(), 2);
  }
  EXPECT_EQ(read_text_file(path), "old");
  write_text_atomically(path, "new");
  EXPECT_EQ(read_text_file(path), "new");
  EXPECT_EQ(folder.count(), 1);
}

TEST(AtomicFile, FullDiskLeavesTheOldFile) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.txt", "old");
  // A limit on the file size stands in for a full disk: write() fails in the middle.
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message =
      error_of([&] { write_text_atomically(path, std::string(100'000, 'x')); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(message.find("cannot write " + path.string()), std::string::npos) << message;
  EXPECT_EQ(read_text_file(path), "old");
  EXPECT_EQ(folder.count(), 1);
}

TEST(AtomicFile, ReadOnlyFolder) {
  const TemporaryFolder folder;
  ASSERT_EQ(::chmod(folder.path().c_str(), 0500), 0);
  const bool root = ::geteuid() == 0;  // may write everywhere: be somebody else for a moment
  ASSERT_EQ(root ? ::seteuid(65534) : 0, 0);
  const std::string message = error_of([&] { write_text_atomically(folder / "a.txt", "x"); });
  ASSERT_EQ(root ? ::seteuid(0) : 0, 0);
  EXPECT_NE(message.find("Permission denied; write to a folder that you may change"),
            std::string::npos)
      << message;
}

TEST(AtomicFile, LeavesDevicesAlone) {
  // A pipe stands in for /dev/null, which a failing test would replace with a file.
  const TemporaryFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_error<std::invalid_argument>([&] { write_text_atomically(folder / "pipe", "x"); },
                                      {"pipe", "not a regular file"});
  EXPECT_TRUE(std::filesystem::is_fifo(folder / "pipe"));
}

}  // namespace
}  // namespace cbq::test_json
