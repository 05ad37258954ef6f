// cbq quantize: a model folder -> a folder of integers that evaluates the same.
#include <CLI/CLI.hpp>
#include <memory>

#include "experiments/command_line.h"
#include "tools/cli/quantize_run.h"

namespace cbq::cli {
namespace {

constexpr const char* footer =
    "An option given here overrides --recipe, and --recipe overrides --method.\n"
    "Without a method, a recipe and options of bits or grids, weights share a scale in groups of "
    "128,\n"
    "or of 64 where 128 does not divide the inputs of every layer, or else per channel.\n"
    "Ctrl-C stops after the current step and keeps the finished windows. The same command with\n"
    "--resume continues the run and gives the same bytes as a run without interruption.";

}  // namespace

std::shared_ptr<QuantizeOptions> add_quantize_options(CLI::App& app) {
  auto o = std::make_shared<QuantizeOptions>();
  app.add_option("model", o->model, "folder of the floating-point model")->required();
  app.add_option("-o,--output", o->output, "folder to write")->required();
  app.add_option("--calibration", o->calibration,
                 "what to learn from: a text, FILE.h5, FILE.json[:KEY], or 'model': sampled from "
                 "the model itself, one token after the other (blockwise, all blocks are read for "
                 "each)")
      ->capture_default_str();
  app.add_option("--segments", o->segments, "calibration segments; 0: all there are, or 128");
  app.add_option("--segment-length", o->segment_length,
                 "tokens of a calibration segment; 0: as they are, or the model's context, at most "
                 "2,048 of a text and 512 of 'model'");
  app.add_option("--tokenizer", o->tokenizer, "for texts; default: the model folder's own");
  app.add_option("--evaluate", o->evaluation.sources,
                 "texts or token files to score before and after");
  app.add_option("--evaluate-segments", o->evaluation.segments, "only the first so many; 0: all");
  o->evaluation.length_option = "--evaluate-length";
  app.add_option("--evaluate-length", o->evaluation.segment_length,
                 "tokens per segment; 0: the model's context, at most 2,048");
  app.add_option("--export", o->format, formats_help())->capture_default_str();
  app.add_option("--export-dtype", o->export_dtype,
                 "type of the weights, where the format has a choice; by default the first (" +
                     format_dtypes_help() + ")");
  app.add_option(
      "--cache", o->cache,
      "folder for activations of the original model, shared by runs with other settings");
  app.add_flag("--resume", o->resume,
               "go on after the last finished window of an interrupted run; where the result is "
               "finished, only score what --evaluate adds");
  app.add_flag("--overwrite", o->overwrite,
               "replace a model folder, or drop an interrupted run, at --output");
  o->loading.add_to(app);
  o->compute.add_to(app);
  app.get_option("--dtype")->description(
      "floating-point type to compute in: f32, bf16; auto: f32 on a CPU, on a GPU bf16 where the "
      "checkpoint is bf16 or f16");
  o->settings.add_to(app);
  app.footer(footer);
  return o;
}

Action setup_quantize(CLI::App& app) {
  const auto o = add_quantize_options(app);
  return [o] {
    catch_interrupts();
    Terminal terminal;
    run_quantize(*o, terminal);
  };
}

}  // namespace cbq::cli
