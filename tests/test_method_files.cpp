// Methods as a user meets them: cbq methods, --method with a name or a file, and the page about
// adding one.
#include "cbq/methods.h"
#include "nn/formats/json.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_method_files {
namespace {

using nlohmann::json;

/// The first block of JSON on a page.
std::string example_of(const std::string& page) {
  const std::string text = bytes_of(std::filesystem::path(CBQ_SOURCE_DIR) / "docs" / page);
  const std::string open = "```json\n";
  const size_t begin = text.find(open);
  if (begin == std::string::npos) return "";
  return text.substr(begin + open.size(), text.find("```", begin + 1) - begin - open.size());
}

using MethodFilesTest = CliTest;

TEST_F(MethodFilesTest, TheExampleOfThePageQuantizesAModel) {
  const std::string example = example_of("add-a-method.md");
  ASSERT_FALSE(example.empty());
  folder_.write("mine.json", example);
  const std::vector<std::string> asked = {
      "quantize", model(),           "--output", path("q"), "--calibration", calibration(),
      "--method", path("mine.json"), "--wbits",  "2",       "--device",      "cpu"};
  const RunOfCbq run = cbq(asked);
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.err, {"mine.json, W2A16", "solver gptq", "blocks 3-3: loss"});
  const json settings = json_of(path("q/recipe.json"))["settings"];
  const json file = json::parse(example);
  json expected = to_json(Settings{});
  expected.update(file.at("settings"));
  expected.update(file.at("by_bits").at(0).at("settings"));  // 2 bits are among "<=3"
  expected.update({{"method", path("mine.json")}, {"wbits", 2}});
  EXPECT_EQ(settings, expected);

  // A run's recipe says everything, so that the file is not needed again.
  std::filesystem::remove(path("mine.json"));
  const RunOfCbq again = cbq({"quantize", model(), "--output", path("q2"), "--calibration",
                              calibration(), "--recipe", path("q/recipe.json"), "--device", "cpu"});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(bytes_of(path("q2/model.safetensors")), bytes_of(path("q/model.safetensors")));
  const RunOfCbq missing = cbq(quantize("q3", {"--method", path("mine.json")}));
  EXPECT_EQ(missing.code, 1);
  expect_in(missing.err, {"mine.json", "cbq methods"});
}

TEST_F(MethodFilesTest, OptionsWinOverTheMethod) {
  ASSERT_EQ(cbq(quantize("q", {"--method", "nearest", "--wbits", "3", "--symmetric"})).code, 0);
  const json settings = json_of(path("q/recipe.json"))["settings"];
  EXPECT_EQ(settings["method"], "nearest");
  EXPECT_EQ(settings["reconstruct"], "none");
  EXPECT_EQ(settings["scale_search"], "min_max");
  EXPECT_EQ(settings["symmetric"], true);
  EXPECT_EQ(settings["wbits"], 3);
}

TEST_F(MethodFilesTest, AWrongFileIsRefusedBeforeAnythingIsWritten) {
  folder_.write("mine.json", R"({"title": "t", "source": "s", "settings": {"rounding": "x"}})");
  const std::vector<std::string> before = listing();
  const RunOfCbq run = cbq(quantize("q", {"--method", path("mine.json")}));
  EXPECT_EQ(run.code, 1);
  expect_in(run.err, {"mine.json", "rounding", "'x'", "signround"});
  const RunOfCbq bits = cbq(quantize("q", {"--method", "gptq", "--abits", "8"}));
  EXPECT_EQ(bits.code, 1);
  expect_in(bits.err, {"gptq", "abits 16"});
  EXPECT_EQ(listing(), before);
}

TEST_F(MethodFilesTest, EveryMethodQuantizesTheSmallModel) {
  for (const std::string& name : method_names()) {
    const std::string abits = find_method(name).obstacle(4, 8).empty() ? "8" : "16";
    const RunOfCbq run = cbq(quantize(name, {"--method", name, "--wbits", "4", "--abits", abits,
                                             "--granularity", "per_channel"}));
    EXPECT_EQ(run.code, 0) << name << "\n" << run.err;
  }
}

TEST(CbqMethods, ListsAllWithTheirParts) {
  const RunOfCbq list = cbq({"methods"});
  ASSERT_EQ(list.code, 0) << list.err;
  expect_in(list.out, {"transform", "rounding", "windows", "lora_rounding, rank 5",
                       "rotation r1_r2_r4", "smoothquant:0.5"});
  for (const std::string& name : method_names()) {
    expect_in(list.out, {name.c_str(), find_method(name).title.c_str()});
  }
  const RunOfCbq components = cbq({"methods", "--components"});
  ASSERT_EQ(components.code, 0) << components.err;
  expect_in(components.out, {"cross_block_dependency", "cbq_iclr"});
  const json all = json::parse(cbq({"methods", "--json"}).out);
  ASSERT_EQ(all.size(), method_names().size());
  EXPECT_EQ(all[0]["name"], method_names().front());
  EXPECT_TRUE(all[0]["components"]["quantize_weight"].get<bool>());
}

TEST(CbqMethods, ExplainsOneAtTheBitsAskedFor) {
  const RunOfCbq text = cbq({"methods", "cbq_iclr", "--wbits", "3", "--abits", "16"});
  ASSERT_EQ(text.code, 0) << text.err;
  expect_in(text.out, {"CBQ as printed (ICLR)", "source: ", "W3A16", "lora_rounding", "signround",
                       "homologous", "notes:"});
  const auto search = [](const std::string& bits) {
    const json slots = json::parse(cbq({"methods", "cbq_iclr", "--bits", bits, "--json"}).out);
    return slots["slots"]["grid"]["scale_search"]["value"].get<std::string>();
  };
  EXPECT_EQ(search("W3A16"), "squared_error");
  EXPECT_EQ(search("W4A16"), "min_max");
  const json one = json::parse(cbq({"methods", "nearest", "--json"}).out);
  EXPECT_EQ(one["slots"]["grid"]["scale_search"]["default"], "squared_error");
  EXPECT_FALSE(one["slots"].contains("rounding"));
  EXPECT_EQ(one["settings"], to_json(method_settings("nearest", 4, 4)));
  const RunOfCbq unknown = cbq({"methods", "nonsense"});
  EXPECT_EQ(unknown.code, 1);
  expect_in(unknown.err, {"nonsense", "known", "cbq_iclr"});
  EXPECT_EQ(cbq({"methods", "gptq", "--abits", "4"}).code, 1);
  EXPECT_EQ(cbq({"methods", "cbq", "--wbits", "9"}).code, 1);
  EXPECT_EQ(cbq({"methods", "--wbits", "2"}).code, 1);
}

}  // namespace
}  // namespace cbq::test::test_method_files
