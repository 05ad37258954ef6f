// The commands of the program `cbq` and what they share.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/runtime/device.h"
#include "tensor/runtime/program.h"

namespace CLI {
class App;
}

namespace cbq::cli {

/// Runs a command whose options have been parsed.
using Action = std::function<void()>;

/// One subcommand: `setup` adds its options to the parser and returns what to run.
struct Command {
  const char* name;
  const char* help;
  Action (*setup)(CLI::App& app);
};

Action setup_train(CLI::App& app);
Action setup_quantize(CLI::App& app);
Action setup_evaluate(CLI::App& app);
Action setup_generate(CLI::App& app);
Action setup_inspect(CLI::App& app);
Action setup_tokenize(CLI::App& app);
Action setup_data(CLI::App& app);
Action setup_sample(CLI::App& app);
Action setup_convert(CLI::App& app);
Action setup_methods(CLI::App& app);
Action setup_parts(CLI::App& app);
Action setup_check_device(CLI::App& app);
Action setup_export(CLI::App& app);
Action setup_completion(CLI::App& app);
Action setup_man(CLI::App& app);

inline constexpr int exit_error = 1;
inline constexpr int exit_usage = 2;

/// The floating-point type of weights that `option` names: f32, bf16 or f16. Throws
/// std::invalid_argument, naming the option, for anything else.
Dtype weight_dtype(const char* option, const std::string& name);

/// For counts and lengths among the options, 0 has a meaning that each option's help gives; below
/// it is an error.
void refuse_negative_counts(CLI::App& app);

/// Options of every command that computes.
struct ComputeOptions {
  std::string device = "auto";
  int threads = 0;  // 0: one per core
  std::string dtype = "auto";
  void add_to(CLI::App& app, bool with_dtype = true);
  /// What to compute the model of `folder` in: the dtype that was given; else f32 on a CPU, and on
  /// a GPU the checkpoint's own where that is a half type. Throws for an unknown dtype.
  Dtype dtype_for(const std::filesystem::path& folder, Device device) const;
  /// The same for a command that quantizes, which computes in f32 or bf16: f16 is refused where it
  /// was given, and replaced by bf16 where it is the checkpoint's own (said through `say`).
  Dtype quantization_dtype_for(const std::filesystem::path& folder, Device device,
                               const std::function<void(const std::string&)>& say) const;
  /// Sets the number of threads. Throws for an unknown device.
  Device apply() const;
};

}  // namespace cbq::cli
