#include "nn/formats/checkpoint_writer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "nn/json.h"
#include "nn/safetensors.h"
#include "tensor/error.h"

namespace cbq {

int64_t PlannedTensor::bytes() const {
  int64_t count = size_of(dtype);
  for (const int64_t extent : shape) count *= extent;
  return count;
}

CheckpointWriter::CheckpointWriter(std::filesystem::path folder, std::vector<PlannedTensor> plan,
                                   int64_t max_file_bytes)
    : folder_(std::move(folder)), plan_(std::move(plan)) {
  check(!plan_.empty(), "CheckpointWriter: no tensors to write");
  check(max_file_bytes > 0, "CheckpointWriter: files of at most ", max_file_bytes, " bytes");
  std::set<std::string> names;
  int64_t in_file = 0;
  for (size_t i = 0; i < plan_.size(); ++i) {
    const PlannedTensor& tensor = plan_[i];
    check(is_utf8(tensor.name) && tensor.name != "__metadata__",
          "CheckpointWriter: impossible name \"", tensor.name, "\"");
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
    files_[f].name = files_.size() == 1
                         ? "model.safetensors"
                         : fmt::format("model-{:05}-of-{:05}.safetensors", f + 1, files_.size());
  }
  begin_file();
}

std::string CheckpointWriter::header_of(const File& file) const {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  header["__metadata__"] = {{"format", "pt"}};  // without it other libraries refuse the file
  int64_t at = 0;
  for (size_t i = file.begin; i < file.end; ++i) {
    const int64_t end = at + plan_[i].bytes();
    header[plan_[i].name] = {{"dtype", safetensors_name_of(plan_[i].dtype)},
                             {"shape", plan_[i].shape},
                             {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

void CheckpointWriter::begin_file() {
  const std::string header = header_of(files_[file_]);
  const uint64_t size = header.size();
  out_ = std::make_unique<AtomicFile>(folder_ / files_[file_].name);
  out_->write(&size, sizeof size);
  out_->write(header);
  skip_complete_tensors();
}

/// Leaves tensors of which every byte is written (at once those that have none), and files of which
/// every tensor is.
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
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  for (const File& file : files_) {
    for (size_t i = file.begin; i < file.end; ++i) map[plan_[i].name] = file.name;
  }
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", total_bytes_}}},
                                        {"weight_map", map}};
  write_text_atomically(folder_ / "model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace cbq
