// Tables, cells, recipes: what experiments and the command line read as JSON.
#include <CLI/CLI.hpp>

#include "cbq/method_parts.h"
#include "cbq/methods.h"
#include "cbq/window.h"
#include "experiments/cell.h"
#include "experiments/plan.h"
#include "experiments/table_spec.h"
#include "nn/formats/json.h"
#include "quant/transforms/local/preprocessor.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/reseal.h"
#include "tools/cli/settings_options.h"

namespace fs = std::filesystem;

namespace cbq::fuzz {
namespace {

void check_settings(const Settings& settings) {
  validate(settings, 4);
  parse_preprocessors(settings.preprocess);
  settings.weight_config("model.layers.0.mlp.down_proj", true);
  settings.activation_config();
  settings.rounding_config();
  hash_of(settings);
}

const bool tables = add_target(
    {.name = "tables",
     .format = Format::json,
     .file = "table.json",
     .seeds =
         [](const fs::path& folder) {
           size_t number = 0;
           for (const auto& entry :
                fs::directory_iterator(fs::path(CBQ_SOURCE_DIR) / "experiments/tables")) {
             write_seed(folder, number++, "table.json", read_bytes(entry.path()));
           }
           write_seed(folder, number, "table.json", R"({"key": "x", "title": "t",
             "paper": {"tables": [], "model": "m", "bits": "W2A16"}, "bits": "W4A4",
             "settings": {"epochs": 2, "window": 2}, "columns": ["time_hours"],
             "rows": [{"name": "a", "label": "A", "settings": {"overlap": 0}, "epochs_factor": 3},
                      {"name": "b", "label": "B", "bits": "W2A16", "paper": {"c4_ppl": 7.5}}],
             "trends": [{"claim": "a beats b", "rows": ["a", "b"], "metrics": ["c4_ppl"]}]})");
         },
     .run =
         [](const fs::path& file) {
           const std::vector<TableSpec> all = load_tables(file.parent_path());
           PlanModel model;
           model.blocks = 4;
           model.obstacle = [](const Settings& settings) {
             check_settings(settings);
             return "";
           };
           make_plan(select_tables(all, "all"), model, {}, {"model", "calibration", "texts"});
         },
     .names = {"table "}});

const bool methods =
    add_target({.name = "methods",
                .format = Format::json,
                .file = "method.json",
                .seeds =
                    [](const fs::path& folder) {
                      size_t number = 0;
                      for (const auto& entry :
                           fs::directory_iterator(fs::path(CBQ_SOURCE_DIR) / "cbq/methods")) {
                        write_seed(folder, number++, "method.json", read_bytes(entry.path()));
                      }
                    },
                .run =
                    [](const fs::path& file) {
                      const MethodFile method = find_method(file.string());
                      for (const int wbits : possible_bits()) {
                        if (method.obstacle(wbits, 8).empty()) check_settings(method.at(wbits, 8));
                      }
                      components_of(method);
                      slot_settings(method.at(float_bits, float_bits));
                    }});

/// What a store would call the cell's file.
Cell some_cell() {
  CellInputs inputs;
  inputs.model = "model";
  inputs.calibration = "calibration";
  inputs.evaluation = "texts";
  return make_cell(Settings{}, 4, {}, inputs);
}

void cell_seeds(const fs::path& folder) {
  CellResult result;
  TextScore first{3.25, 1000, 0.5, 2.5, 0.75, {600, 400}, {1900, 1350}, {300, 200}, {450, 300}};
  TextScore second{2.5, 900, 0.25, 1.5, 0.875, {900}, {2250}, {225}, {787}};
  result.texts = {first, second};
  result.seconds = 12.5;
  result.peak_bytes = 123456789;
  result.windows = 11;
  result.notes = {"a note"};
  result.version = "v1";
  result.device = "cpu";
  const Cell cell = some_cell();
  CellStore(folder / "0").put(cell, result);
  fs::rename(folder / "0" / (cell.key + ".json"), folder / "0/cell.json");
}

// A broken cell is computed anew: none is an error.
void find_cell(const fs::path& file) {
  const Cell cell = some_cell();
  fs::rename(file, file.parent_path() / (cell.key + ".json"));
  CellStore(file.parent_path()).find(cell, {});
  const auto json = read_json_file(file.parent_path() / (cell.key + ".json"));
  cell_result_from_json(json_find(json, "result", file.string()), file.string());
}

const bool cells = add_target({.name = "cells",
                               .format = Format::json,
                               .file = "cell.json",
                               .seeds = cell_seeds,
                               .run = find_cell});

const bool cells_resealed = add_target({.name = "cells_resealed",
                                        .format = Format::json,
                                        .file = "cell.json",
                                        .seeds = cell_seeds,
                                        .run = [](const fs::path& file) {
                                          reseal_json(file);
                                          find_cell(file);
                                        }});

const bool recipe = add_target(
    {.name = "recipe",
     .format = Format::json,
     .file = "recipe.json",
     .seeds =
         [](const fs::path& folder) {
           write_seed(folder, 0, "recipe.json", to_json(Settings{}).dump(2));
           const nlohmann::json written = {{"settings", to_json(method_settings("cbq_v4", 4, 8))},
                                           {"settings_hash", "0123"}};
           write_seed(folder, 1, "recipe.json", written.dump(2));
           write_seed(folder, 2, "recipe.json", R"({"wbits": 2, "schedule": "0,0-1,1-3",
             "layer_bits": "down_proj=4,*.0.self_attn.*=8", "preprocess": "smoothquant+outliers:4x30"})");
         },
     .run =
         [](const fs::path& file) {
           CLI::App app;
           cli::SettingsOptions options;
           options.add_to(app);
           app.parse({file.string(), "--recipe"});  // CLI11 takes them from the end
           check_settings(options.resolve([](const std::string&) {}, nullptr));
         },
     // A file of settings that contradict each other is refused in the names of the settings.
     .names = {"bits", "window", "overlap", "schedule", "granularity", "group_size", "preprocess",
               "method", "expected", "known", "loss", "outliers"}});

}  // namespace
}  // namespace cbq::fuzz
