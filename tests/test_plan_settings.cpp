// What every row of the paper's tables runs: each setting, so that neither a method's file nor a
// table's can change a cell unnoticed.
#include "cbq/methods.h"
#include "experiments/plan.h"
#include "nn/formats/json.h"
#include "tests/test_data.h"

namespace cbq::test_plan_settings {
namespace {

using nlohmann::json;

// The fixture holds, by method, table and row, what differs from the defaults of Settings at the
// table's own bits. It was written by the program before methods were files.
TEST(PlanSettings, OfEveryRowAreWhatTheyWere) {
  const std::filesystem::path root = CBQ_SOURCE_DIR;
  const json fixture = read_json_file(root / "tests/fixtures/plan_settings.json");
  int compared = 0;
  for (const auto& [method, tables] : fixture.items()) {
    PlanOptions options;
    options.method = method;
    for (const TableSpec& table : load_tables(root / "experiments/tables")) {
      if (!tables.contains(table.key)) continue;  // a table that is newer than the fixture
      for (const RowSpec& row : table.rows) {
        SCOPED_TRACE(concat(method, ", table ", table.key, ", row ", row.name));
        json expected = to_json(Settings{});
        expected.update(tables.at(table.key).at(row.name));
        expected["method"] = method;
        const std::string& bits = row.bits.empty() ? table.bits : row.bits;
        EXPECT_EQ(to_json(row_settings(table, row, bits, {}, 0, options)), expected);
        ++compared;
      }
    }
  }
  EXPECT_EQ(compared, 3 * 66);
}

TEST(PlanSettings, ARowWhoseMethodIsNotForItsBitsIsMissingWithTheReason) {
  const TableSpec table = axis_table("method", {"gptq", "nearest"}, 4);
  PlanOptions options;
  options.bits = {"W4A4"};
  PlanModel model;
  model.blocks = 4;
  const Plan plan = make_plan({table}, model, options, {"model", "calibration", "texts"});
  const std::vector<PlannedRow>& rows = plan.tables.front().rows;
  ASSERT_EQ(rows.size(), 4u);  // two for orientation
  EXPECT_NE(rows[2].missing.find("gptq is for abits 16"), std::string::npos) << rows[2].missing;
  EXPECT_TRUE(rows[2].cells.empty());
  EXPECT_EQ(rows[3].missing, "");
  EXPECT_EQ(rows[3].cells.size(), 1u);
}

// --settings changes the rows of the table, not what they are compared with.
TEST(PlanSettings, RowsForOrientationStayWhatTheySay) {
  PlanOptions options;
  options.bits = {"W4A4"};
  options.settings = {{"polish_epochs", 3}, {"rotation", "r1"}, {"solver", "gptq"}};
  PlanModel model;
  model.blocks = 4;
  const Plan plan = make_plan({axis_table("method", {"cbq"}, 4)}, model, options,
                              {"model", "calibration", "texts"});
  const std::vector<PlannedRow>& rows = plan.tables.front().rows;
  ASSERT_EQ(rows.size(), 3u);
  for (size_t i = 0; i < rows.size(); ++i) {
    const Settings& s = plan.cells[rows[i].cells.at(0).at(0)].settings;
    EXPECT_EQ(s.polish_epochs, i < 2 ? 0 : 3) << i;
    EXPECT_EQ(s.rotation, i < 2 ? "none" : "r1") << i;
    EXPECT_EQ(s.solver, i < 2 ? "none" : "gptq") << i;
  }
}

TEST(PlanSettings, TheAxisOfMethodsHasARowForEach) {
  const TableSpec table = axis_table("method", {}, 4);
  EXPECT_EQ(table.rows.size(), method_names().size());
}

}  // namespace
}  // namespace cbq::test_plan_settings
