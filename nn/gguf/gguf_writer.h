// GGUF: writer. nn/gguf/gguf.h has the layout.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nn/formats/atomic_file.h"
#include "nn/gguf/gguf.h"

namespace cbq {

/// Writes version 3. Fields come in any order, tensors one after the other; their bytes go to a
/// temporary file beside the final one, so that a model need not fit into the memory. The file
/// appears with finish(). All functions throw std::runtime_error, naming the file, where the disk
/// fails, and std::logic_error for a second field or tensor of one name.
class GgufWriter {
 public:
  explicit GgufWriter(std::filesystem::path path);
  ~GgufWriter();
  GgufWriter(const GgufWriter&) = delete;
  GgufWriter& operator=(const GgufWriter&) = delete;

  void text(const std::string& key, std::string_view value);
  void number(const std::string& key, uint32_t value);
  void real(const std::string& key, float value);
  void flag(const std::string& key, bool value);
  void texts(const std::string& key, const std::vector<std::string>& values);
  void integers(const std::string& key, const std::vector<int32_t>& values);
  void reals(const std::string& key, const std::vector<float>& values);

  /// Begins a tensor; the one before must have all its bytes. `shape`: the outermost extent first.
  void begin_tensor(const std::string& name, const Shape& shape, const GgufBlockFormat& format);
  /// The next bytes of the tensor that was begun last. Throws std::logic_error for too many.
  void append(std::span<const std::byte> bytes);
  void finish();

 private:
  void add_field(const std::string& key, GgufType type, const std::string& value);
  void check_complete() const;
  std::string header() const;

  std::filesystem::path path_, data_path_;
  std::unique_ptr<AtomicFile> data_;
  std::vector<std::string> keys_, fields_, names_, tensors_;
  uint64_t data_bytes_ = 0;  // of all tensors so far, padded
  uint64_t left_ = 0;        // bytes of the last tensor that are still to come
};

}  // namespace cbq
