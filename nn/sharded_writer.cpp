#include "nn/sharded_writer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "nn/atomic_file.h"
#include "nn/safetensors.h"

namespace cbq {

ShardedWriter::ShardedWriter(std::filesystem::path folder, int64_t files)
    : folder_(std::move(folder)), files_(files) {
  check(files >= 1, "ShardedWriter: ", files, " files; expected at least 1");
  std::filesystem::create_directories(folder_);
}

void ShardedWriter::add(const std::map<std::string, Tensor>& tensors) {
  check(written_ < files_, "ShardedWriter: ", folder_, " has all its ", files_, " files");
  const std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", written_ + 1, files_);
  for (const auto& [name, tensor] : tensors) {
    check(file_of_.emplace(name, file).second, "ShardedWriter: tensor \"", name,
          "\" is in an earlier file of ", folder_);
    bytes_ += tensor.bytes();
  }
  write_safetensors(folder_ / file, tensors, {{"format", "pt"}});
  ++written_;
}

void ShardedWriter::finish() const {
  check(written_ == files_, "ShardedWriter: ", written_, " of ", files_, " files are written to ",
        folder_);
  const nlohmann::json index = {{"metadata", {{"total_size", bytes_}}}, {"weight_map", file_of_}};
  write_text_atomically(folder_ / "model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace cbq
