// Methods as data: what the files mean, what a wrong file is told, which components each has.
#include <map>
#include <set>

#include "cbq/method_parts.h"
#include "cbq/methods.h"
#include "nn/formats/json.h"
#include "tests/test_data.h"

namespace cbq::test_methods {
namespace {

using nlohmann::json;

// ---- what the three methods of this paper are ---------------------------------------------------

/// Settings of a method over the defaults, and what a letter of its table adds.
struct Expected {
  const char* method;
  json all;
  std::map<char, json> letters;
  /// A row per weight bits 1 to 8 and 16, a letter per activation bits 2 to 8 and 16.
  std::vector<std::string> table;
};

/// What both versions of the paper share; the values are those of docs/method.md, section 8.
json printed(const json& more) {
  json all = {{"preprocess", "cfp_weight_activation"},
              {"rounding", "lora_rounding"},
              {"rank", 5},
              {"rate_rounding", 1e-4},
              {"grid", "raw"},
              {"hard_phase", 0.5},
              {"homologous", true},
              {"regularizer", 0.01},
              {"regularizer_reduction", "sum"}};
  all.update(more);
  return all;
}

const json searched = {{"scale_search", "squared_error"}}, ranges = {{"scale_search", "min_max"}};
const json searched_static = {
    {"scale_search", "squared_error"}, {"act_granularity", "per_tensor"}, {"act_dynamic", false}};
const json ranges_static = {
    {"scale_search", "min_max"}, {"act_granularity", "per_tensor"}, {"act_dynamic", false}};

const Expected expected[] = {
    {"cbq_windows",
     {{"rate_scale", 1e-3}},
     {{'a', {{"batch", 4}, {"rate_activation", 1e-3}}},
      {'b', {{"batch", 2}, {"rate_activation", 1e-3}}},
      {'c', {{"batch", 2}, {"rate_activation", 1e-2}}}},
     {"cccbbbbb", "cccbbbbb", "cccaaaaa", "cccaaaaa", "cccaaaaa", "cccaaaaa", "cccaaaaa",
      "cccaaaaa", "cccaaaaa"}},
    {"cbq_iclr",
     printed({{"rate_activation", 1e-4}, {"rate_scale", 1e-3}}),
     {{'s', searched}, {'m', ranges}},
     {"ssssssss", "ssssssss", "ssssssss", "mmmmmmmm", "mmmmmmmm", "mmmmmmmm", "mmmmmmmm",
      "mmmmmmmm", "mmmmmmmm"}},
    {"cbq_v4",
     printed({{"rate_activation", 1e-6}, {"rate_scale", 1e-7}}),
     {{'s', searched}, {'m', ranges}, {'S', searched_static}, {'M', ranges_static}},
     {"sssSSSSs", "sssSSSSs", "sssSSSSs", "mmmMMMMm", "mmmMMMMm", "mmmMMMMm", "mmmMMMMm",
      "mmmMMMMm", "mmmMMMMm"}},
};

TEST(Methods, ThePapersOwnHaveTheirValuesAtAllBits) {
  const int weight_bits[] = {1, 2, 3, 4, 5, 6, 7, 8, 16}, input_bits[] = {2, 3, 4, 5, 6, 7, 8, 16};
  for (const Expected& e : expected) {
    for (size_t w = 0; w < std::size(weight_bits); ++w) {
      for (size_t a = 0; a < std::size(input_bits); ++a) {
        json settings = to_json(Settings{});
        settings.update(e.all);
        settings.update(e.letters.at(e.table[w][a]));
        settings["method"] = e.method;
        settings["wbits"] = weight_bits[w];
        settings["abits"] = input_bits[a];
        EXPECT_EQ(to_json(method_settings(e.method, weight_bits[w], input_bits[a])), settings);
      }
    }
  }
}

TEST(Methods, OnlyTheWidthOfTwoLayersTellsTheStarFromThePrintedMethod) {
  for (const int wbits : possible_bits()) {
    json star = to_json(method_settings("cbq_star", wbits, 16));
    EXPECT_EQ(star["fc2_first_last_bits"], wbits <= 3 ? 4 : 0) << wbits;
    star["fc2_first_last_bits"] = 0;
    star["method"] = "cbq_iclr";
    EXPECT_EQ(star, to_json(method_settings("cbq_iclr", wbits, 16))) << wbits;
  }
}

// ---- all files ----------------------------------------------------------------------------------

TEST(Methods, EveryFileIsValidAtAllBitsThatItServes) {
  ASSERT_EQ(method_names().size(), embedded_methods().size());
  for (const EmbeddedMethod& file : embedded_methods()) {
    const std::string name(file.name);
    SCOPED_TRACE(name);
    const MethodFile method = parse_method(parse_json(file.text, name), name, name);
    EXPECT_GE(method.title.size(), 4u);
    EXPECT_GE(method.source.size(), 10u);
    int served = 0;
    for (const int wbits : possible_bits()) {
      for (const int abits : possible_bits()) {
        if (!method.obstacle(wbits, abits).empty()) continue;
        ++served;
        const Settings s = method_settings(name, wbits, abits);
        EXPECT_EQ(s.method, name);
        EXPECT_EQ(s.wbits, wbits);
        EXPECT_EQ(s.abits, abits);
        validate(s, 5);
      }
    }
    EXPECT_GE(served, 8);
    EXPECT_TRUE(method.obstacle(float_bits, float_bits).empty());
  }
}

TEST(Methods, TheFilesOfTheFolderAreInTheProgram) {
  std::set<std::string> files;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(CBQ_SOURCE_DIR) / "cbq/methods")) {
    files.insert(entry.path().stem().string());
    const json there = read_json_file(entry.path());
    for (const EmbeddedMethod& method : embedded_methods()) {
      if (method.name != entry.path().stem().string()) continue;
      EXPECT_EQ(parse_json(method.text, "embedded"), there) << entry.path();
    }
  }
  const std::vector<std::string> names = method_names();
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), files);
}

