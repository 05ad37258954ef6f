#include "experiments/ablation_options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "experiments/command_line.h"
#include "experiments/inputs.h"
#include "experiments/tasks/task_list.h"
#include "nn/formats/json.h"

namespace cbq {
namespace {

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(at, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

}  // namespace

void AblationOptions::add_to(CLI::App& app) {
  app.add_option(
      "--model", model,
      "Hugging Face folder, or a name: smollm2 (what ./setup.sh smollm2 makes); default: embedded");
  app.add_option(
         "--models", models,
         "for tables over several models: NAME=FOLDER, by the paper's name (LLAMA2-7B) or a "
         "family's (llama, opt, bloom), which stands for its first model in a table; "
         "without, --model stands for its family, and beside the default model small ones that "
         "come with the project for opt and bloom")
      ->expected(1, 32);
  app.add_option("--calibration", calibration,
                 "text (.txt, .jsonl), token ids (FILE.h5, FILE.json:KEY), or model: sampled from "
                 "it; default: build/text/gcide.calibration.txt");
  app.add_option("--texts", texts,
                 "test sets as NAME=FILE, text or token file; the first stands beside the paper's "
                 "C4, the second beside its WikiText-2; default: the test parts in build/text")
      ->expected(1, 8);
  app.add_option("--tasks", tasks,
                 "zero-shot tasks for the accuracy columns: NAME=PATH (folder of data sets, or the "
                 "data file), NAME (from --task-data), or files of requests (.jsonl); names as in "
                 "cbq evaluate --tasks")
      ->expected(1, 16);
  app.add_option("--task-data", task_data, "folder of the tasks' data sets");
  app.add_option("--encoding", encoding,
                 "separate: context and choice each on its own, as the paper's tables; joint, "
                 "joint_without_bos: as later harnesses")
      ->capture_default_str();
  app.add_option("--limit", limit, "only the first so many items of each task; 0: all")
      ->check(expect_from_zero);
  app.add_option("--table", table, "tables of the paper, as in 3b,3c,v4.3; or all")
      ->capture_default_str();
  app.add_option("--axis", axis,
                 "instead: a table along one setting, SETTING or SETTING=VALUE,VALUE (values that "
                 "hold commas: divided by ';'); e.g. rounding: all registered schemes");
  figures.add_to(app);
  app.add_option("--bits", bits, "W2A16, W4A4, ...; default: what the table's file says")
      ->delimiter(',');
  app.add_option("--granularity", granularities,
                 "per_channel, per_tensor, g64, g128, ...; several stand side by side")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--method", method,
                 "settings that a table does not vary: a published method (cbq methods lists them) "
                 "or a file PATH.json; default: what the table's file says, else cbq");
  app.add_option("--profile", profile)->group("");
  app.add_option("--segments", segments, "calibration segments")->capture_default_str();
  app.add_option("--segment-length", segment_length, "their tokens")->capture_default_str();
  app.add_option("--epochs", epochs, "passes over them per window")->capture_default_str();
  app.add_flag("--full", full,
               "128 segments of full context (at most 2048), 3 epochs, all test "
               "tokens; options given beside it win");
  app.add_option("--seeds", seeds, "runs per row: mean and spread")->capture_default_str();
  app.add_option("--eval-tokens", eval_tokens, "test tokens per text, evenly spaced; 0: all")
      ->capture_default_str();
  app.add_option(
      "--outliers", outliers,
      "plant outliers in the original model by a transform that "
      "keeps its function (COUNTxFACTOR, as in 4x30): for pre-processing tables on models "
      "without natural ones");
  app.add_option("--settings", settings, "JSON over the settings of every row, {\"batch\": 2}");
  app.add_option("--device", device, "cpu, cuda, cuda:N, auto")->capture_default_str();
  app.add_option("--threads", threads, "CPU threads; 0: all, but one for models narrower than 256")
      ->capture_default_str();
  loading.add_to(app);
  app.add_option("--output", output,
                 "folder of results and finished cells; default: build/ablation, or ablation");
  app.add_option("--tables-folder", tables_folder, "default: experiments/tables");
  app.add_flag("--fresh", fresh, "compute finished cells anew");
  app.add_flag("--list", list, "print the tables, by the version of the paper, and end");
  app.add_flag("--dry-run", dry_run,
               "print the cells, their bytes and an estimate of the time, and end");
}

void AblationOptions::set_defaults(const CLI::App& app, const std::filesystem::path& root) {
  const bool built = std::filesystem::is_directory(root / "build");
  const auto in_project = [&](std::filesystem::path& path, const std::filesystem::path& value) {
    if (path.empty()) path = std::filesystem::relative(root / value);
  };
  if (model.empty()) {
    for (const char* family : {"opt", "bloom"}) {
      const std::filesystem::path folder = std::filesystem::relative(root / "models" / family);
      shipped.push_back({family, folder.string(), /*is_given=*/false});
    }
  }
  model = model_folder(model.empty() ? "embedded" : model, root);
  if (calibration.empty()) {
    calibration = std::filesystem::relative(root / "build/text/gcide.calibration.txt").string();
  }
  in_project(tables_folder, "experiments/tables");
  if (output.empty() && !built) output = "ablation";
  in_project(output, "build/ablation");
  if (texts.empty()) {
    for (const char* name : {"gcide", "wordnet"}) {
      const std::filesystem::path file = root / "build" / "text" / concat(name, ".test.txt");
      texts.push_back(concat(name, "=", std::filesystem::relative(file).string()));
    }
  }
  for (std::string& model_text : models) {
    const size_t equals = model_text.find('=');
    if (equals == std::string::npos) continue;  // refused where the tables are known
    const std::string folder = model_folder(model_text.substr(equals + 1), root).string();
    model_text = model_text.substr(0, equals + 1) + folder;
  }
  if (!full) return;
  if (app.count("--segments") == 0) segments = 128;
  if (app.count("--segment-length") == 0) segment_length = 0;  // the context, once it is known
  if (app.count("--epochs") == 0) epochs = 3;
  if (app.count("--eval-tokens") == 0) eval_tokens = 0;
}

std::vector<TableSpec> AblationOptions::chosen_tables(const std::vector<TableSpec>& all,
                                                      int64_t blocks, bool table_given) const {
  if (axis.empty()) return select_tables(all, table);
  check(!table_given, "--table and --axis: give one of them; an axis is a table of its own");
  const size_t equals = axis.find('=');
  std::vector<std::string> values;
  if (equals != std::string::npos) {
    const std::string list_of_values = axis.substr(equals + 1);
    const bool has_semicolon = list_of_values.find(';') != std::string::npos;
    values = split(list_of_values, has_semicolon ? ';' : ',');
  }
  return {axis_table(axis.substr(0, equals), values, blocks)};
}

PlanOptions AblationOptions::plan() const {
  PlanOptions made;
  made.method = method;
  made.bits = bits;
  for (const std::string& one : bits) parse_bits(one);
  made.granularities.clear();
  for (const std::string& name : granularities) {
    made.granularities.push_back(parse_granularity(name));
  }
  check(segments >= 1, "--segments ", segments, ": expected at least 1");
  check(segment_length >= 0 && segment_length != 1, "--segment-length ", segment_length,
        ": expected 0 (the model's context) or at least 2");
  check(epochs >= 1, "--epochs ", epochs, ": expected at least 1");
  check(seeds >= 1, "--seeds ", seeds, ": expected at least 1");
  check(eval_tokens >= 0, "--eval-tokens ", eval_tokens, ": expected at least 0 (0: all)");
  check(threads >= 0, "--threads ", threads, ": expected at least 0 (0: all)");
  made.epochs = epochs;
  made.seeds = seeds;
  if (!outliers.empty()) made.outliers = "outliers:" + outliers;
  made.settings = parse_json(settings, "--settings");
  Settings trial;
  apply_json(trial, made.settings);
  return made;
}

std::vector<NamedModel> AblationOptions::named_models(const std::vector<TableSpec>& all) const {
  std::vector<NamedModel> named = parse_models(models, all);
  add_shipped_models(shipped, all, named);
  return named;
}

TaskSet AblationOptions::task_set() const {
  TaskSet set;
  set.encoding = encoding_from_name(encoding);
  set.limit = limit;
  set.tasks = load_task_list(tasks, task_data);
  return set;
}

void AblationOptions::require_model(const std::filesystem::path& folder) const {
  const bool fetched = folder.filename() == "smollm2-135m";
  require_file(folder / "config.json", "model",
               fetched ? "./setup.sh smollm2 makes it"
                       : "the embedded model comes with the repository; for another one give its "
                         "folder with --model or --models, or fetch one with ./setup.sh smollm2");
}

void AblationOptions::require_texts() const {
  const std::string remedy =
      "./setup.sh run makes the default texts (tools/prepare_text.py "
      "build/text)";
  if (calibration != "model") {
    require_file(calibration, "calibration text", remedy + "; or give --calibration FILE");
  }
  for (const std::string& text : texts) {
    require_file(text.substr(text.find('=') + 1), "test text", remedy + "; or give --texts");
  }
}

std::string list_of_tables(const std::vector<TableSpec>& tables) {
  std::string text, version;
  for (const TableSpec& table : tables) {
    if (table.version() != version) {
      version = table.version();
      text += concat(version == "iclr" ? "ICLR 2025" : "arXiv " + version, "\n");
    }
    std::string what = concat(table.rows.size(), " rows");
    const bool fixed = std::all_of(table.rows.begin(), table.rows.end(),
                                   [](const RowSpec& row) { return !row.bits.empty(); });
    if (table.kind != TableKind::components) {
      what = concat(fixed ? "bits per row" : table.bits, "; ", what);
    }
    if (table.models.size() > 1) what += concat("; ", table.models.size(), " models");
    if (table.models.size() == 1) what += concat("; ", table.models.front());
    text += fmt::format("  {:<4} {} ({})\n", table.key, table.title, what);
  }
  return text;
}

}  // namespace cbq
