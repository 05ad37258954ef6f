#include <gtest/gtest.h>

#include "cbq/settings.h"
#include "experiments/table_spec.h"
#include "nn/formats/json.h"
#include "quant/rounding.h"
#include "tests/test_data.h"

namespace cbq::test_experiments_spec {
namespace {

const std::filesystem::path tables_folder =
    std::filesystem::path(CBQ_SOURCE_DIR) / "experiments" / "tables";

nlohmann::json small_table() {
  return parse_json(R"({
    "key": "3z", "title": "A table",
    "paper": {"tables": ["iclr.3z"], "model": "LLaMA-7B", "bits": "W4A4"},
    "bits": "W3A16", "axis": ["window"], "columns": ["gpu_memory_gb"],
    "settings": {"rounding": "adaround"},
    "rows": [
      {"name": "a", "label": "row a", "settings": {"window": 1, "overlap": 0},
       "source": ["iclr.3z/0"], "paper": {"c4_ppl": 14.5, "wikitext2_ppl": 11.0}},
      {"name": "b", "label": "row b", "bits": "W4A4", "epochs_factor": 2}
    ],
    "trends": [{"claim": "b beats a", "rows": ["a", "b"]}]})",
                    "test");
}

void expect_refused(const nlohmann::json& json, std::initializer_list<const char*> parts) {
  expect_error<std::runtime_error>([&] { parse_table(json, "t.json"); }, parts);
}

TEST(TableSpec, ReadsEveryField) {
  const TableSpec table = parse_table(small_table(), "t.json");
  EXPECT_EQ(table.key, "3z");
  EXPECT_EQ(table.paper_model, "LLaMA-7B");
  EXPECT_EQ(table.bits, "W3A16");
  EXPECT_EQ(table.columns, std::vector<std::string>{"gpu_memory_gb"});
  ASSERT_EQ(table.rows.size(), 2u);
  EXPECT_EQ(table.rows[0].settings.at("window"), 1);
  EXPECT_DOUBLE_EQ(table.rows[0].paper.at("c4_ppl"), 14.5);
  EXPECT_EQ(table.rows[1].bits, "W4A4");
  EXPECT_EQ(table.rows[1].epochs_factor, 2);
  EXPECT_TRUE(table.rows[1].paper.empty());
  ASSERT_EQ(table.trends.size(), 1u);
  EXPECT_EQ(table.trends[0].metrics, (std::vector<std::string>{"c4_ppl", "wikitext2_ppl"}));
}

TEST(TableSpec, MalformedFilesAreRefusedWithFileAndField) {
  nlohmann::json json = small_table();
  json.erase("rows");
  expect_refused(json, {"t.json", "'rows' is missing"});
  json = small_table();
  json["rows"] = nlohmann::json::array();
  expect_refused(json, {"t.json", "rows", "at least one"});
  json = small_table();
  json["colums"] = nlohmann::json::array();
  expect_refused(json, {"t.json", "unknown field 'colums'", "columns"});
  json = small_table();
  json["columns"] = {"gpu_memory"};
  expect_refused(json, {"columns", "gpu_memory", "gpu_memory_gb"});
  json = small_table();
  json["rows"][1]["settings"] = {{"windw", 2}};
  expect_refused(json, {"t.json: rows[1]", "settings", "windw"});
  json = small_table();
  json["rows"][0]["settings"] = {{"window", "two"}};
  expect_refused(json, {"rows[0]", "window", "integer"});
  json = small_table();
  json["rows"][1]["name"] = "a";
  expect_refused(json, {"rows[1]", "second row 'a'"});
  json = small_table();
  json["rows"][0]["paper"]["c4"] = 1.0;
  expect_refused(json, {"rows[0]: paper", "'c4'", "c4_ppl"});
  json = small_table();
  json["rows"][0]["paper"]["c4_ppl"] = "14.5";
  expect_refused(json, {"rows[0]", "c4_ppl", "number"});
  json = small_table();
  json["rows"][1]["epochs_factor"] = 0;
  expect_refused(json, {"rows[1]", "epochs_factor"});
  json = small_table();
  json["rows"][1]["label"] = std::string(31, 'x');
  expect_refused(json, {"rows[1]", "label", "31 characters"});
  json = small_table();
  json["bits"] = "4A4";
  expect_refused(json, {"t.json", "bits", "4A4", "W4A4"});
  json = small_table();
  json["trends"][0]["rows"] = {"a", "c"};
  expect_refused(json, {"trends[0]", "no row 'c'"});
  json = small_table();
  json["trends"][0]["rows"] = {"a"};
  expect_refused(json, {"trends[0]", "at least two"});
  expect_refused(nlohmann::json::array(), {"t.json", "object"});
}

TEST(TableSpec, Bits) {
  EXPECT_EQ(parse_bits("W2A16"), std::make_pair(2, 16));
  EXPECT_EQ(parse_bits("W4A4"), std::make_pair(4, 4));
  for (const char* bad :
       {"", "W", "W4", "W4A", "w4a4", "W0A4", "W4A17", "W4A4x", "W99999999999A4"}) {
    expect_error<std::invalid_argument>([&] { parse_bits(bad); }, {"W4A4"});
  }
}