TEST(Methods, UnknownAndFormerNames) {
  expect_error<std::invalid_argument>([] { method_settings("best", 2, 16); },
                                      {"unknown method 'best'", "cbq", "cbq_iclr", "gptq"});
  const std::pair<const char*, const char*> renamed[] = {{"tuned", "cbq_windows"},
                                                         {"cbq_polished", "cbq"},
                                                         {"paper_iclr", "cbq_iclr"},
                                                         {"paper_v4", "cbq_v4"}};
  for (const auto& [former, now] : renamed) {
    expect_error<std::invalid_argument>([&] { find_method(former); }, {former, now});
    expect_error<std::invalid_argument>([&] { refuse_profile_option(former); },
                                        {"--profile", former, "--method", now});
  }
  expect_error<std::invalid_argument>([] { refuse_profile_option("mine"); },
                                      {"--profile mine", "--method"});
  expect_error<std::invalid_argument>([] { find_method("/nowhere/x.json"); }, {"/nowhere/x.json"});
}

TEST(Methods, BitsThatAMethodIsNotForAreRefused) {
  expect_error<std::invalid_argument>([] { method_settings("gptq", 4, 8); },
                                      {"gptq", "abits 16", "not 8", "cbq methods"});
  expect_error<std::invalid_argument>([] { method_settings("smoothquant", 1, 8); },
                                      {"smoothquant", "wbits at least 2", "not 1"});
  EXPECT_EQ(method_settings("gptq", 16, 16).wbits, 16);
}

// ---- files of one's own -------------------------------------------------------------------------

json small_method() {
  return {{"title", "Mine"}, {"source", "nowhere"}, {"settings", {{"rounding", "adaround"}}}};
}

