// cbq export: a folder with codes -> the same model in another format.
#include <CLI/CLI.hpp>

#include "nn/block_walk.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/json.h"
#include "nn/formats/output_lock.h"
#include "nn/formats/sealed_files.h"
#include "nn/text/tokenizer.h"
#include "tensor/runtime/program_version.h"
#include "tools/cli/companions.h"
#include "tools/cli/export_run.h"
#include "tools/cli/finished_run.h"
#include "tools/cli/model_card.h"
#include "tools/cli/output_folder.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace cbq::cli {
namespace {

/// One invocation of the command.
class ExportRun {
 public:
  ExportRun(const ExportOptions& options, Listener& listener)
      : o_(options), result_(options.result), listener_(listener) {}
  void run();

 private:
  void check_result() const;
  void read_recipe();
  void check_files() const;
  std::unique_ptr<Transformer> open(Device device);
  void write_companions(const fs::path& to);
  /// Both return what they have written; null: nothing.
  json write_recipe(const fs::path& to) const;
  json write_report(const fs::path& to) const;
  /// That the result was computed in, so that weights get the same bits here.
  Dtype computed_dtype() const;

  const ExportOptions& o_;
  const fs::path result_;
  Listener& listener_;
  std::unique_ptr<Exporter> exporter_;
  Dtype dtype_ = Dtype::f32;
  json recipe_;  // null: the folder has none that this program can use
};

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// Is it the folder of a finished run, with codes in it?
void ExportRun::check_result() const {
  const std::string remedy =
      "; the run that makes it is not finished: let it end, or continue it with the same command "
      "and --resume";
  if (!is_there(result_)) {
    const fs::path path = resolved_output(result_);
    const bool is_begun = is_there(fs::path(path) += ".resume") ||
                          OutputFolder::is_partial(fs::path(path) += ".partial");
    fail_to_open(ENOENT, o_.result, " does not exist",
                 is_begun ? remedy : "; give the folder of a quantized model");
  }
  // The mark may be left by a kill right after the folder got its name; the report was the last
  // file before that.
  if (OutputFolder::is_partial(result_) && !is_there(result_ / "report.json")) {
    fail(o_.result, " is incomplete", remedy);
  }
  if (!is_there(result_ / "config.json")) {
    fail(o_.result, " is no model folder: it has no config.json");
  }
  const std::optional<std::string> method = quantization_of(result_);
  if (!method) {
    fail(o_.result,
         " is not quantized: it holds plain weights (of a floating-point model, or of a ",
         "result in the format dense). Give a result that `cbq quantize --export ", packed_format,
         "` wrote");
  }
  if (*method != quantization_method && !layout_of(*method)) {
    fail(o_.result, " is in the format of \"", *method, "\", which is not read here. ",
         where_to_read(*method));
  }
}

void ExportRun::read_recipe() {
  const fs::path path = result_ / "recipe.json";
  if (!is_there(path)) return;
  if (of_an_earlier_program(path)) {
    listener_.line(concat(path.string(), " has no checksums, an earlier version of this program ",
                          "wrote it: the files are not compared with it, and it is not carried ",
                          "over"));
    return;
  }
  recipe_ = read_sealed_json(path);
}

/// The weights and config.json, against the checksums that they were written with.
void ExportRun::check_files() const {
  if (recipe_.is_null()) return;
  const std::string where = (result_ / "recipe.json").string();
  const auto holds_the_model = [](const std::string& name) {
    return name == "config.json" || name.ends_with(".safetensors") || name.ends_with(".index.json");
  };
  for (const auto& [name, written] : json_at(recipe_, "files", where).items()) {
    if (!holds_the_model(name)) continue;
    const fs::path file = result_ / name;
    if (!is_there(file)) fail(file.string(), " is missing; quantize again");
    const json found = file_record(file, [&](int64_t) {
      listener_.watch().poll("comparing the files of the result with their checksums");
    });
    if (found != written) {
      fail(file.string(), " is damaged: it is ", found.dump(), ", it was written as ",
           written.dump(), "; quantize again");
    }
  }
}

Dtype ExportRun::computed_dtype() const {
  if (recipe_.is_null()) return Dtype::f32;
  const std::string where = (result_ / "recipe.json").string();
  return dtype_from_name(json_string(json_at(recipe_, "dtype", where), "dtype", where));
}

/// With blocks on demand where the result has a file per block: what is written then has, too, as
/// `cbq quantize` would have written it.
std::unique_ptr<Transformer> ExportRun::open(Device device) {
  std::unique_ptr<Transformer> model = open_quantized(result_, computed_dtype(), device);
  if (is_there(result_ / "model.safetensors")) {
    load_all_blocks(*model, [&](int64_t block) {
      listener_.watch().step(block, model->block_count(), "reading the result");
    });
  }
  return model;
}

void ExportRun::write_companions(const fs::path& to) {
  copy_companions(result_, to, [this](const std::string& line) { listener_.line(line); });
}

/// What made these weights: the recipe of the result, with this export.
json ExportRun::write_recipe(const fs::path& to) const {
  if (recipe_.is_null()) return nullptr;
  json recipe = recipe_;
  recipe.erase("checksum");
  json& identity = recipe["identity"];
  identity["export_format"] = o_.format;
  identity.erase("export_dtype");
  if (!exporter_->dtypes().empty()) identity["export_dtype"] = name_of(dtype_);
  recipe["files"] = files_of(to, {listener_.watch().interrupted, {}});
  if (recipe["cbq_version"] != program_version()) recipe["exported_by"] = program_version();
  write_text_atomically(to / "recipe.json", sealed(recipe).dump(2) + "\n");
  return recipe;
}

/// The report of the result. Where weights lose digits, its scores are not those of this folder.
json ExportRun::write_report(const fs::path& to) const {
  if (recipe_.is_null() || !is_there(result_ / "report.json")) return nullptr;
  json report = read_sealed_json(result_ / "report.json");
  report.erase("checksum");
  if (exporter_->rounds(export_plan_of(result_), computed_dtype(), dtype_)) {
    report["quantized"]["results"] = json::object();
    report["evaluated"] = json::object();
  }
  write_text_atomically(to / "report.json", sealed(report).dump(2) + "\n");
  return report;
}

void ExportRun::run() {
  exporter_ = exporters().make(o_.format);
  check(o_.dtype.empty() || !exporter_->dtypes().empty(), "--dtype ", o_.dtype, ": the format ",
        o_.format, " has no choice of types; leave it out");
  dtype_ = export_dtype(*exporter_, "--dtype", o_.dtype);
  const Device device = o_.compute.apply();
  check_result();
  std::error_code absent;
  check(!fs::equivalent(result_, o_.output, absent),
        "--output is the result's own folder, which --overwrite would destroy; name another");
  read_recipe();
  ExportPlan plan = export_plan_of(result_);
  if (!tokenizer_files(result_).empty()) plan.tokenizer = result_;
  check_exportable(*exporter_, plan, "--format");

  OutputFolder folder(o_.output, o_.overwrite);
  check_files();
  std::unique_ptr<Transformer> model = open(device);
  const int64_t total = model->block_count();
  int64_t done = 0;
  export_model(*exporter_, *model, {folder.partial(), dtype_, model->on_demand(), plan.tokenizer},
               [&] { listener_.watch().step(done++, total, "writing blocks"); });
  model = nullptr;
  listener_.finish();
  write_companions(folder.partial());
  const json recipe = write_recipe(folder.partial()), report = write_report(folder.partial());
  if (!recipe.is_null()) write_model_card(folder.partial(), recipe, report);
  listener_.watch().poll("writing the result");
  folder.publish();
  listener_.result(
      concat(o_.output, ": ", total, " blocks in the format ", o_.format,
             exporter_->dtypes().empty() ? "" : concat(", weights in ", name_of(dtype_)), "\n"));
}

}  // namespace

void run_export(const ExportOptions& options, Listener& listener) {
  ExportRun(options, listener).run();
}

std::shared_ptr<ExportOptions> add_export_options(CLI::App& app) {
  auto o = std::make_shared<ExportOptions>();
  app.add_option("result", o->result,
                 "folder with codes: one that `cbq quantize` wrote, or another program in the "
                 "layout of compressed-tensors, gptq, auto_round or awq")
      ->required();
  app.add_option("-f,--format", o->format, formats_help())->required();
  app.add_option("-o,--output", o->output, "folder to write")->required();
  app.add_option("--dtype", o->dtype,
                 "type of the weights, where the format has a choice; by default the first (" +
                     format_dtypes_help() + ")");
  app.add_flag("--overwrite", o->overwrite, "replace a model folder that is there");
  o->compute.add_to(app, false);
  return o;
}

Action setup_export(CLI::App& app) {
  const auto o = add_export_options(app);
  return [o] {
    catch_interrupts();
    Terminal terminal;
    run_export(*o, terminal);
  };
}

}  // namespace cbq::cli
