// Tables over several models: which model stands for which, what is planned, what is printed.
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <sstream>

#include "experiments/ablation.h"
#include "experiments/dry_run.h"
#include "experiments/paper_models.h"
#include "experiments/task_store.h"
#include "experiments/text_table.h"
#include "nn/formats/json.h"
#include "tests/fake_ablation.h"
#include "tests/test_data.h"

namespace cbq::test_model_groups {
namespace {

const std::filesystem::path tables_folder =
    std::filesystem::path(CBQ_SOURCE_DIR) / "experiments" / "tables";

const std::vector<TableSpec>& all_tables() {
  static const std::vector<TableSpec> tables = load_tables(tables_folder);
  return tables;
}

TableSpec table_of(const std::string& key) { return select_tables(all_tables(), key).front(); }

PlanModel model_of(const std::string& name, const std::string& family, int64_t blocks) {
  PlanModel model;
  model.blocks = blocks;
  model.name = name;
  model.family = family;
  model.inputs = {name, "calibration", "texts"};
  return model;
}

/// "OPT-30B:1 LLAMA1-30B:- ..." of which model stands for which group.
std::string choice(const std::string& key, const std::vector<NamedModel>& named,
                   const std::string& family = "llama") {
  std::string text;
  for (const GroupModel& group : models_of_groups(table_of(key), named, family)) {
    text += concat(text.empty() ? "" : " ", group.group, ":",
                   group.model ? std::to_string(*group.model) : "-");
  }
  return text;
}

TEST(ModelGroups, TheDefaultModelStandsForTheFirstOfItsFamily) {
  EXPECT_EQ(choice("1", {}), "OPT-30B:- OPT-66B:- LLAMA1-30B:0 LLAMA1-65B:-");
  EXPECT_EQ(choice("1", {}, "opt"), "OPT-30B:0 OPT-66B:- LLAMA1-30B:- LLAMA1-65B:-");
  EXPECT_EQ(choice("v1.4", {}), "BLOOM-1.7B:-");
  EXPECT_EQ(choice("3c", {}, "mistral"), ":0") << "a table of one model runs on any";
}

TEST(ModelGroups, NamesComeBeforeFamiliesBeforeTheDefault) {
  EXPECT_EQ(choice("1", {{"LLAMA1-65B", "a"}, {"opt", "b"}}),
            "OPT-30B:2 OPT-66B:- LLAMA1-30B:- LLAMA1-65B:1");
  EXPECT_EQ(choice("1", {{"LLAMA1-30B", "a"}, {"llama", "b"}}),
            "OPT-30B:- OPT-66B:- LLAMA1-30B:1 LLAMA1-65B:2");
  EXPECT_EQ(choice("3c", {{"llama", "a"}}), ":1");
  EXPECT_EQ(choice("3c", {{"LLAMA1-7B", "a"}}), ":1");
  EXPECT_EQ(choice("3c", {{"LLAMA2-7B", "a"}}), ":0");
  EXPECT_EQ(choice("11", {}), "LLAMA1-7B:0 LLAMA1-13B:0 LLAMA1-30B:0 LLAMA1-65B:0");
  EXPECT_EQ(choice("11", {{"LLAMA1-13B", "a"}}),
            "LLAMA1-7B:1 LLAMA1-13B:1 LLAMA1-30B:1 LLAMA1-65B:1")
      << "hours are extrapolated, so one model serves all sizes";
}

TEST(ModelGroups, ShippedModelsStandWhereNobodyNamedTheirFamily) {
  const std::vector<NamedModel> shipped = {{"opt", "models/opt", false},
                                           {"bloom", "models/bloom", false}};
  const auto with_shipped = [&](std::vector<NamedModel> named,
                                const std::vector<TableSpec>& tables = all_tables()) {
    add_shipped_models(shipped, tables, named);
    return named;
  };
  EXPECT_EQ(choice("1", with_shipped({})), "OPT-30B:1 OPT-66B:- LLAMA1-30B:0 LLAMA1-65B:-");
  EXPECT_EQ(choice("v1.4", with_shipped({})), "BLOOM-1.7B:2");
  EXPECT_EQ(choice("1", with_shipped({{"opt", "mine"}})), choice("1", {{"opt", "mine"}}));
  // A model of the family is named: the family's shipped model would stand for another group beside
  // it.
  EXPECT_EQ(choice("1", with_shipped({{"OPT-66B", "mine"}})), choice("1", {{"OPT-66B", "mine"}}));
  EXPECT_EQ(with_shipped({}, {table_of("3c")}).size(), 0u) << "a table of LLaMA alone";
  for (const NamedModel& model : with_shipped({{"opt", "mine"}})) {
    EXPECT_EQ(model.is_given, model.name == "opt");
  }
}

TEST(ModelGroups, NamesThatNoTableKnowsAreRefused) {
  const auto parse = [](const std::vector<std::string>& texts) {
    return parse_models(texts, all_tables());
  };
  EXPECT_EQ(parse({"LLaMA-7B=x"}).at(0).name, "LLAMA1-7B");
  EXPECT_EQ(parse({"opt=a=b"}).at(0).folder, "a=b");
  expect_error<std::invalid_argument>([&] { parse({"GPT-2=x"}); },
                                      {"GPT-2", "OPT-1.3B", "LLAMA2-7B", "bloom, llama, opt"});
  expect_error<std::invalid_argument>([&] { parse({"opt"}); }, {"--models opt", "NAME=FOLDER"});
  expect_error<std::invalid_argument>([&] { parse({"opt="}); }, {"NAME=FOLDER"});
  expect_error<std::invalid_argument>([&] { parse({"opt=a", "opt=b"}); }, {"opt", "twice"});
  expect_error<std::invalid_argument>([&] { parse_models({"opt=a"}, {table_of("3c")}); },
                                      {"'opt'", "LLAMA1-7B"});
}

Plan plan_of(const std::string& keys, const std::vector<NamedModel>& named,
             const std::vector<PlanModel>& models, const PlanOptions& options = {}) {
  return make_plan(select_tables(all_tables(), keys), named, models, options);
}

TEST(GroupedPlan, CellsOfSeveralModelsAreCellsOfTheirModels) {
  const Plan plan =
      plan_of("2", {{"opt", "b"}}, {model_of("default", "llama", 4), model_of("b", "opt", 3)});
  const PlannedTable& table = plan.tables.at(0);
  std::map<std::string, std::set<std::string>> identities;  // group -> models of its cells
  size_t away = 0;
  for (const PlannedRow& row : table.rows) {
    away += !row.at_hand;
    EXPECT_TRUE(row.at_hand || row.cells.empty());
    for (const auto& seeds : row.cells) {
      for (const size_t i : seeds) {
        const Cell& cell = plan.cells[i];
        identities[row.spec.group].insert(cell.identity.model);
        EXPECT_EQ(cell.model, cell.identity.model == "b" ? 1u : 0u);
      }
    }
  }
  EXPECT_EQ(identities, (std::map<std::string, std::set<std::string>>{
                            {"OPT-30B", {"b"}}, {"LLAMA1-30B", {"default"}}}));
  EXPECT_EQ(away, 28u);  // 14 rows each of OPT-66B and LLAMA1-65B
  EXPECT_EQ(table.models, (std::vector<size_t>{1, 0}));
  EXPECT_EQ(table.remarks.size(), 3u);
  for (const TrendSpec& trend : table.spec.trends) {
    EXPECT_EQ(trend.rows[0].find("65B"), std::string::npos) << "nobody can judge it here";
  }
}

TEST(GroupedPlan, GroupsBeginWithNearestRoundingAtTheirBits) {
  const Plan plan = plan_of("6", {}, {model_of("default", "llama", 4)});
  const std::vector<PlannedRow>& rows = plan.tables.at(0).rows;
  std::vector<std::string> labels;
  for (const PlannedRow& row : rows) {
    if (row.orientation) labels.push_back(row.spec.label);
  }
  EXPECT_EQ(labels.size(), 6u) << "one for each of the bits; the original model is a row";
  EXPECT_EQ(labels.at(0), "LLAMA2-7B W4A16 nearest");
  EXPECT_EQ(plan.tables.at(0).bits, "per row");
  EXPECT_EQ(plan_of("14", {}, {model_of("default", "llama", 4)}).tables.at(0).bits, "W6A6");
}

TEST(GroupedPlan, NoCellIsPlannedTwice) {
  const Plan plan = plan_of("all", {}, {model_of("default", "llama", 4)});
  std::set<std::string> keys;
  for (const Cell& cell : plan.cells) EXPECT_TRUE(keys.insert(cell.key).second);
  EXPECT_EQ(plan.tables.size(), 30u);
  size_t asked = 0;
  for (const PlannedTable& table : plan.tables) {
    for (const PlannedRow& row : table.rows) asked += row.cells.size();
  }
  EXPECT_GT(asked, 2 * plan.cells.size());
}

TEST(GroupedPlan, RowsOfMethodsThatAreNotRegisteredAreMissing) {
  TableSpec table = table_of("6");
  table.rows[1].settings["method"] = "no_such_method";
  const Plan plan = make_plan({table}, {}, {model_of("default", "llama", 4)}, {});
  for (const PlannedRow& row : plan.tables.at(0).rows) {
    if (row.spec.name != table.rows[1].name) continue;
    EXPECT_EQ(row.missing, "method 'no_such_method' is not registered");
    EXPECT_TRUE(row.at_hand);
  }
  // On the command line an unknown method is an error.
  PlanOptions options;
  options.method = "no_such_method";
  expect_error<std::invalid_argument>(
      [&] { plan_of("3c", {}, {model_of("default", "llama", 4)}, options); }, {"no_such_method"});
}

// Tables 1 and 2 ask for the same cells, of which table 1 shows accuracies.
TEST(GroupedPlan, ACellIsScoredOnTasksWhereSomeTableShowsThem) {
  PlanOptions options;
  options.task_metrics = {"piqa_acc"};
  const std::vector<PlanModel> models = {model_of("default", "llama", 4)};
  const Plan none = plan_of("2,1", {}, models), some = plan_of("2,1,3c", {}, models, options);
  const Plan only = plan_of("2", {}, models, options);
  for (const Cell& cell : none.cells) EXPECT_FALSE(cell.tasks);
  for (const Cell& cell : only.cells) EXPECT_FALSE(cell.tasks);
  // Table 1 shows the accuracies; table 2 has a row more (QLLM), and 3c cells of its own.
  std::set<std::string> shown, scored;
  for (const Cell& cell : plan_of("1", {}, models, options).cells) shown.insert(cell.key);
  for (const Cell& cell : some.cells) {
    if (cell.tasks) scored.insert(cell.key);
  }
  EXPECT_EQ(scored, shown);
  EXPECT_GT(none.cells.size(), shown.size());
  EXPECT_GT(shown.size(), 10u);
  for (size_t i = 0; i < none.cells.size(); ++i) {
    EXPECT_EQ(none.cells[i].key, some.cells[i].key) << "finished cells keep their names";
  }
}

// By hand: L blocks make L - 1 windows of two blocks, overlap 1.
TEST(GroupedPlan, HoursGrowWithWindowsWeightsTokensAndEpochs) {
  PlanModel model = model_of("default", "llama", 5);
  model.block_weights = 1000;
  PlanOptions options;
  options.epochs = 2;
  options.work.calibration_tokens = 4096;
  const Plan plan = plan_of("11", {}, {model}, options);
  ASSERT_EQ(plan.cells.size(), 1u + (plan.tables[0].rows[0].cells.empty() ? 0u : 1u));
  for (const PlannedRow& row : plan.tables.at(0).rows) {
    if (!row.spec.name.starts_with("CBQ") || row.spec.group != "LLAMA1-13B") continue;
    const double weights = 4.0 * 5120 * 5120 + 3.0 * 5120 * 13824;
    const double expected = 39.0 / 4.0 * weights / 1000.0 * 262144.0 / 4096.0 * 3.0 / 2.0;
    EXPECT_NEAR(row.time_factor / expected, 1.0, 1e-12);
  }
}

TEST(GroupedPlan, StepsAreEpochsTimesBatches) {
  PlanOptions options;
  options.epochs = 2;
  options.calibration_segments = 7;
  options.settings = {{"batch", 2}};
  const Plan plan = plan_of("3b", {}, {model_of("default", "llama", 4)}, options);
  const std::vector<PlannedRow>& rows = plan.tables.at(0).rows;
  EXPECT_EQ(rows.at(2).iterations, 8);   // ceil(7 / 2) in each of two epochs
  EXPECT_EQ(rows.at(5).iterations, 16);  // twice the epochs
}

// ---- what is printed ----------------------------------------------------------------------------

TableSpec small_table() {
  return parse_table(parse_json(R"({
    "key": "9z", "title": "Two models",
    "paper": {"tables": ["iclr.9z"], "model": "several", "bits": "per row"},
    "bits": "W4A4", "models": ["OPT-30B", "LLAMA1-30B"], "columns": ["piqa_acc", "arc_easy_acc"],
    "rows": [{"name": "o", "label": "OPT-30B CBQ", "group": "OPT-30B", "paper": {"piqa_acc": 70.5}},
             {"name": "f", "label": "LLAMA1-30B CBQ", "group": "LLAMA1-30B",
              "paper": {"piqa_acc": 80.25, "arc_easy_acc": 60.0}}],
    "trends": [{"claim": "larger is better", "rows": ["o", "f"]}],
    "doubts": [{"where": "OPT-30B CBQ piqa_acc", "kept": 70.5, "other": "79.5", "why": "a smudge"}]
    })",
                                "test"),
                     "test");
}

