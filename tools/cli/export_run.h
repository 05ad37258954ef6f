// A run of `cbq export`, for the program and for whoever else wants one.
#pragma once

#include <memory>
#include <string>

#include "tools/cli/command.h"
#include "tools/cli/listener.h"

namespace cbq::cli {

/// The options of `cbq export`.
struct ExportOptions {
  std::string result, output, format, dtype;
  bool overwrite = false;
  ComputeOptions compute;
};

/// Adds them to a command; what is returned gets their values when `app` has parsed.
std::shared_ptr<ExportOptions> add_export_options(CLI::App& app);

/// Writes the result in the format. Throws Interrupted when `listener` asks for it; nothing is
/// written then.
void run_export(const ExportOptions& options, Listener& listener);

}  // namespace cbq::cli
