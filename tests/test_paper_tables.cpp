// The table files against the paper's data, and what they may say of models.
#include <gtest/gtest.h>

#include <regex>

#include "cbq/methods.h"
#include "experiments/paper_models.h"
#include "experiments/table_spec.h"
#include "nn/formats/json.h"
#include "tests/test_data.h"

namespace cbq::test_paper_tables {
namespace {

using nlohmann::json;

const std::filesystem::path tables_folder =
    std::filesystem::path(CBQ_SOURCE_DIR) / "experiments" / "tables";

std::filesystem::path paper_file() { return test_data() / ".." / "paper" / "tables.json"; }

#define SKIP_WITHOUT_PAPER()                                          \
  SKIP_WITHOUT_TEST_DATA();                                           \
  if (!std::filesystem::exists(paper_file())) {                       \
    GTEST_SKIP() << "no " << paper_file() << " beside the test data"; \
  }                                                                   \
  static_assert(true)

/// Our method for the paper's word; "" where the row runs the method of the command line.
const std::map<std::string, std::string> method_of_word = {{"fp", ""},
                                                           {"cbq", ""},
                                                           {"gptq", "gptq"},
                                                           {"rptq", "rptq"},
                                                           {"qllm", "qllm"},
                                                           {"omniquant", "omniquant"},
                                                           {"cbq_star", "cbq_star"},
                                                           {"os_plus", "outlier_suppression_plus"}};

void expect_same_settings(const TableSpec& table, const RowSpec& row, const json& theirs,
                          const std::string& source) {
  const std::pair<const char*, const char*> same[] = {{"window_blocks", "window"},
                                                      {"overlap", "overlap"},
                                                      {"rank", "rank"},
                                                      {"preprocess", "preprocess"},
                                                      {"homologous", "homologous"}};
  for (const auto& [theirs_name, ours_name] : same) {
    if (!theirs.contains(theirs_name) || theirs.at(theirs_name).is_null()) continue;
    EXPECT_EQ(row.settings.at(ours_name), theirs.at(theirs_name)) << source;
  }
  if (theirs.contains("reconstruction")) {
    EXPECT_EQ(row.settings.value("reconstruct", "cbq") != "none", theirs.at("reconstruction"))
        << source;
  }
  if (!row.bits.empty()) {
    EXPECT_EQ(row.bits, theirs.at("bits") == "FP" ? json("W16A16") : theirs.at("bits")) << source;
  }
  if (!table.models.empty() && !theirs.at("model").is_null()) {
    EXPECT_EQ(row.group, theirs.at("model")) << source;
  }
  const bool varies_method =
      std::find(table.axis.begin(), table.axis.end(), "method") != table.axis.end();
  if (!varies_method || table.kind == TableKind::components) return;
  EXPECT_EQ(row.settings.value("method", ""), method_of_word.at(theirs.at("method"))) << source;
}

/// Returns how many values were compared.
int expect_same_values(const RowSpec& row, const json& theirs, const std::string& source) {
  int compared = 0;
  for (const auto& [metric, value] : theirs.at("values").items()) {
    if (value.is_null()) {  // the paper leaves the cell blank
      EXPECT_EQ(row.paper.count(metric), 0u) << source << " " << metric;
      continue;
    }
    ++compared;
    const auto ours = row.paper.find(metric);
    if (ours == row.paper.end()) {
      ADD_FAILURE() << source << " " << metric << " is left out";
      continue;
    }
    const double printed =
        value.is_boolean() ? (value.get<bool>() ? 1.0 : 0.0) : value.get<double>();
    EXPECT_EQ(ours->second, printed) << source << " " << metric;
  }
  EXPECT_LE(row.paper.size(), theirs.at("values").size()) << source;
  return compared;
}

// Every number of the table files is the paper's, and every row of every one of the paper's tables
// is in the file of that table.
TEST(PaperTables, HaveEveryValueOfThePaper) {
  SKIP_WITHOUT_PAPER();
  std::map<std::string, json> paper;
  const json file = read_json_file(paper_file());
  int in_data = 0, compared = 0;
  for (const json& table : file.at("tables")) {
    paper[table.at("id")] = table.at("rows");
    for (const json& row : table.at("rows")) {
      for (const auto& [metric, value] : row.at("values").items()) in_data += !value.is_null();
    }
  }
  std::set<std::string> left_out;
  for (const auto& [id, rows] : paper) left_out.insert(id);
  for (const TableSpec& table : load_tables(tables_folder)) {
    std::set<std::string> used;
    const std::string own = (table.version() == "iclr" ? "iclr." : "") + table.key;
    EXPECT_EQ(left_out.erase(own), 1u) << own;
    for (const RowSpec& row : table.rows) {
      EXPECT_TRUE(!row.source.empty() || row.paper.empty()) << table.key << " " << row.name;
      for (const std::string& source : row.source) {
        const size_t slash = source.rfind('/');
        const std::string id = source.substr(0, slash);
        const json& theirs = paper.at(id).at(std::stoul(source.substr(slash + 1)));
        const int values = expect_same_values(row, theirs, source);
        if (id == own) compared += values;
        expect_same_settings(table, row, theirs, source);
        EXPECT_TRUE(used.insert(source).second) << source << " is used twice";
      }
    }
    for (const std::string& id : table.paper_tables) {
      for (size_t i = 0; i < paper.at(id).size(); ++i) {
        EXPECT_EQ(used.count(id + "/" + std::to_string(i)), 1u) << id << "/" << i << " is left out";
      }
    }
  }
  EXPECT_TRUE(left_out.empty()) << "no file for " << *left_out.begin();
  EXPECT_EQ(compared, in_data);
  EXPECT_GE(compared, 1000);
}

/// The ids in "iclr.5 vs v4.6" or "v1.1/v1.3"; all of a range in "v4.3-v4.6".
std::vector<std::string> tables_named(const std::string& text) {
  std::vector<std::string> ids;
  static const std::regex id("(iclr|v4|v1)\\.[0-9]+[abc]?");
  for (std::sregex_iterator at(text.begin(), text.end(), id), end; at != end; ++at) {
    ids.push_back(at->str());
  }
  if (text.find('-') == std::string::npos) return ids;
  const int first = std::stoi(ids.at(0).substr(3)), last = std::stoi(ids.at(1).substr(3));
  ids.clear();
  for (int i = first; i <= last; ++i) ids.push_back("v4." + std::to_string(i));
  return ids;
}

TEST(PaperTables, HaveEveryDoubt) {
  SKIP_WITHOUT_PAPER();
  std::map<std::string, const TableSpec*> tables;
  const std::vector<TableSpec> all = load_tables(tables_folder);
  for (const TableSpec& table : all) {
    tables[(table.version() == "iclr" ? "iclr." : "") + table.key] = &table;
  }
  const json file = read_json_file(paper_file());
  ASSERT_GE(file.at("doubts").size(), 60u);
  size_t expected = 0, found = 0;
  for (const json& doubt : file.at("doubts")) {
    for (const std::string& id : tables_named(doubt.at("table"))) {
      ++expected;
      const auto& doubts = tables.at(id)->doubts;
      const auto at = std::find_if(doubts.begin(), doubts.end(), [&](const DoubtSpec& d) {
        return d.where == doubt.at("where") && d.kept == doubt.at("kept");
      });
      ASSERT_NE(at, doubts.end()) << id << ": " << doubt.at("where");
      EXPECT_FALSE(at->why.empty()) << id;
      EXPECT_NE(at->text().find(at->where), std::string::npos);
      ++found;
    }
  }
  EXPECT_EQ(found, expected);
}

TEST(PaperTables, NameOurMethodsWhereWeHaveThem) {
  const std::vector<std::string> ours = method_names();
  int named = 0;
  for (const TableSpec& table : load_tables(tables_folder)) {
    for (const RowSpec& row : table.rows) {
      if (!row.settings.contains("method")) continue;
      const std::string method = row.settings.at("method");
      ++named;
      EXPECT_EQ(std::count(ours.begin(), ours.end(), method), 1) << table.key << ": " << method;
    }
  }
  EXPECT_GE(named, 100);
}

// Weights of a block's linear layers, written out: attention and feed-forward part.
TEST(PaperModels, HaveTheSizesOfTheCheckpoints) {
  ASSERT_NE(find_paper_model("LLAMA1-7B"), nullptr);
  EXPECT_EQ(find_paper_model("LLAMA1-7B")->block_weights(), 4 * 4096 * 4096 + 3 * 4096 * 11008);
  EXPECT_EQ(find_paper_model("LLaMA-7B"), find_paper_model("LLAMA1-7B"));
  EXPECT_EQ(find_paper_model("llama2-70b")->block_weights(),
            2LL * 8192 * 8192 + 2LL * 8192 * 1024 + 3LL * 8192 * 28672);
  EXPECT_EQ(find_paper_model("OPT-1.3B")->block_weights(), 12 * 2048 * 2048);
  EXPECT_EQ(find_paper_model("LLAMA3-8B"), nullptr);
  // All blocks together are most of what the name says, in billions.
  for (const PaperModel& model : paper_models()) {
    const double billions = std::stod(model.name.substr(model.name.find('-') + 1));
    const double blocks = static_cast<double>(model.block_weights() * model.blocks) / 1e9;
    EXPECT_LT(blocks, 1.1 * billions) << model.name;
    EXPECT_GT(blocks, 0.6 * billions) << model.name;
  }
}

json grouped() {
  return parse_json(R"({
    "key": "9z", "title": "Two models",
    "paper": {"tables": ["iclr.9z"], "model": "several", "bits": "per row"},
    "bits": "W4A4", "models": ["OPT-30B", "LLAMA1-30B"], "columns": ["piqa_acc"],
    "rows": [{"name": "a", "label": "a", "group": "OPT-30B"},
             {"name": "b", "label": "b", "group": "LLAMA1-30B", "paper": {"piqa_acc": 80.0}}],
    "doubts": [{"where": "b piqa_acc", "kept": 80.0, "other": "81", "why": "a smudge"}]})",
                    "test");
}

