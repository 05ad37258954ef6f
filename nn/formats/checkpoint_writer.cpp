#include "nn/formats/checkpoint_writer.h"

#include <map>
#include <set>

#include "tensor/error.h"

namespace cbq {

CheckpointWriter::CheckpointWriter(std::filesystem::path folder, std::vector<PlannedTensor> plan,
                                   int64_t max_file_bytes)
    : folder_(std::move(folder)), plan_(std::move(plan)) {
  check(!plan_.empty(), "CheckpointWriter: no tensors to write");
  check(max_file_bytes > 0, "CheckpointWriter: files of at most ", max_file_bytes, " bytes");
  std::set<std::string> names;
  int64_t in_file = 0;
  for (size_t i = 0; i < plan_.size(); ++i) {
    const PlannedTensor& tensor = plan_[i];
    check(names.insert(tensor.name).second, "CheckpointWriter: two tensors \"", tensor.name, "\"");
    const int64_t bytes = tensor.bytes();
    if (files_.empty() || (in_file > 0 && in_file + bytes > max_file_bytes)) {
      files_.push_back({"", i, i});
      in_file = 0;
    }
    files_.back().end = i + 1;
    in_file += bytes;
    total_bytes_ += bytes;
  }
  for (size_t f = 0; f < files_.size(); ++f) {
    files_[f].name =
        files_.size() == 1 ? "model.safetensors" : shard_name(static_cast<int64_t>(f) + 1, files());
    beginning_of(files_[f]);  // throws now, not after hours of writing
  }
  begin_file();
}

std::string CheckpointWriter::beginning_of(const File& file) const {
  const std::vector<PlannedTensor> tensors(plan_.begin() + static_cast<std::ptrdiff_t>(file.begin),
                                           plan_.begin() + static_cast<std::ptrdiff_t>(file.end));
  return safetensors_beginning(folder_ / file.name, tensors, {{"format", "pt"}});
}

void CheckpointWriter::begin_file() {
  out_ = std::make_unique<AtomicFile>(folder_ / files_[file_].name);
  out_->write(beginning_of(files_[file_]));
  skip_complete_tensors();
}

/// Moves to the next tensor when the current one is complete, and to the next file when all tensors
/// of the current file are complete. A tensor without bytes is complete at once.
void CheckpointWriter::skip_complete_tensors() {
  while (tensor_ < files_[file_].end && written_ == plan_[tensor_].bytes()) {
    ++tensor_;
    written_ = 0;
  }
  if (tensor_ < files_[file_].end) return;
  out_->publish();
  out_.reset();
  if (++file_ < files_.size()) begin_file();
}

void CheckpointWriter::append(const void* bytes, int64_t count) {
  check(out_ != nullptr, "CheckpointWriter: every tensor of ", folder_.string(), " is complete");
  const PlannedTensor& tensor = plan_[tensor_];
  check(count >= 0 && count <= tensor.bytes() - written_, "CheckpointWriter: ", count,
        " further bytes for tensor \"", tensor.name, "\", of which ", written_, " of ",
        tensor.bytes(), " are written");
  out_->write(bytes, static_cast<size_t>(count));
  written_ += count;
  skip_complete_tensors();
}

void CheckpointWriter::finish() {
  check(out_ == nullptr, "CheckpointWriter: tensor \"",
        tensor_ < plan_.size() ? plan_[tensor_].name : "", "\" of ", folder_.string(),
        " is not complete");
  if (files_.size() == 1) return;
  std::map<std::string, std::string> file_of;
  for (const File& file : files_) {
    for (size_t i = file.begin; i < file.end; ++i) file_of[plan_[i].name] = file.name;
  }
  write_model_index(folder_, total_bytes_, file_of);
}

}  // namespace cbq
