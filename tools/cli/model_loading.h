// How much of a model a command keeps in memory.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "nn/transformer.h"

namespace CLI {
class App;
}

namespace cbq::cli {

struct LoadOptions {
  std::string load = "auto";
  void add_to(CLI::App& app);

  /// The model in `folder`, floating point or quantized: whole, or with blocks on demand. auto: on
  /// demand where its parameters would take more than half of the memory that is free on `device`
  /// (said through `say`). `needs_whole`: the option that makes every block needed at once, or
  /// empty; blocks on demand are then refused with its name. Throws std::invalid_argument for an
  /// unknown word.
  std::unique_ptr<Transformer> open(const std::filesystem::path& folder, Dtype dtype, Device device,
                                    const std::function<void(const std::string&)>& say,
                                    const std::string& needs_whole = "") const;
};

/// "peak host memory 123.4 MiB" (of this process so far), and the device's where that is another.
std::string peak_memory_text(Device device);

}  // namespace cbq::cli
