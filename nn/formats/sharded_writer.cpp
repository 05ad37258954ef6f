#include "nn/formats/sharded_writer.h"

#include "nn/formats/safetensors.h"

namespace cbq {

ShardedWriter::ShardedWriter(std::filesystem::path folder, int64_t files)
    : folder_(std::move(folder)), files_(files) {
  check(files >= 1, "ShardedWriter: ", files, " files; expected at least 1");
  std::filesystem::create_directories(folder_);
}

void ShardedWriter::add(const std::map<std::string, Tensor>& tensors, const StoredTypes& stored) {
  check(written_ < files_, "ShardedWriter: ", folder_, " has all its ", files_, " files");
  const std::string file = shard_name(written_ + 1, files_);
  for (const auto& [name, tensor] : tensors) {
    check(file_of_.emplace(name, file).second, "ShardedWriter: tensor \"", name,
          "\" is in an earlier file of ", folder_);
    const auto as = stored.find(name);
    const bool is_wide = as != stored.end() && as->second == StoredAs::i64;
    bytes_ += is_wide ? 2 * tensor.bytes() : tensor.bytes();
  }
  write_safetensors_stored(folder_ / file, tensors, {{"format", "pt"}}, stored);
  ++written_;
}

void ShardedWriter::finish() const {
  check(written_ == files_, "ShardedWriter: ", written_, " of ", files_, " files are written to ",
        folder_);
  write_model_index(folder_, bytes_, file_of_);
}

}  // namespace cbq
