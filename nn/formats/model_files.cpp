#include "nn/formats/model_files.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "nn/formats/atomic_file.h"
#include "nn/formats/safetensors.h"
#include "nn/formats/unicode.h"
#include "tensor/error.h"

namespace cbq {

const char* stored_name_of(const std::string& tensor, Dtype dtype, StoredAs as) {
  if (as == StoredAs::it_is) return safetensors_name_of(dtype);
  const bool is_i64 = as == StoredAs::i64;
  const Dtype values = is_i64 ? Dtype::i32 : Dtype::u8;
  const char* name = is_i64 ? "I64" : "I8";
  check(dtype == values, "write_safetensors: \"", tensor, "\" is ", dtype, ", and ", name,
        " is written of ", values);
  return name;
}

int64_t PlannedTensor::bytes() const {
  int64_t count = as == StoredAs::i64 ? 8 : size_of(dtype);
  for (const int64_t extent : shape) count *= extent;
  return count;
}

// Entry by entry: the library's ordered object looks through all its keys at every insertion.
std::string safetensors_beginning(const std::filesystem::path& path,
                                  const std::vector<PlannedTensor>& tensors,
                                  const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  const auto add = [&](const std::string& key, const nlohmann::ordered_json& value) {
    if (text.size() > 1) text += ',';
    text += nlohmann::json(key).dump() + ':' + value.dump();
  };
  if (!metadata.empty()) add("__metadata__", metadata);
  int64_t at = 0;
  for (const PlannedTensor& tensor : tensors) {
    check(is_utf8(tensor.name) && tensor.name != "__metadata__", path, ": impossible name \"",
          tensor.name, "\" of a tensor");
    const int64_t end = at + tensor.bytes();
    add(tensor.name, {{"dtype", stored_name_of(tensor.name, tensor.dtype, tensor.as)},
                      {"shape", tensor.shape},
                      {"data_offsets", {at, end}}});
    at = end;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t size = text.size();
  check(size <= max_safetensors_header, path, ": the header would take ", size, " bytes, at most ",
        max_safetensors_header, " are allowed; store less metadata or fewer tensors in a file");
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + text;
}

std::string shard_name(int64_t number, int64_t files) {
  return fmt::format("model-{:05}-of-{:05}.safetensors", number, files);
}

void write_model_index(const std::filesystem::path& folder, int64_t total_bytes,
                       const std::map<std::string, std::string>& file_of) {
  const nlohmann::json index = {{"metadata", {{"total_size", total_bytes}}},
                                {"weight_map", file_of}};
  write_text_atomically(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace cbq
