#include <gtest/gtest.h>

#include <limits>

#include "cbq/methods.h"
#include "experiments/cell.h"
#include "experiments/inputs.h"
#include "experiments/plan.h"
#include "experiments/token_source.h"
#include "experiments/workbench.h"
#include "nn/formats/json.h"
#include "nn/formats/sealed_files.h"
#include "tests/test_data.h"

namespace cbq::test_experiments_cells {
namespace {

ModelConfig model_of(int64_t blocks) {
  ModelConfig config;
  config.num_layers = blocks;
  return config;
}

const CellInputs inputs = {"model", "calibration", "texts"};

CellResult some_result() {
  CellResult result;
  result.texts = {
      {3.25, 1000, 0.5, 2.25, 0.75, {400, 600}, {1300.0, 1950.0}, {200.0, 300.0}, {300, 450}},
      {2.5, 900, 0.25, 1.0, 0.5, {900}, {2250.0}, {225.0}, {450}}};
  result.finished = 1795995480;
  result.seconds = 12.5;
  result.peak_bytes = 123456789;
  result.windows = 11;
  result.notes = {"a note"};
  result.version = "v1";
  result.device = "cpu";
  return result;
}

Settings window_settings(int64_t window, int64_t overlap) {
  Settings s;
  s.window = window;
  s.overlap = overlap;
  return s;
}

std::string key_of(const Settings& settings, int64_t blocks = 4) {
  return make_cell(settings, blocks, {}, inputs).key;
}

TEST(Cell, KeysDifferWhereResultsMay) {
  const Settings s = window_settings(2, 1);
  EXPECT_EQ(key_of(s), key_of(s));
  Settings other = s;
  other.seed = 1;
  EXPECT_NE(key_of(s), key_of(other));
  other = s;
  other.rate_scale *= 1.0001;
  EXPECT_NE(key_of(s), key_of(other));
  EXPECT_NE(key_of(s), key_of(window_settings(2, 0)));
  EXPECT_NE(key_of(s), make_cell(s, 4, {}, {"other", "calibration", "texts"}).key);
  EXPECT_NE(key_of(s), make_cell(s, 4, {}, {"model", "other", "texts"}).key);
  EXPECT_NE(key_of(s), make_cell(s, 4, {}, {"model", "calibration", "other"}).key);
}

TEST(Cell, EqualSchedulesAreOneCell) {
  EXPECT_EQ(key_of(window_settings(4, 0)), key_of(window_settings(8, 4)));
  EXPECT_NE(key_of(window_settings(4, 0), 5), key_of(window_settings(8, 4), 5));
  Settings spelled;
  spelled.schedule = "0-1,1-2,2-3";
  EXPECT_EQ(key_of(window_settings(2, 1)), key_of(spelled));
  // Here the overlap also decides whose rounding is learned.
  Settings a = window_settings(8, 4), b = window_settings(8, 7);
  a.rounding_blocks = b.rounding_blocks = "overlap";
  EXPECT_NE(key_of(a), key_of(b));
}

TEST(Cell, WithoutReconstructionItsOptionsDoNotMatter) {
  Settings a, b;
  a.reconstruct = b.reconstruct = "none";
  b.epochs = 17;
  b.rounding = "adaround";
  b.seed = 3;
  EXPECT_EQ(key_of(a), key_of(b));
  b.wbits = 2;
  EXPECT_NE(key_of(a), key_of(b));
  a.wbits = a.abits = b.wbits = b.abits = 16;
  b.granularity = "per_tensor";
  EXPECT_EQ(key_of(a), key_of(b)) << "the original model has no grid";
}

TEST(CellStore, ReturnsWhatWasPut) {
  const TemporaryFolder folder;
  const CellStore store(folder / "cells");
  const Cell cell = make_cell(window_settings(2, 1), 4, {}, inputs);
  EXPECT_FALSE(store.find(cell, {}));
  store.put(cell, some_result());
  const std::optional<CellResult> found = CellStore(folder / "cells").find(cell, {});
  ASSERT_TRUE(found);
  EXPECT_EQ(to_json(*found), to_json(some_result()));
  EXPECT_FALSE(store.find(make_cell(window_settings(2, 0), 4, {}, inputs), {}));
}

TEST(CellStore, BrokenOrForeignFilesAreComputedAnew) {
  const TemporaryFolder folder;
  const CellStore store(folder.path());
  const Cell cell = make_cell(window_settings(2, 1), 4, {}, inputs);
  store.put(cell, some_result());
  const std::string name = cell.key + ".json";
  const std::string good = read_text_file(folder / name);
  std::string said;
  const auto say = [&](const std::string& line) { said = line; };

  folder.write(name, good.substr(0, good.size() / 2));  // as an interrupted write would leave it
  EXPECT_FALSE(store.find(cell, say));
  EXPECT_NE(said.find("computed anew"), std::string::npos) << said;
  EXPECT_NE(said.find(name), std::string::npos) << said;

  nlohmann::json json = parse_json(good, "good");
  json["identity"]["model"] = "another";
  folder.write(name, json.dump());
  EXPECT_FALSE(store.find(cell, say));
  EXPECT_NE(said.find("is damaged"), std::string::npos) << said;
  folder.write(name, sealed(json).dump());
  EXPECT_FALSE(store.find(cell, say));
  EXPECT_NE(said.find("it differs in the model"), std::string::npos) << said;

  json = parse_json(good, "good");
  json["result"]["seconds"] = "long";
  folder.write(name, sealed(json).dump());
  EXPECT_FALSE(store.find(cell, say));
  EXPECT_NE(said.find("seconds"), std::string::npos) << said;

  folder.write(name, good);
  EXPECT_TRUE(store.find(cell, say));
  // What an interrupted AtomicFile leaves behind is another name, which nobody reads.
  std::filesystem::remove(folder / name);
  folder.write(name + ".tmp", good);
  EXPECT_FALSE(store.find(cell, say));
}

// What programs before this one wrote, and what no program writes.
TEST(CellStore, CellsWithoutTheScoresOfTheirSegmentsAreComputedAnew) {
  const TemporaryFolder folder;
  const CellStore store(folder.path());
  const Cell cell = make_cell(window_settings(2, 1), 4, {}, inputs);
  store.put(cell, some_result());
  const std::string name = cell.key + ".json";
  const nlohmann::json good = parse_json(read_text_file(folder / name), "good");
  std::string said;
  const auto say = [&](const std::string& line) { said = line; };
  const auto find = [&](const char* field, const nlohmann::json& value) {
    nlohmann::json json = good;
    nlohmann::json& text = json["result"]["texts"][0];
    value.is_null() ? static_cast<void>(text.erase(field)) : static_cast<void>(text[field] = value);
    folder.write(name, sealed(json).dump());
    said.clear();
    return store.find(cell, say).has_value();
  };
  EXPECT_TRUE(find("tokens", 1000)) << said;
  for (const char* field : {"segment_nll", "segment_tokens", "segment_kl", "segment_agreed", "kl",
                            "kl_p99", "top1", "mean_nll"}) {
    EXPECT_FALSE(find(field, nullptr)) << field;
    EXPECT_NE(said.find("computed anew"), std::string::npos) << said;
    EXPECT_NE(said.find(field), std::string::npos) << said;
  }
  const std::pair<const char*, nlohmann::json> wrong[] = {
      {"segment_nll", {1300.0}},       {"segment_nll", 3},
      {"segment_kl", {1.0, 2.0, 3.0}}, {"segment_agreed", {1.0, "x"}},
      {"segment_agreed", {-1, 3}},     {"segment_agreed", {401, 3}},
      {"segment_tokens", {400, 601}},  {"segment_tokens", {0, 1000}},
      {"segment_nll", {"long", 2.0}},  {"top1", "most"}};
  for (const auto& [field, value] : wrong) EXPECT_FALSE(find(field, value)) << field << value;
  nlohmann::json late = good;  // a time that no report can print
  late["result"]["finished"] = int64_t{9000000000000000000};
  folder.write(name, sealed(late).dump());
  EXPECT_FALSE(store.find(cell, say).has_value());
  EXPECT_NE(said.find("finished"), std::string::npos) << said;
}

TEST(CellStore, InfinitePerplexitySurvives) {
  const TemporaryFolder folder;
  const CellStore store(folder.path());
  const Cell cell = make_cell(window_settings(2, 1), 4, {}, inputs);
  CellResult result = some_result();
  const double infinity = std::numeric_limits<double>::infinity();
  result.texts[0].mean_nll = result.texts[0].kl = infinity;
  result.texts[0].segment_nll[1] = result.texts[0].segment_kl[1] = infinity;
  store.put(cell, result);
  const auto found = store.find(cell, {});
  ASSERT_TRUE(found);
  EXPECT_TRUE(std::isinf(found->texts[0].mean_nll));
  EXPECT_TRUE(std::isinf(found->texts[0].kl));
  EXPECT_EQ(found->texts[0].segment_nll, result.texts[0].segment_nll);
  EXPECT_EQ(found->texts[0].segment_kl, result.texts[0].segment_kl);
}

TEST(CellStore, SaysWhereItCannotWrite) {
  const TemporaryFolder folder;
  folder.write("file", "");
  expect_error<std::runtime_error>([&] { CellStore(folder / "file" / "cells"); },
                                   {"file/cells", "--output"});
}

TEST(Plan, SettingsInTheirOrderOfPrecedence) {
  TableSpec table;
  table.settings = {{"rank", 7}, {"window", 3}, {"overlap", 2}};
  RowSpec row;
  row.settings = {{"window", 4}};
  row.epochs_factor = 2;
  PlanOptions options;
  options.epochs = 5;
  options.settings = {{"overlap", 1}};
  const Settings s = row_settings(table, row, "W3A8", parse_granularity("g64"), 2, options);
  EXPECT_EQ(s.wbits, 3);
  EXPECT_EQ(s.abits, 8);
  EXPECT_EQ(s.granularity, "per_group");
  EXPECT_EQ(s.group_size, 64);
  EXPECT_EQ(s.rank, 7);
  EXPECT_EQ(s.window, 4);
  EXPECT_EQ(s.overlap, 1);
  EXPECT_EQ(s.epochs, 10);
  EXPECT_EQ(s.seed, 2u);
  options.outliers = "outliers:4x30";
  EXPECT_EQ(row_settings(table, row, "W3A8", {}, 0, options).preprocess, "outliers:4x30");
  row.settings["preprocess"] = "omse";
  EXPECT_EQ(row_settings(table, row, "W3A8", {}, 0, options).preprocess, "outliers:4x30+omse");
}

TEST(Plan, EpochsThatNoNumberHolds) {
  RowSpec row;
  row.epochs_factor = 100;
  row.settings = {{"epochs", std::numeric_limits<int64_t>::max() / 10}};
  expect_error<std::invalid_argument>([&] { row_settings({}, row, "W4A16", {}, 0, {}); },
                                      {"epochs", "100"});
  // The cost of a cell is only an estimate, so it must not overflow.
  Settings s;
  s.epochs = std::numeric_limits<int64_t>::max();
  EXPECT_GT(make_cell(s, 4, {}, inputs).cost, 1e18);
}

TEST(Plan, TheMethodIsThatOfTheRow) {
  RowSpec row;
  row.settings = {{"method", "cbq_iclr"}};
  EXPECT_EQ(row_settings({}, row, "W4A16", {}, 0, {}).rounding, "lora_rounding");
  EXPECT_EQ(row_settings({}, {}, "W4A16", {}, 0, {}).rounding, "signround");
  // Tuned values follow the bits that the row asks for, too.
  row.settings = {{"wbits", 2}};
  EXPECT_EQ(row_settings({}, row, "W4A16", {}, 0, {}).rate_polish,
            method_settings("cbq", 2, 16).rate_polish);
}

TEST(Plan, WhatARowIsCannotBeOverridden) {
  PlanOptions options;
  options.settings = {{"wbits", 3}};
  expect_error<std::invalid_argument>([&] { make_plan({}, {}, options, inputs); },
                                      {"--settings", "wbits", "--bits"});
}

TEST(Cell, OverriddenBitsQuantizeToo) {
  Settings s;
  s.wbits = s.abits = 16;
  EXPECT_FALSE(s.quantizes());
  s.layer_bits = "down_proj=2";
  EXPECT_TRUE(s.quantizes());
}

TEST(Plan, GranularityNames) {
  EXPECT_EQ(parse_granularity("per-channel").granularity, "per_channel");
  EXPECT_EQ(parse_granularity("per-tensor").granularity, "per_tensor");
  EXPECT_EQ(parse_granularity("per_channel").granularity, "per_channel");
  EXPECT_EQ(parse_granularity("per_channel").name, "per-channel");
  EXPECT_EQ(parse_granularity("g128").group_size, 128);
  for (const char* bad : {"", "g", "g0", "gx", "64", "g64x", "per_row"}) {
    expect_error<std::invalid_argument>([&] { parse_granularity(bad); }, {"per_channel", "g64"});
  }
  expect_error<std::invalid_argument>([] { parse_granularity("per_group"); }, {"per_group", "g64"});
}

// Tables 3c, 7 and 9 ask the same questions of the same cells.
TEST(Plan, TablesShareTheirCells) {
  const auto tables = load_tables(std::filesystem::path(CBQ_SOURCE_DIR) / "experiments" / "tables");
  const PlanModel model = {12, {}};
  const auto count = [&](const std::string& keys) {
    return make_plan(select_tables(tables, keys), model, {}, inputs).cells.size();
  };
  EXPECT_EQ(count("3c"), 2u + 7u);
  EXPECT_EQ(count("3c,9"), count("3c"));
  EXPECT_EQ(count("3c,7,9"), 2u + 10u);
  EXPECT_EQ(count("3c,8"), count("3c") + 1u + 7u);
  PlanOptions three;
  three.seeds = 3;
  EXPECT_EQ(make_plan(select_tables(tables, "3c"), model, three, inputs).cells.size(), 2u + 7u * 3u)
      << "nearest rounding has no seed";
}

TEST(Plan, RowsThatTheModelCannotTellApart) {
  const auto tables = load_tables(std::filesystem::path(CBQ_SOURCE_DIR) / "experiments" / "tables");
  const Plan plan = make_plan(select_tables(tables, "7"), {4, {}}, {}, inputs);
  std::map<std::string, std::string> same;
  for (const PlannedRow& row : plan.tables[0].rows) {
    if (row.same_as.empty()) continue;
    same[row.spec.name] = row.same_as;
    EXPECT_EQ(row.because, "one window holds all 4 blocks");
  }
  const std::map<std::string, std::string> expected = {{"4/1", "4/0"}, {"4/2", "4/0"},
                                                       {"4/3", "4/0"}, {"8/0", "4/0"},
                                                       {"8/4", "4/0"}, {"8/7", "4/0"}};
  EXPECT_EQ(same, expected);
  const Plan deeper = make_plan(select_tables(tables, "7"), {12, {}}, {}, inputs);
  for (const PlannedRow& row : deeper.tables[0].rows) {
    EXPECT_EQ(row.same_as, "") << row.spec.name;
  }
}

TEST(Plan, BitsOfTheRowWinAndBitsOfTheCommandLineMultiply) {
  const auto tables = load_tables(std::filesystem::path(CBQ_SOURCE_DIR) / "experiments" / "tables");
  PlanOptions options;
  options.bits = {"W4A4", "W3A16"};
  const Plan plan = make_plan(select_tables(tables, "3b,8"), {12, {}}, options, inputs);
  ASSERT_EQ(plan.tables.size(), 3u);
  EXPECT_EQ(plan.tables[0].bits, "W4A4");
  EXPECT_EQ(plan.tables[1].bits, "W3A16");
  EXPECT_EQ(plan.tables[2].bits, "per row");
  int nearest = 0;
  for (const PlannedRow& row : plan.tables[2].rows) nearest += row.orientation ? 1 : 0;
  EXPECT_EQ(nearest, 3) << "original model, and nearest rounding at both bits";
}

TEST(Plan, RowsThatCannotRunAreListedWithTheReason) {
  const auto tables = load_tables(std::filesystem::path(CBQ_SOURCE_DIR) / "experiments" / "tables");
  const PlanModel model = {12, [](const Settings& s) -> std::string {
                             return s.preprocess == "omse" ? "unknown preprocessor 'omse'" : "";
                           }};
  const Plan plan = make_plan(select_tables(tables, "3a"), model, {}, inputs);
  for (const PlannedRow& row : plan.tables[0].rows) {
    const bool omse = row.spec.name.starts_with("omse");
    EXPECT_EQ(row.missing, omse ? "unknown preprocessor 'omse'" : "") << row.spec.name;
    EXPECT_EQ(row.cells.empty(), omse);
  }
}

TEST(Plan, ImpossibleSettingsAreAnErrorAndNotAMissingRow) {
  const auto tables = load_tables(std::filesystem::path(CBQ_SOURCE_DIR) / "experiments" / "tables");
  const PlanModel model = {12,
                           [](const Settings& s) { return Workbench::obstacle(s, model_of(12)); }};
  PlanOptions options;
  options.settings = {{"overlap", 2}};
  expect_error<std::invalid_argument>(
      [&] { make_plan(select_tables(tables, "3b"), model, options, inputs); },
      {"table 3b", "overlap: 2 with window 2"});
  Settings s;
  EXPECT_EQ(Workbench::obstacle(s, model_of(12)), "");
  s.preprocess = "omse+magic:3";
  EXPECT_EQ(Workbench::obstacle(s, model_of(12)), "pre-processing 'magic' is not registered");
  s.preprocess = "none";
  s.batch = 0;
  expect_error<std::invalid_argument>([&] { Workbench::obstacle(s, model_of(12)); },
                                      {"batch", "at least 1"});
}

TEST(Plan, ATransformThatTheModelCannotTakeIsAMissingRow) {
  ModelConfig config = model_of(2);
  config.hidden_size = 96;
  config.num_heads = config.num_kv_heads = 4;
  config.head_dim = 24;
  config.intermediate_size = 128;
  config.vocab_size = 32;
  Settings s;
  s.rotation = "block64";
  EXPECT_NE(Workbench::obstacle(s, config).find("96"), std::string::npos)
      << Workbench::obstacle(s, config);
  s.rotation = "r1";
  EXPECT_EQ(Workbench::obstacle(s, config), "");
  s.preprocess = "outliers:4x30";
  EXPECT_NE(Workbench::obstacle(s, config).find("outliers are planted behind"), std::string::npos);
}

TEST(Inputs, MissingFilesNameTheRemedy) {
  expect_error<std::runtime_error>([] { require_file("/no/such.txt", "test text", "run ./x"); },
                                   {"test text", "/no/such.txt", "run ./x"});
}

TEST(Inputs, SegmentsToScoreAreSpreadOverTheFile) {
  const TemporaryFolder folder;
  ModelConfig config;
  config.vocab_size = 20;
  config.max_position_embeddings = 8;
  const TokenContext context{config, ""};
  TokenSet tokens;
  for (int32_t i = 0; i < 10; ++i) tokens.segments.push_back({i, i, i, i});
  save_tokens(folder / "t.h5", tokens);
  const std::string file = (folder / "t.h5").string();
  const TokenSet all = evaluation_tokens(file, context, 0, 4);
  const TokenSet some = evenly_spaced(all, 20);
  ASSERT_EQ(some.count(), 5);
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(some.segments[static_cast<size_t>(i)][0], 2 * i);
  EXPECT_NE(some.protocol.find("5 of 10 evenly spaced"), std::string::npos) << some.protocol;
  EXPECT_EQ(evenly_spaced(all, 0).count(), 10);
  EXPECT_EQ(calibration_tokens(file, context, 3, 2, 0).token_count(), 6);
  expect_error<std::invalid_argument>([&] { calibration_tokens(file, context, 3, 9, 0); },
                                      {"--segment-length", "9", "8"});
  expect_error<std::invalid_argument>([&] { calibration_tokens("model", context, 3, 2, 0); },
                                      {"no model to sample from"});
  folder.write("t.json", R"({"a": [[1, 2], [3, 4]]})");
  EXPECT_EQ(calibration_tokens((folder / "t.json").string() + ":a", context, 2, 2, 0).segments,
            (std::vector<std::vector<int32_t>>{{1, 2}, {3, 4}}));
  require_file((folder / "t.json").string() + ":a", "text", "");
}

}  // namespace
}  // namespace cbq::test_experiments_cells
