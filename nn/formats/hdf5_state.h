// What stands behind Hdf5File; for nn/hdf5*.cpp only.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nn/formats/atomic_file.h"
#include "nn/formats/hdf5.h"

namespace cbq {
namespace hdf5 {

// Held around every use of the library. HDF5 keeps one error stack per thread and prints it to
// stderr unless told otherwise, per thread.
class Session {
 public:
  Session();

 private:
  std::lock_guard<std::mutex> lock_;
};

// An HDF5 identifier with its close function.
class Handle {
 public:
  Handle() = default;
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Handle() { close(); }
  bool close() {
    const hid_t id = std::exchange(id_, -1);
    return id < 0 || close_(id) >= 0;
  }
  bool valid() const { return id_ >= 0; }
  operator hid_t() const { return id_; }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

Handle scalar_space();
Handle space_of(const Shape& shape);
/// A string of exactly `size` bytes, at least one (HDF5 has no empty type).
Handle string_type(size_t size);
/// Of a new dataset: without its time, so that files made from the same data are the same bytes.
Handle dataset_properties();
std::string without_padding(std::string text);
std::vector<hsize_t> extents_of(const Shape& shape);
/// In memory; on the disk the same, little-endian.
hid_t native_type(Dtype dtype);
/// HDF5's reason for the last failure: the innermost entry of its error stack.
std::string last_error();

}  // namespace hdf5

struct Hdf5File::State {
  std::filesystem::path path;
  std::optional<AtomicFile> writer;  // while the file is being created
  hdf5::Handle file;

  [[noreturn]] void fail_to(const std::string& act, const std::string& name) const {
    const std::string reason = hdf5::last_error();
    fail(path.string(), ": cannot ", act, name.empty() ? "" : " \"" + name + "\"", ": ", reason,
         writer ? "; is the disk full?" : "");
  }
  template <class Result>
  Result expect(Result result, const char* act, const std::string& name) const {
    if (result < 0) fail_to(act, name);
    return result;
  }
  // Closes a file that nobody will read, without writing to the disk.
  void abandon();
  void expect_open() const { check(file.valid(), path, ": the file is closed"); }
  void expect_writable() const {
    expect_open();
    check(writer.has_value(), path, ": opened for reading only");
  }

  bool has(const std::string& name) const {
    expect_open();
    return !name.empty() && name.find('/') == std::string::npos &&
           H5Lexists(file, name.c_str(), H5P_DEFAULT) > 0;
  }
  void expect_new(const std::string& name) const {
    expect_writable();
    check(!name.empty() && name != "." && name.find('/') == std::string::npos &&
              name.find('\0') == std::string::npos,
          path, ": \"", name, "\" is not a name of a dataset");
    check(!has(name), path, ": \"", name, "\" exists already");
  }
  hdf5::Handle dataset(const std::string& name) const {
    check(has(name), path, " has no dataset \"", name, "\"");
    H5L_info_t link{};
    expect(H5Lget_info(file, name.c_str(), &link, H5P_DEFAULT), "open", name);
    // A soft or external link could lead to another file.
    if (link.type != H5L_TYPE_HARD) fail(path.string(), ": \"", name, "\" is a link");
    return {expect(H5Dopen2(file, name.c_str(), H5P_DEFAULT), "open", name), H5Dclose};
  }
  Shape shape_of(const hdf5::Handle& set, const std::string& name) const;
  Dtype dtype_of(const hdf5::Handle& set, const std::string& name) const;
  // Before anything is allocated for a dataset: its bytes must really be in the file.
  void expect_stored(const hdf5::Handle& set, const std::string& name, uint64_t bytes) const;
  hdf5::Handle create_dataset(const std::string& name, const Shape& shape, Dtype dtype);

  // The root group or a dataset, for attributes.
  hdf5::Handle object(const std::string& name) const {
    expect_open();
    if (!name.empty()) return dataset(name);
    return {expect(H5Gopen2(file, "/", H5P_DEFAULT), "open the root of", ""), H5Gclose};
  }
  void write_attribute(const std::string& key, const std::string& object_name, hid_t type,
                       const void* value);
  hdf5::Handle attribute(const std::string& key, const std::string& object_name) const;
  std::string text_of(const hdf5::Handle& attribute, const std::string& key) const;
};

}  // namespace cbq
