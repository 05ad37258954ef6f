// GGUF files put together by hand, right and wrong ones.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nn/gguf/gguf.h"

namespace cbq::test {

template <class T>
std::string little_endian(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
inline std::string gguf_string(std::string_view text) {
  return little_endian<uint64_t>(text.size()) + std::string(text);
}
inline std::string gguf_type(GgufType type) { return little_endian(static_cast<uint32_t>(type)); }

class GgufBytes {
 public:
  /// A field of any type; `value` are its bytes behind the type.
  GgufBytes& field(std::string_view key, GgufType type, const std::string& value) {
    fields_.push_back(gguf_string(key) + gguf_type(type) + value);
    return *this;
  }
  GgufBytes& text(std::string_view key, std::string_view value) {
    return field(key, GgufType::string, gguf_string(value));
  }
  GgufBytes& number(std::string_view key, uint32_t value) {
    return field(key, GgufType::u32, little_endian(value));
  }
  GgufBytes& real(std::string_view key, float value) {
    return field(key, GgufType::f32, little_endian(value));
  }
  GgufBytes& flag(std::string_view key, bool value) {
    return field(key, GgufType::boolean, std::string(1, value ? '\1' : '\0'));
  }
  GgufBytes& texts(std::string_view key, const std::vector<std::string>& values) {
    std::string list = gguf_type(GgufType::string) + little_endian<uint64_t>(values.size());
    for (const std::string& value : values) list += gguf_string(value);
    return field(key, GgufType::array, list);
  }
  GgufBytes& integers(std::string_view key, const std::vector<int32_t>& values) {
    std::string list = gguf_type(GgufType::i32) + little_endian<uint64_t>(values.size());
    for (const int32_t value : values) list += little_endian(value);
    return field(key, GgufType::array, list);
  }
  GgufBytes& reals(std::string_view key, const std::vector<float>& values) {
    std::string list = gguf_type(GgufType::f32) + little_endian<uint64_t>(values.size());
    for (const float value : values) list += little_endian(value);
    return field(key, GgufType::array, list);
  }
  /// `extents`: the innermost first.
  GgufBytes& tensor(std::string_view name, const std::vector<uint64_t>& extents, uint32_t type,
                    uint64_t offset) {
    std::string entry = gguf_string(name) + little_endian(static_cast<uint32_t>(extents.size()));
    for (const uint64_t extent : extents) entry += little_endian(extent);
    tensors_.push_back(entry + little_endian(type) + little_endian(offset));
    return *this;
  }
  /// An f32 tensor behind those before.
  GgufBytes& values(std::string_view name, const std::vector<uint64_t>& extents,
                    const std::vector<float>& values) {
    tensor(name, extents, 0, data_.size());
    data_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    data_.resize((data_.size() + 31) / 32 * 32);
    return *this;
  }
  GgufBytes& data(const std::string& bytes) {
    data_ += bytes;
    return *this;
  }

  std::string bytes(size_t alignment = 32) const {
    std::string all = "GGUF" + little_endian<uint32_t>(3) +
                      little_endian<uint64_t>(tensors_.size()) +
                      little_endian<uint64_t>(fields_.size());
    for (const std::string& field : fields_) all += field;
    for (const std::string& tensor : tensors_) all += tensor;
    all.resize((all.size() + alignment - 1) / alignment * alignment);
    return all + data_;
  }

 private:
  std::vector<std::string> fields_, tensors_;
  std::string data_;
};

}  // namespace cbq::test