CellResult fake_result(const Cell& cell) {
  CellResult result;
  const double nll = cell.settings.wbits == 16             ? 2.0
                     : cell.settings.reconstruct == "none" ? 4.0
                                                           : 3.0;
  const TextScore text = fake_ablation::fake_text(std::exp(nll), 0.01, nll - 2.0);
  result.texts = {text, text};
  result.seconds = 2.0;
  result.windows = 4;
  result.version = "v1";
  if (cell.tasks) result.tasks = {{"piqa/acc", {50.0, 1.0}}, {"piqa/acc_norm", {62.5, 1.0}}};
  return result;
}

Ablation group_ablation(const TemporaryFolder& folder, const std::vector<TableSpec>& tables) {
  Ablation ablation;
  PlanOptions options;
  options.task_metrics = {"piqa_acc"};
  ablation.plan = make_plan(tables, {}, {model_of("models/small", "llama", 4)}, options);
  ablation.runner = [](const Cell& cell, const std::function<void(double)>&) {
    return fake_result(cell);
  };
  ablation.texts = {"a", "b"};
  ablation.budget = {"budget: small"};
  ablation.model_lines = {{"model: models/small"}};
  ablation.tasks = "digest";
  ablation.version = "v1";
  ablation.output = folder.path();
  return ablation;
}