void expect_refused(const json& table, std::initializer_list<const char*> parts) {
  expect_error<std::runtime_error>([&] { parse_table(table, "t.json"); }, parts);
}

TEST(TableGroups, AreReadAndChecked) {
  const TableSpec table = parse_table(grouped(), "t.json");
  EXPECT_EQ(table.models, (std::vector<std::string>{"OPT-30B", "LLAMA1-30B"}));
  EXPECT_EQ(table.rows[1].group, "LLAMA1-30B");
  EXPECT_EQ(table.doubts.at(0).text(), "b piqa_acc: 80.0, or 81 (a smudge)");
  json wrong = grouped();
  wrong["models"][0] = "OPT-31B";
  expect_refused(wrong, {"t.json", "models", "OPT-31B", "OPT-30B", "BLOOM-7.1B"});
  wrong = grouped();
  wrong["rows"][0]["group"] = "OPT-66B";
  expect_refused(wrong, {"row 'a'", "OPT-66B", "OPT-30B, LLAMA1-30B"});
  wrong = grouped();
  wrong["rows"][0].erase("group");
  expect_refused(wrong, {"row 'a'", "group ''"});
  wrong = grouped();
  wrong["kind"] = "hour";
  expect_refused(wrong, {"kind", "'hour'", "components, hours"});
  wrong["kind"] = "components";
  expect_refused(wrong, {"row 'a'", "method"});
  wrong = grouped();
  wrong["accuracy"] = "norm";
  expect_refused(wrong, {"accuracy", "'norm'", "acc_norm"});
  wrong = grouped();
  wrong.erase("models");
  expect_refused(wrong, {"row 'a'", "none"});
  wrong["kind"] = "hours";
  expect_refused(wrong, {"models", "hours"});
  wrong = grouped();
  wrong["doubts"][0].erase("why");
  expect_refused(wrong, {"doubts[0]", "'why' is missing"});
}

}  // namespace
}  // namespace cbq::test_paper_tables