TEST(TableSpec, AllTablesOfTheProjectLoadInThePapersOrder) {
  const std::vector<TableSpec> tables = load_tables(tables_folder);
  std::vector<std::string> keys;
  for (const TableSpec& table : tables) keys.push_back(table.key);
  EXPECT_EQ(keys, (std::vector<std::string>{"3a", "3b", "3c", "5", "7", "8", "9", "12"}));
  for (const TableSpec& table : tables) EXPECT_FALSE(table.trends.empty()) << table.key;
  EXPECT_EQ(select_tables(tables, "all").size(), tables.size());
  const std::vector<TableSpec> two = select_tables(tables, "12,3a");
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0].key, "12");
  expect_error<std::invalid_argument>([&] { select_tables(tables, "3b,4"); }, {"'4'", "3b, 3c, 5"});
}

TEST(TableSpec, FoldersWithoutTablesOrWithOneTwice) {
  const TemporaryFolder folder;
  expect_error<std::runtime_error>([&] { load_tables(folder.path()); }, {"no tables"});
  expect_error<std::runtime_error>([&] { load_tables(folder / "none"); }, {"no tables", "none"});
  folder.write("a.json", small_table().dump());
  folder.write("b.json", small_table().dump());
  expect_error<std::runtime_error>([&] { load_tables(folder.path()); }, {"two files", "3z"});
}

// Every number of the table files is the paper's, and every row of the paper's tables is in one.
TEST(TableSpec, PaperValuesAreThePapers) {
  SKIP_WITHOUT_TEST_DATA();
  const std::filesystem::path path = test_data() / ".." / "paper" / "tables.json";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path << " beside the test data";
  std::map<std::string, nlohmann::json> paper;
  const nlohmann::json file = read_json_file(path);
  for (const nlohmann::json& table : file.at("tables")) paper[table.at("id")] = table.at("rows");
  int compared = 0;
  for (const TableSpec& table : load_tables(tables_folder)) {
    std::set<std::string> used;
    for (const RowSpec& row : table.rows) {
      for (const std::string& source : row.source) {
        const size_t slash = source.rfind('/');
        const nlohmann::json& rows = paper.at(source.substr(0, slash));
        const nlohmann::json& theirs = rows.at(std::stoul(source.substr(slash + 1)));
        for (const auto& [metric, value] : theirs.at("values").items()) {
          ASSERT_EQ(row.paper.count(metric), 1u) << source << " " << metric;
          EXPECT_EQ(row.paper.at(metric), value.get<double>()) << source << " " << metric;
          ++compared;
        }
        const std::pair<const char*, const char*> same[] = {
            {"window_blocks", "window"}, {"overlap", "overlap"}, {"rank", "rank"}};
        for (const auto& [theirs_name, ours_name] : same) {
          if (!theirs.contains(theirs_name)) continue;
          EXPECT_EQ(row.settings.at(ours_name), theirs.at(theirs_name)) << source;
        }
        if (!row.bits.empty()) {
          EXPECT_EQ(row.bits, theirs.at("bits")) << source;
        }
        EXPECT_TRUE(used.insert(source).second) << source << " is used twice";
      }
      EXPECT_EQ(row.source.empty(), row.paper.empty()) << table.key << " " << row.name;
    }
    for (const std::string& id : table.paper_tables) {
      for (size_t i = 0; i < paper.at(id).size(); ++i) {
        EXPECT_EQ(used.count(id + "/" + std::to_string(i)), 1u) << id << "/" << i << " is left out";
      }
    }
  }
  EXPECT_GE(compared, 120);
}

TEST(AxisTable, EveryRegisteredRoundingSchemeIsARow) {
  const TableSpec table = axis_table("rounding", {}, 12);
  ASSERT_EQ(table.rows.size(), rounding_schemes().names().size());
  EXPECT_NE(table.find_row("adaround"), nullptr);
  EXPECT_EQ(table.find_row("adaround")->settings.at("rounding"), "adaround");
}

TEST(AxisTable, ValuesHaveTheSettingsType) {
  EXPECT_EQ(axis_table("rank", {"3", "16"}, 12).rows[1].settings.at("rank"), 16);
  EXPECT_EQ(axis_table("l2", {"sum"}, 12).rows[0].settings.at("l2"), "sum");
  expect_error<std::invalid_argument>([] { axis_table("rank", {"three"}, 12); }, {"rank", "three"});
  expect_error<std::invalid_argument>([] { axis_table("rank", {}, 12); }, {"rank", "--axis rank="});
  expect_error<std::invalid_argument>([] { axis_table("rnk", {"3"}, 12); }, {"rnk", "rank"});
  expect_error<std::invalid_argument>([] { axis_table("rank", {"3", "3"}, 12); }, {"twice"});
}

TEST(AxisTable, SchedulesAreValidForAnyNumberOfBlocks) {
  for (int64_t blocks = 1; blocks <= 13; ++blocks) {
    const TableSpec axis = axis_table("schedule", {}, blocks);
    for (const RowSpec& row : axis.rows) {
      Settings settings;
      apply_json(settings, row.settings);
      EXPECT_NO_THROW(validate(settings, blocks)) << blocks << " blocks: " << row.name;
    }
  }
}

}  // namespace
}  // namespace cbq::test_experiments_spec