std::string run(const Ablation& ablation) {
  std::ostringstream out, log;
  Progress progress(log, false);
  run_ablation(ablation, out, progress);
  return out.str();
}

const char* const golden[] = {
    "Table 9z: Two models (W4A4, per-channel); paper: several, per row\n",
    "                        | a as C4 | b as WikiText-2 | piqa_acc     | arc_easy_acc\n",
    "row                     |    ours |            ours |  ours  paper |    ours  paper\n",
    "------------------------+---------+-----------------+--------------+---------------\n",
    "OPT-30B CBQ             |       - |               - |     -  70.50 |       -      -\n",
    "------------------------+---------+-----------------+--------------+---------------\n",
    "LLAMA1-30B original     |    7.39 |            7.39 | 62.50      - | no data      -\n",
    "LLAMA1-30B W4A4 nearest |   54.60 |           54.60 | 62.50      - | no data      -\n",
    "------------------------+---------+-----------------+--------------+---------------\n",
    "LLAMA1-30B CBQ          |   20.09 |           20.09 | 62.50  80.25 | no data  60.00\n",
    "  LLAMA1-30B: models/small, the default model, stands here; --models NAME=FOLDER names "
    "another\n",
    "  not at hand: OPT-30B; --models NAME=FOLDER, or FAMILY=FOLDER (llama, opt, bloom), runs "
    "their rows\n",
    "  doubt: OPT-30B CBQ piqa_acc: 70.5, or 79.5 (a smudge)\n",
    "  the paper's values are several (per row), ours W4A4: compare signs, not sizes\n",
    "  budget: small\n",
    "  model: models/small\n"};