TEST(MethodFiles, LaterEntriesOfByBitsWin) {
  json file = small_method();
  file["by_bits"] = json::parse(R"([{"wbits": "<=3", "settings": {"epochs": 5, "batch": 2}},
                                    {"wbits": 2, "abits": "4-8", "settings": {"epochs": 7}},
                                    {"abits": ">=8", "settings": {"batch": 3}}])");
  const MethodFile method = parse_method(file, "mine", "mine.json");
  const auto values = [&](int wbits, int abits) {
    const Settings s = method.at(wbits, abits);
    EXPECT_EQ(s.rounding, "adaround");
    return std::pair(s.epochs, s.batch);
  };
  const Settings plain;
  EXPECT_EQ(values(4, 4), std::pair(plain.epochs, plain.batch));
  EXPECT_EQ(values(3, 4), std::pair(int64_t{5}, int64_t{2}));
  EXPECT_EQ(values(2, 4), std::pair(int64_t{7}, int64_t{2}));
  EXPECT_EQ(values(2, 8), std::pair(int64_t{7}, int64_t{3}));
  EXPECT_EQ(values(2, 16), std::pair(int64_t{5}, int64_t{3}));
  EXPECT_EQ(values(16, 16), std::pair(plain.epochs, int64_t{3}));
}

TEST(MethodFiles, AWrongFileIsToldItsNameTheKeyAndWhatIsKnown) {
  const auto refused = [](const char* patch, std::initializer_list<const char*> parts) {
    SCOPED_TRACE(patch);
    json file = small_method();
    file.merge_patch(json::parse(patch));
    expect_error<std::runtime_error>([&] { parse_method(file, "mine", "dir/mine.json"); }, parts);
  };
  refused(R"({"setings": {}})", {"dir/mine.json", "\"setings\"", "known", "settings", "by_bits"});
  refused(R"({"title": null})", {"dir/mine.json", "title"});
  refused(R"({"title": 3})", {"dir/mine.json", "\"title\"", "3"});
  refused(R"({"settings": null})", {"dir/mine.json", "settings"});
  refused(R"({"settings": []})", {"dir/mine.json", "\"settings\"", "object"});
  refused(R"({"notes": "none"})", {"dir/mine.json", "\"notes\"", "list"});
  refused(R"({"notes": [1]})", {"dir/mine.json", "\"notes\"", "1"});
  refused(R"({"settings": {"epoch": 3}})", {"dir/mine.json", "'epoch'", "known", "epochs"});
  refused(R"({"settings": {"epochs": "3"}})", {"dir/mine.json", "epochs", "integer", "\"3\""});
  refused(R"({"settings": {"wbits": 3}})", {"dir/mine.json", "\"wbits\"", "by_bits"});
  refused(R"({"settings": {"method": "cbq"}})", {"dir/mine.json", "\"method\""});
  refused(R"({"settings": {"profile": "tuned"}})", {"dir/mine.json", "'profile'", "'cbq_windows'"});
  // Values are looked up where they are registered.
  refused(R"({"settings": {"rounding": "adround"}})", {"dir/mine.json", "rounding", "adaround"});
  refused(R"({"settings": {"preprocess": "omsee"}})", {"dir/mine.json", "preprocess", "omse"});
  refused(R"({"settings": {"preprocess": "smoothquant:7"}})", {"dir/mine.json", "7"});
  refused(R"({"settings": {"solver": "gptk"}})", {"dir/mine.json", "solver", "gptq"});
  refused(R"({"settings": {"rotation": "r9"}})", {"dir/mine.json", "rotation", "r1"});
  refused(R"({"settings": {"l2": "huber"}})", {"dir/mine.json", "l2", "norm"});
  refused(R"({"settings": {"overlap": 2}})", {"dir/mine.json", "overlap"});
  // Also those that only some bits have.
  refused(R"({"by_bits": [{"wbits": 2, "settings": {"keep": "worst"}}]})",
          {"dir/mine.json", "W2A1", "keep", "best"});
  refused(R"({"settings": {"symmetric": true, "symmetric_form": "restricted"}})",
          {"dir/mine.json", "W1A1", "symmetric_form"});
  refused(R"({"by_bits": {}})", {"dir/mine.json", "\"by_bits\"", "list"});
  refused(R"({"by_bits": [{"wbits": 2}]})", {"dir/mine.json", "entry 1", "settings"});
  refused(R"({"by_bits": [{"bits": 2, "settings": {}}]})", {"entry 1", "\"bits\"", "wbits"});
  refused(R"({"serves": {"bits": 2}})", {"dir/mine.json", "\"serves\"", "\"bits\"", "abits"});
  refused(R"({"otherwise": "nowhere"})",
          {"dir/mine.json", "\"otherwise\"", "nowhere", "cbq_windows"});
  refused(R"({"otherwise": "cbq"})", {"dir/mine.json", "'cbq'", "of its own"});
  refused(R"({"otherwise": 4})", {"dir/mine.json", "otherwise"});
  refused(R"({"serves": 4})", {"dir/mine.json", "\"serves\"", "object"});
  for (const char* range : {"0", "9", "17", "2.5", "-3", "18446744073709551615", R"("<3")",
                            R"("<=9")", R"("3-2")", R"("-")", R"("2-")", R"("")", "true", "[2]"}) {
    refused(concat(R"({"serves": {"wbits": )", range, "}}").c_str(), {"\"wbits\"", "\"<=3\""});
  }
}

