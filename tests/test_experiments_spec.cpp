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
  EXPECT_EQ(keys,
            (std::vector<std::string>{
                "1",    "2",    "3a",   "3b",   "3c",   "4",    "5",    "6",    "7",    "8",
                "9",    "10",   "11",   "12",   "13",   "14",   "15",   "v4.3", "v4.4", "v4.5",
                "v4.6", "v4.7", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8"}));
  for (const TableSpec& table : tables) {
    EXPECT_EQ(table.trends.empty(), table.kind == TableKind::components) << table.key;
  }
  EXPECT_EQ(select_tables(tables, "all").size(), tables.size());
  const std::vector<TableSpec> two = select_tables(tables, "12,iclr.3a");
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0].key, "12");
  expect_error<std::invalid_argument>([&] { select_tables(tables, "3b,16"); },
                                      {"'16'", "3b, 3c, 4, 5", "v1.8"});
}

TEST(TableSpec, FoldersWithoutTablesOrWithOneTwice) {
  const TemporaryFolder folder;
  expect_error<std::runtime_error>([&] { load_tables(folder.path()); }, {"no tables"});
  expect_error<std::runtime_error>([&] { load_tables(folder / "none"); }, {"no tables", "none"});
  folder.write("a.json", small_table().dump());
  folder.write("b.json", small_table().dump());
  expect_error<std::runtime_error>([&] { load_tables(folder.path()); }, {"two files", "3z"});
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
