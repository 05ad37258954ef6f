#include "tools/cli/model_loading.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "cbq/quantized_folder.h"
#include "cbq/watch.h"
#include "tensor/runtime/device_memory.h"
#include "tensor/storage.h"
#include "tools/cli/command.h"

namespace cbq::cli {
namespace {

std::string mebibytes(int64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

}  // namespace

void LoadOptions::add_to(CLI::App& app) {
  app.add_option("--load", load,
                 "whole: the model stays in memory; blockwise: its blocks come from the disk when "
                 "they are needed, with the same results; auto: blockwise where the model would "
                 "take more than half of the free memory")
      ->capture_default_str();
}

std::unique_ptr<Transformer> LoadOptions::open(const std::filesystem::path& folder, Dtype dtype,
                                               Device device,
                                               const std::function<void(const std::string&)>& say,
                                               const std::string& needs_whole) const {
  check(load == "auto" || load == "whole" || load == "blockwise", "--load: unknown '", load,
        "'; known: auto, whole, blockwise");
  check(load != "blockwise" || needs_whole.empty(), "--load blockwise: ", needs_whole,
        " needs all blocks at once; leave one of the two out");
  const int64_t free = device_memory(device).free;
  std::unique_ptr<Transformer> model = open_any_model(folder, dtype, device);
  const int64_t bytes = parameter_bytes(*model);
  const bool large = bytes > free / 2;
  const std::string sizes = concat("the model's parameters take ", mebibytes(bytes), " of ",
                                   mebibytes(free), " free on ", name_of(device));
  if (load == "auto" && large && !needs_whole.empty()) {
    say(concat(sizes, "; ", needs_whole, " needs all of them at once"));
  }
  if (load == "whole" || (load == "auto" && (!large || !needs_whole.empty()))) {
    for (int64_t b = 0; b < model->block_count(); ++b) {
      if (interrupted()) throw Interrupted("interrupted while loading the model");
      model->load_block(b);
    }
    model->load_all_blocks();
  } else {
    say(sizes + ": blocks are loaded when they are needed");
  }
  return model;
}

std::string peak_memory_text(Device device) {
  std::string text = "peak host memory " + mebibytes(peak_resident_bytes());
  if (device != Device::cpu()) {
    text += concat(", ", name_of(device), " ", mebibytes(memory_statistics(device).reserved_bytes));
  }
  return text;
}

}  // namespace cbq::cli
