// The paper's ablation tables on a model at hand: options, defaults and the way out.
#include <fmt/format.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>

#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "experiments/ablation.h"
#include "experiments/command_line.h"
#include "experiments/inputs.h"
#include "experiments/model_loading.h"
#include "experiments/token_source.h"
#include "experiments/workbench.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/json.h"
#include "nn/formats/output_lock.h"
#include "tensor/runtime/device_error.h"
#include "tensor/runtime/device_memory.h"
#include "tensor/runtime/environment.h"
#include "tensor/runtime/program.h"
#include "tensor/runtime/program_version.h"

namespace cbq {
namespace {

struct Options {
  std::filesystem::path model, output, tables_folder;
  std::string calibration;
  std::vector<std::string> texts;  // name=file
  std::string table = "3b,3c";
  std::string axis;
  std::vector<std::string> bits;
  std::vector<std::string> granularities = {"per-channel"};
  std::string method = "cbq", profile;  // profile: the former name, refused
  std::string outliers;
  std::string settings = "{}";
  int64_t segments = 64, segment_length = 128, epochs = 2, seeds = 1, eval_tokens = 16384;
  bool full = false, list = false, fresh = false;
  std::string device = "auto";
  int threads = 0;
  LoadOptions loading;
};

void add_options(CLI::App& app, Options& o) {
  app.add_option(
      "--model", o.model,
      "Hugging Face folder, or a name: smollm2 (what ./setup.sh smollm2 makes); default: embedded");
  app.add_option("--calibration", o.calibration,
                 "text (.txt, .jsonl), token ids (FILE.h5, FILE.json:KEY), or model: sampled from "
                 "it; default: build/text/gcide.calibration.txt");
  app.add_option("--texts", o.texts,
                 "test sets as NAME=FILE, text or token file; the first stands beside the paper's "
                 "C4, the second beside its WikiText-2; default: the test parts in build/text")
      ->expected(1, 8);
  app.add_option("--table", o.table, "tables of the paper, as in 3b,3c; or all")
      ->capture_default_str();
  app.add_option("--axis", o.axis,
                 "instead: a table along one setting, SETTING or SETTING=VALUE,VALUE (values that "
                 "hold commas: divided by ';'); e.g. rounding: all registered schemes");
  app.add_option("--bits", o.bits, "W2A16, W4A4, ...; default: what the table's file says")
      ->delimiter(',');
  app.add_option("--granularity", o.granularities,
                 "per_channel, per_tensor, g64, g128, ...; several stand side by side")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--method", o.method,
                 "settings that a table does not vary: a published method (cbq methods lists them) "
                 "or a file PATH.json")
      ->capture_default_str();
  app.add_option("--profile", o.profile)->group("");
  app.add_option("--segments", o.segments, "calibration segments")->capture_default_str();
  app.add_option("--segment-length", o.segment_length, "their tokens")->capture_default_str();
  app.add_option("--epochs", o.epochs, "passes over them per window")->capture_default_str();
  app.add_flag("--full", o.full,
               "128 segments of full context (at most 2048), 3 epochs, all test "
               "tokens; options given beside it win");
  app.add_option("--seeds", o.seeds, "runs per row: mean and spread")->capture_default_str();
  app.add_option("--eval-tokens", o.eval_tokens, "test tokens per text, evenly spaced; 0: all")
      ->capture_default_str();
  app.add_option(
      "--outliers", o.outliers,
      "plant outliers in the original model by a transform that "
      "keeps its function (COUNTxFACTOR, as in 4x30): for pre-processing tables on models "
      "without natural ones");
  app.add_option("--settings", o.settings, "JSON over the settings of every row, {\"batch\": 2}");
  app.add_option("--device", o.device, "cpu, cuda, cuda:N, auto")->capture_default_str();
  app.add_option("--threads", o.threads,
                 "CPU threads; 0: all, but one for models narrower than 256")
      ->capture_default_str();
  o.loading.add_to(app);
  app.add_option("--output", o.output,
                 "folder of results and finished cells; default: build/ablation, or ablation");
  app.add_option("--tables-folder", o.tables_folder, "default: experiments/tables");
  app.add_flag("--fresh", o.fresh, "compute finished cells anew");
  app.add_flag("--list", o.list, "print the tables and end");
}

void set_defaults(const CLI::App& app, Options& o, const std::filesystem::path& root) {
  const bool built = std::filesystem::is_directory(root / "build");
  const auto in_project = [&](std::filesystem::path& path, const std::filesystem::path& value) {
    if (path.empty()) path = std::filesystem::relative(root / value);
  };
  o.model = model_folder(o.model.empty() ? "embedded" : o.model, root);
  if (o.calibration.empty()) {
    o.calibration = std::filesystem::relative(root / "build/text/gcide.calibration.txt").string();
  }
  in_project(o.tables_folder, "experiments/tables");
  if (o.output.empty() && !built) o.output = "ablation";
  in_project(o.output, "build/ablation");
  if (o.texts.empty()) {
    for (const char* name : {"gcide", "wordnet"}) {
      const std::filesystem::path file = root / "build" / "text" / concat(name, ".test.txt");
      o.texts.push_back(concat(name, "=", std::filesystem::relative(file).string()));
    }
  }
  if (!o.full) return;
  if (app.count("--segments") == 0) o.segments = 128;
  if (app.count("--segment-length") == 0) o.segment_length = 0;  // the context, once it is known
  if (app.count("--epochs") == 0) o.epochs = 3;
  if (app.count("--eval-tokens") == 0) o.eval_tokens = 0;
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(at, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::vector<TableSpec> chosen_tables(const Options& o, int64_t blocks, bool table_given) {
  if (o.axis.empty()) return select_tables(load_tables(o.tables_folder), o.table);
  check(!table_given, "--table and --axis: give one of them; an axis is a table of its own");
  const size_t equals = o.axis.find('=');
  std::vector<std::string> values;
  if (equals != std::string::npos) {
    const std::string list = o.axis.substr(equals + 1);
    values = split(list, list.find(';') == std::string::npos ? ',' : ';');
  }
  return {axis_table(o.axis.substr(0, equals), values, blocks)};
}

PlanOptions plan_options(const Options& o) {
  PlanOptions plan;
  plan.method = o.method;
  plan.bits = o.bits;
  for (const std::string& bits : o.bits) parse_bits(bits);
  plan.granularities.clear();
  for (const std::string& name : o.granularities) {
    plan.granularities.push_back(parse_granularity(name));
  }
  check(o.segments >= 1, "--segments ", o.segments, ": expected at least 1");
  check(o.segment_length >= 0 && o.segment_length != 1, "--segment-length ", o.segment_length,
        ": expected at least 2");
  check(o.epochs >= 1, "--epochs ", o.epochs, ": expected at least 1");
  check(o.seeds >= 1, "--seeds ", o.seeds, ": expected at least 1");
  check(o.eval_tokens >= 0, "--eval-tokens ", o.eval_tokens, ": expected at least 0 (0: all)");
  check(o.threads >= 0, "--threads ", o.threads, ": expected at least 0 (0: all)");
  plan.epochs = o.epochs;
  plan.seeds = o.seeds;
  if (!o.outliers.empty()) plan.outliers = "outliers:" + o.outliers;
  plan.settings = parse_json(o.settings, "--settings");
  Settings trial;
  apply_json(trial, plan.settings);
  return plan;
}

void list_tables(const Options& o) {
  for (const TableSpec& table : load_tables(o.tables_folder)) {
    std::cout << fmt::format("{:<4} {} ({}; {} rows)\n", table.key, table.title, table.bits,
                             table.rows.size());
  }
}

void require_inputs(const Options& o) {
  const bool fetched = o.model.filename() == "smollm2-135m";
  require_file(o.model / "config.json", "model",
               fetched ? "./setup.sh smollm2 makes it"
                       : "the embedded model comes with the repository; for another one give its "
                         "folder with --model, or fetch one with ./setup.sh smollm2");
  const std::string remedy =
      "./setup.sh run makes the default texts (tools/prepare_text.py "
      "build/text)";
  if (o.calibration != "model") {
    require_file(o.calibration, "calibration text", remedy + "; or give --calibration FILE");
  }
  for (const std::string& text : o.texts) {
    require_file(text.substr(text.find('=') + 1), "test text", remedy + "; or give --texts");
  }
}

/// `count` segments of `length` ids.
TokenSet load_calibration(const Options& o, const TokenContext& context) {
  TokenSet set = calibration_tokens(o.calibration, context, o.segments, o.segment_length, 0);
  check(set.count() >= o.segments, o.calibration, ": ", set.count(), " segments; --segments asks ",
        "for ", o.segments);
  check(set.length() >= o.segment_length, o.calibration, ": segments of ", set.length(),
        " ids; --segment-length asks for ", o.segment_length);
  return set;
}

/// The texts of the run; their names and what is said of them go into `ablation`.
std::vector<TokenSet> load_texts(const Options& o, const TokenContext& tokens, int64_t length,
                                 Ablation& ablation) {
  std::vector<TokenSet> texts;
  for (const std::string& text : o.texts) {
    const size_t equals = text.find('=');
    const std::string file = text.substr(equals + 1);
    const std::string name =
        equals == std::string::npos ? name_of_source(file) : text.substr(0, equals);
    texts.push_back(evenly_spaced(evaluation_tokens(file, tokens, 0, length), o.eval_tokens));
    check(std::find(ablation.texts.begin(), ablation.texts.end(), name) == ablation.texts.end(),
          "--texts: two are called '", name, "'; write NAME=FILE");
    ablation.texts.push_back(name);
    ablation.documents.push_back(texts.back().documents);
    ablation.budget.push_back(fmt::format("test {}: {} ({}), {} tokens, ids {}", name, file,
                                          texts.back().protocol, texts.back().token_count(),
                                          texts.back().hash()));
  }
  return texts;
}

void describe_budget(const Options& o, const TokenSet& calibration, Transformer& model,
                     Ablation& ablation) {
  int64_t parameters = 0;
  visit_shapes(model,
               [&](const std::string&, const Shape& shape) { parameters += element_count(shape); });
  const std::vector<std::string> lines = {
      fmt::format("budget: {} segments of {} tokens, {} epochs, {} seed{} (from 0), method {}{}",
                  calibration.count(), calibration.length(), o.epochs, o.seeds,
                  o.seeds == 1 ? "" : "s", o.method,
                  o.settings == "{}" ? "" : ", settings " + o.settings),
      fmt::format("model: {} ({} blocks, {:.1f} M parameters), hash {}", o.model.string(),
                  model.block_count(), static_cast<double>(parameters) / 1e6,
                  ablation.inputs.model.substr(0, 12)),
      fmt::format("calibration: {} ({}), ids {}", o.calibration, calibration.protocol,
                  calibration.hash())};
  ablation.budget.insert(ablation.budget.begin(), lines.begin(), lines.end());
  if (!o.outliers.empty()) {
    ablation.budget.push_back("planted outliers: " + o.outliers +
                              " (a transform that keeps the original model's function)");
  }
  ablation.budget.push_back(fmt::format("device {}, {} threads; version {}",
                                        name_of(model.device()), omp_get_max_threads(),
                                        ablation.version));
}

/// Products of a narrow model are too small to divide: threads would mostly wait for each other,
/// and on a busy machine that wait was measured to make a run eight times slower.
void set_threads(const Options& o, const ModelConfig& config) {
  constexpr int64_t narrow = 256;
  if (o.threads > 0) {
    omp_set_num_threads(o.threads);
  } else if (config.hidden_size < narrow && std::getenv("OMP_NUM_THREADS") == nullptr) {
    omp_set_num_threads(1);
  }
}

void run(const CLI::App& app, Options& o) {
  if (app.count("--profile") > 0) refuse_profile_option(o.profile);
  const std::filesystem::path root = project_root();
  set_defaults(app, o, root);
  if (o.list) return list_tables(o);
  Ablation ablation;
  PlanOptions options = plan_options(o);
  require_inputs(o);
  const OutputLock lock(o.output, OutputLock::Parents::are_made);
  for (const char* folder : {"", "cells", "cache"}) sweep_temporaries(o.output / folder);
  const Device device = device_from_name(o.device);
  const ModelConfig config = ModelConfig::load(o.model);
  set_threads(o, config);
  const std::vector<TableSpec> tables =
      chosen_tables(o, config.num_layers, app.count("--table") > 0);
  const int64_t context = std::min<int64_t>(config.context(), 2048);
  if (o.segment_length == 0) o.segment_length = context;
  check(o.segment_length <= config.context(), "--segment-length ", o.segment_length,
        ": the model's context holds ", config.context());

  Progress progress(std::cerr, stderr_is_terminal());
  ablation.output = o.output;
  ablation.version = program_version();
  ablation.interrupted = interrupted;
  WorkbenchConfig bench;
  LoadWatch loading{[&](const std::string& line) { progress.line(line); }, ablation.interrupted};
  bench.load = [&] {
    const int64_t free = device_memory(device).free;
    auto model = o.loading.load_blocks(open_model(o.model, Dtype::f32, device), free, loading);
    loading.say = nullptr;  // once, not for every cell
    return model;
  };
  std::unique_ptr<Transformer> sampled;  // from which calibration segments come
  if (o.calibration == "model") sampled = bench.load();
  const TokenContext tokens{config, o.model, sampled.get()};
  bench.calibration = load_calibration(o, tokens);
  bench.texts = load_texts(o, tokens, context, ablation);
  sampled.reset();
  bench.folder = o.output;
  bench.version = ablation.version;
  bench.say = [&](const std::string& line) { progress.line(line); };
  bench.interrupted = ablation.interrupted;
  options.work = {bench.calibration.token_count(), 0};
  for (const TokenSet& text : bench.texts) options.work.test_tokens += text.token_count();
  Workbench workbench(bench);
  ablation.inputs = workbench.inputs();
  describe_budget(o, bench.calibration, *open_model(o.model, Dtype::f32, device), ablation);
  const PlanModel model = {config.num_layers,
                           [&](const Settings& s) { return Workbench::obstacle(s, config); }};
  ablation.plan = make_plan(tables, model, options, ablation.inputs);
  ablation.runner = [&](const Cell& cell, const std::function<void(double)>& show) {
    return workbench.run(cell, show);
  };
  if (o.fresh) {  // of the tables asked for; others in the folder stay finished
    for (const Cell& cell : ablation.plan.cells) {
      std::filesystem::remove(o.output / "cells" / (cell.key + ".json"));
      std::filesystem::remove_all(o.output / "unfinished" / cell.key);
    }
  }
  run_ablation(ablation, std::cout, progress);
  std::cout << "written: " << (o.output / "ablation.md").string() << ", .json, .csv, .tex, .html; "
            << (o.output / "lm_eval").string() << "\n";
}

}  // namespace
}  // namespace cbq

int main(int argc, char** argv) {
  cbq::start_program(argv);
  CLI::App app(
      "The paper's ablation tables on a model at hand. Without options: tables 3b and 3c at "
      "W2A16 on the embedded model.");
  cbq::Options options;
  cbq::add_options(app, options);
  cbq::let_later_values_win(app);
  app.footer(cbq::environment_help());
  app.set_version_flag("--version", cbq::program_version());
  CLI11_PARSE(app, argc, argv);
  cbq::catch_interrupts();
  try {
    cbq::check_environment();
    cbq::set_command_advice(
        {"a shorter --segment-length, fewer --segments and --load blockwise "
         "need less memory",
         "finished cells are on disk: the same command continues after them"});
    cbq::run(app, options);
    return cbq::finish_output();
  } catch (const cbq::Interrupted& stop) {
    std::cerr << stop.what() << "\n";
    return cbq::interrupted_exit_code();
  } catch (const std::exception& error) {
    std::cerr << "run_ablation: " << cbq::message_of(error.what()) << "\n";
    return 1;
  }
}
