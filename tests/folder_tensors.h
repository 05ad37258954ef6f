// What a model folder holds, for comparing two of them.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "nn/formats/safetensors.h"

namespace cbq::test {

/// {name: bytes} of all tensors, however the folder divides them into files.
inline std::map<std::string, std::string> tensors_of(const std::filesystem::path& folder) {
  std::map<std::string, std::string> tensors;
  const Checkpoint checkpoint(folder);
  for (const std::string& name : checkpoint.names()) {
    const std::span<const std::byte> bytes = checkpoint.file_of(name).bytes(name);
    tensors[name] = std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return tensors;
}

}  // namespace cbq::test
