#include "nn/formats/sharded_writer.h"

#include "nn/formats/model_files.h"
#include "nn/formats/safetensors.h"

namespace cbq {

ShardedWriter::ShardedWriter(std::filesystem::path folder, int64_t files)
    : folder_(std::move(folder)), files_(files) {
  check(files >= 1, "ShardedWriter: ", files, " files; expected at least 1");
  std::filesystem::create_directories(folder_);
}

void ShardedWriter::add(const std::map<std::string, Tensor>& tensors,
                        const std::set<std::string>& as_i64) {
  check(written_ < files_, "ShardedWriter: ", folder_, " has all its ", files_, " files");
  const std::string file = shard_name(written_ + 1, files_);
  for (const auto& [name, tensor] : tensors) {
    check(file_of_.emplace(name, file).second, "ShardedWriter: tensor \"", name,
          "\" is in an earlier file of ", folder_);
    bytes_ += as_i64.contains(name) ? 2 * tensor.bytes() : tensor.bytes();
  }
  write_safetensors_with_i64(folder_ / file, tensors, {{"format", "pt"}}, as_i64);
  ++written_;
}

void ShardedWriter::finish() const {
  check(written_ == files_, "ShardedWriter: ", written_, " of ", files_, " files are written to ",
        folder_);
  write_model_index(folder_, bytes_, file_of_);
}

}  // namespace cbq
