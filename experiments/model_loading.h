// How much of a model a program keeps in memory: the option --load.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "nn/transformer.h"

namespace CLI {
class App;
}

namespace cbq {

/// What a program hears while a model is loaded; both may be empty.
struct LoadWatch {
  std::function<void(const std::string& line)> say;
  std::function<bool()> interrupted = {};  // true before any block: stop, please
};

struct LoadOptions {
  std::string load = "auto";
  void add_to(CLI::App& app);

  /// A model as open_model gives it, with all blocks in memory or with blocks on demand. auto: on
  /// demand where its parameters would take more than half of the memory that was free on its
  /// device (said through `watch`). `free`: that memory, before the model was opened. Throws
  /// std::invalid_argument for an unknown word, Interrupted when `watch` asks for it.
  std::unique_ptr<Transformer> load_blocks(std::unique_ptr<Transformer> opened, int64_t free,
                                           const LoadWatch& watch) const;
  /// The same for the model in `folder`, floating point or quantized.
  std::unique_ptr<Transformer> open(const std::filesystem::path& folder, Dtype dtype, Device device,
                                    const LoadWatch& watch) const;

 private:
  void check_word() const;
};

/// "peak host memory 123.4 MiB" (of this process so far), and the device's where that is another.
std::string peak_memory_text(Device device);

}  // namespace cbq
