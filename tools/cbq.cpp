// cbq: train, quantize and measure language models from the command line.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <iostream>
#include <new>

#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "experiments/command_line.h"
#include "tensor/runtime/device_error.h"
#include "tensor/runtime/environment.h"
#include "tensor/runtime/program.h"
#include "tensor/runtime/program_version.h"
#include "tools/cli/command.h"

namespace {

using namespace cbq;
using namespace cbq::cli;

constexpr Command commands[] = {
    {"quantize", "Quantize a model by cross-block reconstruction", setup_quantize},
    {"evaluate", "Perplexity and zero-shot tasks of a model, quantized or not", setup_evaluate},
    {"generate", "Text from a model, quantized or not, beside that of another", setup_generate},
    {"export", "A quantized model to another format", setup_export},
    {"convert", "A GGUF file to a model folder", setup_convert},
    {"inspect", "What is in a model folder, layer by layer", setup_inspect},
    {"data", "Known data sets to files of token ids, by published protocols", setup_data},
    {"tokenize", "Text to a file of token ids", setup_tokenize},
    {"sample", "Calibration segments sampled from a model itself", setup_sample},
    {"methods", "Published methods that --method knows, and what each is made of", setup_methods},
    {"parts", "Rounding schemes, grids, solvers, transforms and formats, with a sentence for each",
     setup_parts},
    {"check-device", "Compare the tuned kernels of a GPU with their reference kernels",
     setup_check_device},
    {"train", "Train a language model from scratch", setup_train},
    {"completion", "What makes a shell complete commands and options: bash, zsh or fish",
     setup_completion},
    {"man", "The manual page, for `man -l`", setup_man},
};

/// What helps a command that runs out of memory, or loses its device.
CommandAdvice advice_of(const std::string& command) {
  if (command == "quantize") {
    return {
        "these need less memory: a smaller --window or --batch (segments per step), a shorter "
        "--segment-length or --evaluate-length, --parameterization low_rank instead of dense "
        "rounding, --load blockwise and, on a GPU, CBQ_STREAMS=host",
        "finished windows are on disk: the same command with --resume continues after them"};
  }
  if (command == "evaluate") {
    return {
        "--batch 1, a shorter --segment-length, fewer --pass-tokens for tasks and "
        "--load blockwise need less memory",
        ""};
  }
  if (command == "export") {
    return {
        "a result of one file is exported in one piece; of a result that `cbq quantize --load "
        "blockwise` wrote, one block at a time is in memory",
        ""};
  }
  if (command == "sample" || command == "generate") {
    return {command == "sample" ? "a shorter --segment-length and --load blockwise need less memory"
                                : "fewer --tokens and --load blockwise need less memory",
            ""};
  }
  if (command == "train") {
    return {
        "training keeps the whole model, its gradients and two moments of each in memory, 16 "
        "bytes per parameter, whatever the options: beside them a smaller --batch or fewer "
        "--tokens need less memory, a smaller model (--layers, --hidden) needs less of both",
        "the same command goes on from the state that was saved last"};
  }
  return {};
}

/// The one place where errors become messages and exit codes. Everything half-made has been
/// removed on the way here, by destructors.
int run(const std::string& name, const Action& action) {
  try {
    check_environment();
    set_command_advice(advice_of(name));
    action();
    return finish_output();
  } catch (const Interrupted& stop) {
    std::cerr << "cbq " << name << ": " << stop.what() << std::endl;
    return interrupted_exit_code();
  } catch (const std::bad_alloc&) {
    const std::string& advice = advice_on_memory();
    std::cerr << "cbq " << name << ": out of memory"
              << (advice.empty() ? "; use a machine with more" : "; " + advice) << std::endl;
  } catch (const std::exception& error) {
    std::cerr << "cbq " << name << ": " << message_of(error.what()) << std::endl;
  }
  return exit_error;
}

}  // namespace

int main(int argc, char** argv) {
  start_program(argv);
  CLI::App app("cbq: post-training quantization of language models by cross-block reconstruction");
  app.name("cbq");
  app.set_version_flag("--version", "cbq " + program_version() + "\n" + build_facts());
  app.require_subcommand(1);
  app.footer(environment_help());
  std::vector<std::pair<CLI::App*, Action>> actions;
  for (const Command& command : commands) {
    CLI::App* sub = app.add_subcommand(command.name, command.help);
    actions.emplace_back(sub, command.setup(*sub));
    let_later_values_win(*sub);
    refuse_negative_counts(*sub);
  }
  const auto is_first = [&](const Command& c) {
    return argc > 1 && std::string(argv[1]) == c.name;
  };
  if (argc > 1 && argv[1][0] != '-' &&
      std::none_of(std::begin(commands), std::end(commands), is_first)) {
    std::cerr << "cbq: there is no command '" << argv[1] << "'; see cbq --help" << std::endl;
    return exit_usage;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : exit_usage;  // --help and --version end here, too
  }
  for (const auto& [sub, action] : actions) {
    if (sub->parsed()) return run(sub->get_name(), action);
  }
  return exit_usage;
}