TEST(GroupedReport, GoldenLines) {
  const TemporaryFolder folder;
  const std::string text = run(group_ablation(folder, {small_table()}));
  for (const char* line : golden) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  }
  const nlohmann::json json = read_json_file(folder / "ablation.json");
  EXPECT_EQ(json[0].at("rows").at(0).at("group"), "OPT-30B");
  EXPECT_EQ(json[0].at("doubts").size(), 1u);
  EXPECT_EQ(json[0].at("models").size(), 2u);
}

TEST(GroupedReport, AllTablesPrintAndEveryDoubtIsThere) {
  const TemporaryFolder folder;
  const std::string text = run(group_ablation(folder, all_tables()));
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(display_width(line), 100u) << line;
  const std::string markdown = read_text_file(folder / "ablation.md");
  size_t doubts = 0;
  for (const TableSpec& table : all_tables()) {
    for (const DoubtSpec& doubt : table.doubts) {
      EXPECT_NE(markdown.find("- doubt: " + doubt.text()), std::string::npos) << doubt.where;
      ++doubts;
    }
  }
  EXPECT_GE(doubts, 62u);
  EXPECT_NE(text.find("measured per window"), std::string::npos);
  EXPECT_NE(text.find("extrapolated, not measured"), std::string::npos);
}