TEST(MethodFiles, AFileIsCheckedOnlyAtTheBitsItServes) {
  json file = small_method();
  file["settings"] = {{"symmetric", true}, {"symmetric_form", "restricted"}};
  file["serves"] = {{"wbits", ">=2"}};
  const MethodFile method = parse_method(file, "mine", "mine.json");
  EXPECT_TRUE(method.obstacle(2, 1).empty());
  expect_error<std::invalid_argument>([&] { method.at(1, 16); }, {"mine", "at least 2"});
}

// ---- components ---------------------------------------------------------------------------------

/// The paper's name of a method in its tables of components -> the name of our file.
const std::map<std::string, std::string> file_of_row = {{"gptq", "gptq"},
                                                        {"rptq", "rptq"},
                                                        {"os_plus", "outlier_suppression_plus"},
                                                        {"smoothquant", "smoothquant"},
                                                        {"omniquant", "omniquant"},
                                                        {"qllm", "qllm"},
                                                        {"cbq", "cbq_iclr"}};

void expect_components(const std::string& name, const std::map<std::string, bool>& marks) {
  const auto components = components_of(find_method(name));
  EXPECT_EQ(std::map(components.begin(), components.end()), marks) << name;
}

TEST(MethodComponents, AreThoseOfThePapersTable) {
  // ICLR table 4, its columns in order: weight, activation, gradient, cross-block, weight outliers,
  // activation outliers, rounding error.
  const std::pair<const char*, const char*> table[] = {{"gptq", "x------"},
                                                       {"awq", "x---x--"},
                                                       {"gptaq", "x------"},
                                                       {"outlier_suppression_plus", "xx---x-"},
                                                       {"smoothquant", "xx---x-"},
                                                       {"cbq_iclr", "xxxxxxx"},
                                                       {"cbq_v4", "xxxxxxx"},
                                                       {"cbq_star", "xxxxxxx"},
                                                       // Ours, without CFP.
                                                       {"cbq", "xxxx-xx"},
                                                       {"cbq_windows", "xxxx--x"},
                                                       {"nearest", "xx-----"},
                                                       {"omse", "xx--xx-"},
                                                       {"quarot", "xx---x-"},
                                                       {"omniquant", "xxx-xx-"},
                                                       {"rptq", "xx---x-"},
                                                       {"qllm", "xxx--x-"},
                                                       {"adaround", "xxx---x"}};
  for (const auto& [name, marks] : table) {
    std::string ours;
    for (const auto& [component, has] : components_of(find_method(name))) ours += has ? 'x' : '-';
    EXPECT_EQ(ours, marks) << name;
  }
}

