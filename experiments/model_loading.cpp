#include "experiments/model_loading.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "cbq/quantized_folder.h"
#include "cbq/watch.h"
#include "nn/block_walk.h"
#include "tensor/runtime/device_memory.h"
#include "tensor/storage.h"

namespace cbq {
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

void LoadOptions::check_word() const {
  check(load == "auto" || load == "whole" || load == "blockwise", "--load: unknown '", load,
        "'; known: auto, whole, blockwise");
}

std::unique_ptr<Transformer> LoadOptions::load_blocks(std::unique_ptr<Transformer> opened,
                                                      int64_t free, const LoadWatch& watch) const {
  check_word();
  const int64_t bytes = parameter_bytes(*opened);
  if (load == "whole" || (load == "auto" && bytes <= free / 2)) {
    const Watch loading{watch.interrupted, {}};
    load_all_blocks(*opened, [&](int64_t) { loading.poll("loading the model"); });
  } else if (watch.say) {
    watch.say(concat("the model's parameters take ", mebibytes(bytes), " of ", mebibytes(free),
                     " free on ", name_of(opened->device()),
                     ": blocks are loaded when they are needed"));
  }
  return opened;
}

std::unique_ptr<Transformer> LoadOptions::open(const std::filesystem::path& folder, Dtype dtype,
                                               Device device, const LoadWatch& watch) const {
  check_word();
  const int64_t free = device_memory(device).free;
  return load_blocks(open_any_model(folder, dtype, device), free, watch);
}

std::string peak_memory_text(Device device) {
  std::string text = "peak host memory " + mebibytes(peak_resident_bytes());
  if (device != Device::cpu()) {
    text += concat(", ", name_of(device), " ", mebibytes(memory_statistics(device).reserved_bytes));
  }
  return text;
}

}  // namespace cbq