TEST(GroupedReport, ComponentsComeFromTheMethodsFiles) {
  const TemporaryFolder folder;
  const std::string text = run(group_ablation(folder, {table_of("v1.8")}));
  const std::string row = "SmoothQuant |  yes        yes |  yes            yes |   no        no |";
  EXPECT_NE(text.find(row), std::string::npos) << text;
  EXPECT_NE(text.find("marks: "), std::string::npos) << text;
  const nlohmann::json json = read_json_file(folder / "ablation.json");
  int compared = 0;
  for (const nlohmann::json& one : json[0].at("rows")) {
    if (!one.contains("ours")) continue;
    for (const auto& [metric, value] : one.at("ours").at("per-channel").items()) {
      EXPECT_EQ(value.at("mean"), one.at("paper").at(metric)) << one.at("name") << " " << metric;
      ++compared;
    }
  }
  EXPECT_GE(compared, 4 * 7);
}

// ---- accuracies of cells ------------------------------------------------------------------------

TEST(TaskCells, AreKeptBesideTheCellsAndAskedForAgain) {
  const TemporaryFolder folder;
  Ablation ablation = group_ablation(folder, {small_table()});
  int computed = 0;
  ablation.runner = [&](const Cell& cell, const std::function<void(double)>&) {
    ++computed;
    return fake_result(cell);
  };
  const std::string first = run(ablation);
  EXPECT_EQ(computed, 3);
  EXPECT_EQ(run(ablation), first);
  EXPECT_EQ(computed, 3);
  ablation.tasks = "other";  // another limit, say: the finished scores do not serve
  EXPECT_EQ(run(ablation), first);
  EXPECT_EQ(computed, 6);
  ablation.tasks = "digest";  // and are still there
  EXPECT_EQ(run(ablation), first);
  EXPECT_EQ(computed, 6);
}