TEST(MethodComponents, AgreeWithThePapersData) {
  SKIP_WITHOUT_TEST_DATA();
  const std::filesystem::path path = test_data() / ".." / "paper" / "tables.json";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path << " beside the test data";
  int compared = 0;
  const json file = read_json_file(path);
  for (const json& table : file.at("tables")) {
    if (table.at("id") != "iclr.4" && table.at("id") != "v1.8") continue;
    for (const json& row : table.at("rows")) {
      const std::string theirs = row.at("method");
      ASSERT_EQ(file_of_row.count(theirs), 1u) << theirs;
      const std::string& ours = file_of_row.at(theirs);
      std::map<std::string, bool> marks;
      for (const auto& [component, has] : row.at("values").items()) marks[component] = has;
      expect_components(ours, marks);
      ++compared;
    }
  }
  EXPECT_EQ(compared, 13);
}

TEST(MethodParts, SaySlotForSlotWhatAMethodIs) {
  const auto part = [](const char* name, int abits, const char* slot) {
    const auto parts = parts_of(method_settings(name, 4, abits));
    return std::map(parts.begin(), parts.end()).at(slot);
  };
  EXPECT_EQ(part("quarot", 4, "transform"), "rotation r1_r2_r4");
  EXPECT_EQ(part("quarot", 4, "rounding"), "-");
  EXPECT_EQ(part("gptq", 16, "solver"), "gptq:damping=0.01,block=128");
  EXPECT_EQ(part("nearest", 16, "rounding"), "nearest");
  EXPECT_EQ(part("cbq_iclr", 16, "rounding"), "lora_rounding, rank 5");
  EXPECT_EQ(part("cbq_iclr", 16, "loss"), "L2 + KL, homologous");
  EXPECT_EQ(part("cbq_windows", 16, "windows"), "2 blocks, overlap 1");
  EXPECT_EQ(part("adaround", 16, "windows"), "1 block");
  EXPECT_EQ(part("autoround", 16, "optimizer"), "signsgd");
  EXPECT_EQ(part("cbq_windows", 16, "polish"), "-");
  EXPECT_EQ(part("cbq", 16, "polish"), "4 passes: scales, codes");
  EXPECT_EQ(part("cbq", 4, "polish"), "4 passes: scales, codes, norms");
  EXPECT_EQ(part("autoround", 16, "grid"), "symmetric, groups of 128, min_max");
}

TEST(MethodParts, AreShownAtTheBitsThatAMethodIsMostlyRunAt) {
  EXPECT_EQ(example_bits(find_method("cbq")), std::pair(4, 4));
  EXPECT_EQ(example_bits(find_method("gptq")), std::pair(4, 16));
  EXPECT_EQ(example_bits(find_method("rptq")), std::pair(4, 8));
}

TEST(MethodParts, EverySettingHasASlot) {
  std::set<std::string> shown;
  for (const SlotSetting& s : slot_settings(Settings{})) {
    EXPECT_TRUE(shown.insert(s.name).second) << s.name;
    EXPECT_NE(s.slot, SettingSlot::label) << s.name;
  }
  EXPECT_EQ(shown.size() + 1, to_json(Settings{}).size());  // all but the label
  for (const SlotSetting& s : slot_settings(method_settings("nearest", 4, 4))) {
    EXPECT_NE(s.name, "epochs") << "nobody reads it without reconstruction";
  }
}

TEST(Methods, ComponentsOfAWrittenScheduleAreThoseOfItsBlocks) {
  const auto has_dependency = [](const char* schedule) {
    const MethodFile method =
        parse_method({{"title", "t"}, {"source", "s"}, {"settings", {{"schedule", schedule}}}},
                     "mine", "mine.json");
    for (const auto& [component, has] : components_of(method)) {
      if (component == "cross_block_dependency") return has;
    }
    return false;
  };
  EXPECT_TRUE(has_dependency("0-1,1-2"));
  EXPECT_FALSE(has_dependency("0-1,2"));
}

}  // namespace
}  // namespace cbq::test_methods
