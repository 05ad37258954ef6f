// HDF5 files: named tensors, strings and small attributes.
//
// A file is either being created (under a temporary name, until publish) or finished and read-only,
// so a reader never meets half a file. bf16 and f16 have no HDF5 type of their own everywhere: they
// are stored as uint16 with the attribute dtype = "bf16" or "f16".
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace cbq {

/// All functions throw std::runtime_error with the path, the object and HDF5's own reason when the
/// library fails, std::invalid_argument for a wrong shape, dtype or name. Calls from several
/// threads are serialized.
class Hdf5File {
 public:
  /// A new file that takes the name `path` at publish(); without publish it leaves nothing behind.
  static Hdf5File create(const std::filesystem::path& path);
  /// An existing file, read-only.
  static Hdf5File open(const std::filesystem::path& path);
  Hdf5File(Hdf5File&&) noexcept;
  Hdf5File& operator=(Hdf5File&&) noexcept;
  ~Hdf5File();

  /// Flushes, syncs to the disk and gives the file its name. The object is closed afterwards.
  void publish();
  /// The same with a checksum of the whole file at its end (nn/formats/sealed_files.h):
  /// check_seal() tells whether the file is still as it was written.
  void publish_sealed();

  const std::filesystem::path& path() const;
  /// Names of the datasets at the top level, sorted.
  std::vector<std::string> names() const;
  bool has(const std::string& name) const;

  // Datasets of numbers. Contiguous on the disk, not compressed: weights and activations hardly
  // compress, and rows can be read alone.

  /// Writes a tensor (on any device) as a new dataset.
  void write(const std::string& name, const Tensor& tensor);
  Tensor read(const std::string& name, Device device = Device::cpu()) const;
  Shape shape(const std::string& name) const;
  Dtype dtype(const std::string& name) const;

  /// A new dataset whose rows come later; its bytes are undefined until then.
  void create_dataset(const std::string& name, const Shape& shape, Dtype dtype);
  /// Writes `rows` [n, ...] over the rows [begin, begin + n) of the first axis.
  void write_rows(const std::string& name, int64_t begin, const Tensor& rows);
  /// The rows [begin, end) of the first axis.
  Tensor read_rows(const std::string& name, int64_t begin, int64_t end,
                   Device device = Device::cpu()) const;

  // Text of any length (also JSON, lists of names) as a dataset.

  void write_string(const std::string& name, const std::string& text);
  std::string read_string(const std::string& name) const;

  // Attributes of the file or, with `object`, of a dataset. Together less than 64 KB per object: an
  // HDF5 limit; longer text belongs into write_string.

  void set_attribute(const std::string& key, int64_t value, const std::string& object = "");
  void set_attribute(const std::string& key, const std::string& value,
                     const std::string& object = "");
  bool has_attribute(const std::string& key, const std::string& object = "") const;
  int64_t int_attribute(const std::string& key, const std::string& object = "") const;
  std::string string_attribute(const std::string& key, const std::string& object = "") const;

 private:
  struct State;
  explicit Hdf5File(std::unique_ptr<State> state);
  void close_written();
  std::unique_ptr<State> state_;
};

}  // namespace cbq
