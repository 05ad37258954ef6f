// cbq parts: what the settings can name, each with a sentence.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "cbq/exporters/exporter.h"
#include "quant/grid_scheme.h"
#include "quant/rounding.h"
#include "quant/solvers/solver.h"
#include "quant/transforms/global/global_transform.h"
#include "quant/transforms/local/preprocessor.h"
#include "tools/cli/command.h"

namespace cbq::cli {
namespace {

template <class Part>
void print(const std::string& option, const std::string& what, const Registry<Part>& parts) {
  std::cout << option << ": " << what << "\n";
  for (const std::string& name : parts.names()) {
    std::cout << "  " << name << "\n      " << parts.make(name)->help() << "\n";
  }
  std::cout << "\n";
}

void print_all() {
  print("--rounding", "how weights are rounded while a window learns", rounding_schemes());
  print("--grid", "what is learned of a weight's grid", grid_schemes());
  print("--solver", "codes of a layer without gradients", solvers());
  print("--transform", "rewrites the whole model first", global_transforms());
  print("--preprocess", "rewrites block by block", preprocessors());
  print("--export", "formats of the result", exporters());
  std::cout << "Each is one file that registers itself; docs/ has a page for adding one.\n";
}

}  // namespace

Action setup_parts(CLI::App& /*app*/) { return print_all; }

}  // namespace cbq::cli
