#include "nn/gguf/gguf_writer.h"

#include <algorithm>
#include <fstream>

#include "tensor/error.h"

namespace cbq {
namespace {

constexpr uint64_t alignment = 32;

template <class T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::string string_of(std::string_view text) {
  return bytes_of<uint64_t>(text.size()) + std::string(text);
}

template <class T>
std::string list_of(GgufType type, const std::vector<T>& values) {
  std::string list = bytes_of(static_cast<uint32_t>(type)) + bytes_of<uint64_t>(values.size());
  for (const T value : values) list += bytes_of(value);
  return list;
}

uint64_t padded(uint64_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

void expect_new(std::vector<std::string>& names, const std::string& name, const char* what) {
  if (std::find(names.begin(), names.end(), name) != names.end()) {
    throw std::logic_error(message_of("GgufWriter: two ", what, " \"", name, "\""));
  }
  names.push_back(name);
}

}  // namespace

GgufWriter::GgufWriter(std::filesystem::path path)
    : path_(std::move(path)), data_path_(path_.string() + ".data") {
  data_ = std::make_unique<AtomicFile>(data_path_);
}
GgufWriter::~GgufWriter() = default;

void GgufWriter::add_field(const std::string& key, GgufType type, const std::string& value) {
  expect_new(keys_, key, "fields");
  fields_.push_back(string_of(key) + bytes_of(static_cast<uint32_t>(type)) + value);
}
void GgufWriter::text(const std::string& key, std::string_view value) {
  add_field(key, GgufType::string, string_of(value));
}
void GgufWriter::number(const std::string& key, uint32_t value) {
  add_field(key, GgufType::u32, bytes_of(value));
}
void GgufWriter::real(const std::string& key, float value) {
  add_field(key, GgufType::f32, bytes_of(value));
}
void GgufWriter::flag(const std::string& key, bool value) {
  add_field(key, GgufType::boolean, std::string(1, value ? '\1' : '\0'));
}
void GgufWriter::texts(const std::string& key, const std::vector<std::string>& values) {
  std::string list =
      bytes_of(static_cast<uint32_t>(GgufType::string)) + bytes_of<uint64_t>(values.size());
  for (const std::string& value : values) list += string_of(value);
  add_field(key, GgufType::array, list);
}
void GgufWriter::integers(const std::string& key, const std::vector<int32_t>& values) {
  add_field(key, GgufType::array, list_of(GgufType::i32, values));
}
void GgufWriter::reals(const std::string& key, const std::vector<float>& values) {
  add_field(key, GgufType::array, list_of(GgufType::f32, values));
}

void GgufWriter::check_complete() const {
  if (left_ == 0) return;
  throw std::logic_error(
      message_of("GgufWriter: tensor \"", names_.back(), "\" lacks ", left_, " bytes"));
}

void GgufWriter::begin_tensor(const std::string& name, const Shape& shape,
                              const GgufBlockFormat& format) {
  check_complete();
  expect_new(names_, name, "tensors");
  check(!shape.empty() && shape.back() % format.values == 0, "GgufWriter: tensor \"", name,
        "\" has rows of ", shape.empty() ? 0 : shape.back(), " values, but a block of ",
        format.name, " has ", format.values);
  std::string entry = string_of(name) + bytes_of(static_cast<uint32_t>(shape.size()));
  uint64_t values = 1;
  for (auto extent = shape.rbegin(); extent != shape.rend(); ++extent) {
    entry += bytes_of(static_cast<uint64_t>(*extent));
    values *= static_cast<uint64_t>(*extent);
  }
  tensors_.push_back(entry + bytes_of(format.id) + bytes_of(data_bytes_));
  left_ = values / static_cast<uint64_t>(format.values) * static_cast<uint64_t>(format.bytes);
  data_bytes_ += left_;
}

void GgufWriter::append(std::span<const std::byte> bytes) {
  if (bytes.size() > left_) {
    throw std::logic_error(message_of("GgufWriter: ", bytes.size() - left_,
                                      " bytes too many for tensor \"",
                                      names_.empty() ? "" : names_.back(), "\""));
  }
  data_->write(bytes.data(), bytes.size());
  left_ -= bytes.size();
  if (left_ > 0) return;
  const std::string padding(padded(data_bytes_) - data_bytes_, '\0');
  data_->write(padding);
  data_bytes_ += padding.size();
}

std::string GgufWriter::header() const {
  std::string all = "GGUF" + bytes_of<uint32_t>(3) + bytes_of<uint64_t>(tensors_.size()) +
                    bytes_of<uint64_t>(fields_.size());
  for (const std::string& field : fields_) all += field;
  for (const std::string& tensor : tensors_) all += tensor;
  all.resize(padded(all.size()));
  return all;
}

void GgufWriter::finish() {
  check_complete();
  AtomicFile file(path_);
  file.write(header());
  std::ifstream data(data_->temporary_path(), std::ios::binary);
  std::vector<char> piece(size_t{1} << 20);
  uint64_t copied = 0;
  while (data.read(piece.data(), static_cast<std::streamsize>(piece.size())) || data.gcount() > 0) {
    file.write(piece.data(), static_cast<size_t>(data.gcount()));
    copied += static_cast<uint64_t>(data.gcount());
  }
  if (copied != data_bytes_) {
    fail("cannot read ", data_->temporary_path().string(), ": ", copied, " of ", data_bytes_,
         " bytes");
  }
  file.publish();
  data_.reset();  // and with it the temporary file
}

}  // namespace cbq