TEST(TaskCells, ADamagedFileIsComputedAnew) {
  const TemporaryFolder folder;
  const CellInputs inputs = {"model", "calibration", "texts"};
  const Cell cell = make_cell({}, 4, {}, inputs);
  std::filesystem::create_directory(folder / "cells");
  const TaskStore store(folder / "cells", "0123");
  std::string said;
  const auto say = [&](const std::string& line) { said = line; };
  EXPECT_FALSE(store.find(cell, say));
  store.put(cell, {{"piqa/acc", {51.25, 0.5}}});
  const std::optional<TaskScores> found = store.find(cell, say);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->at("piqa/acc").value, 51.25);
  EXPECT_EQ(found->at("piqa/acc").standard_error, 0.5);
  EXPECT_EQ(said, "");
  const std::string name = "cells/" + cell.key + ".tasks-0123.json";
  const std::string good = read_text_file(folder / name);
  folder.write(name, good.substr(0, good.size() / 2));
  EXPECT_FALSE(store.find(cell, say));
  EXPECT_NE(said.find("computed anew"), std::string::npos) << said;
}

TEST(TaskColumns, ShowWhatTheTableAsksFor) {
  const TaskScores scores = {{"piqa/acc", {1, 0}},   {"piqa/acc_norm", {2, 0}},
                             {"mutual/r@1", {3, 0}}, {"mutual/mrr", {4, 0}},
                             {"ethics/acc", {5, 0}}, {"arc_easy/acc", {6, 0}}};
  const auto value = [&](const std::string& metric, const std::string& accuracy) {
    const TaskScore* score = find_score(scores, metric, accuracy);
    return score == nullptr ? -1.0 : score->value;
  };
  EXPECT_EQ(value("piqa_acc", "acc_norm"), 2);
  EXPECT_EQ(value("piqa_acc", "acc"), 1);
  EXPECT_EQ(value("piqa_acc_first", "acc_norm"), 1);
  EXPECT_EQ(value("piqa_acc_second", "acc"), 2);
  EXPECT_EQ(value("mutual_r1", "acc_norm"), 3);
  EXPECT_EQ(value("mutual_mrr", "acc_norm"), 4);
  EXPECT_EQ(value("ethics_acc", "acc_norm"), 5);
  EXPECT_EQ(value("arc_easy_acc", "acc_norm"), 6) << "a task without acc_norm";
  EXPECT_EQ(value("arc_easy_acc_second", "acc_norm"), -1);
  EXPECT_EQ(value("hellaswag_acc", "acc_norm"), -1);
  EXPECT_EQ(value("c4_ppl", "acc_norm"), -1);
}

TEST(TaskColumns, NoiseOfAnAccuracyIsItsStandardError) {
  const Measured from{50.0, 0.0, 1, 2.0}, to{60.0, 0.0, 1, 2.0};
  const double paper_from = 70.0, paper_to = 75.0;
  const TrendStep step = judge("piqa_acc", &paper_from, &paper_to, from, to, false);
  EXPECT_NEAR(step.noise, 2.0 * std::sqrt(0.04 * 0.04 + (2.0 / 60) * (2.0 / 60)), 1e-12);
  EXPECT_EQ(step.verdict, Verdict::agree);
  const Measured near{53.0, 0.0, 1, 2.0};
  EXPECT_EQ(judge("piqa_acc", &paper_from, &paper_to, from, near, false).verdict,
            Verdict::unresolved);
}

TEST(DryRun, NamesCellsBytesAndTime) {
  const TemporaryFolder folder;
  Ablation ablation = group_ablation(folder, {small_table(), table_of("2")});
  std::ostringstream out;
  print_dry_run(ablation, {{"models/small", 3 << 20, 5 << 20, 0.0}}, out);
  for (const char* part :
       {"table 9z: 4 rows, 3 cells, 3 of them not in a table above; 1 rows of models that are not",
        "table 2: ", "3.0 MiB of parameters", "5.0 MiB of original activations",
        "9z: LLAMA1-30B CBQ, with tasks", " cells, 0 of them finished"}) {
    EXPECT_NE(out.str().find(part), std::string::npos) << part << "\n" << out.str();
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path())) << "a dry run writes nothing";
  // Time: cost times the measured speed.
  double cost = 0.0;
  for (const Cell& cell : ablation.plan.cells) cost += cell.cost;
  out.str("");
  print_dry_run(ablation, {{"models/small", 0, 0, 7200.0 / cost}}, out);
  EXPECT_NE(out.str().find("take about 2:00:00"), std::string::npos) << out.str();
}

}  // namespace
}  // namespace cbq::test_model_groups
