#include "nn/formats/hdf5_state.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace cbq {
namespace hdf5 {
namespace {

// Debian's library is thread-safe through a lock of its own, other builds are not at all.
std::mutex& library_mutex() {
  static std::mutex mutex;
  return mutex;
}

}  // namespace

Session::Session() : lock_(library_mutex()) {
  // At the end of the program the library would write once more to files that it could not write
  // (disk full, ulimit -f), and crash. Hdf5File closes its files itself.
  static const herr_t told = H5dont_atexit();  // before the library is used
  (void)told;
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

std::string last_error() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
        auto* reason = static_cast<std::string*>(out);
        if (reason->empty() && error->desc != nullptr) *reason = error->desc;
        return 0;
      },
      &text);
  return text.empty() ? "unknown HDF5 error" : text;
}

Handle scalar_space() { return {H5Screate(H5S_SCALAR), H5Sclose}; }

Handle string_type(size_t size) {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, std::max<size_t>(size, 1));
  H5Tset_strpad(type, H5T_STR_NULLPAD);
  H5Tset_cset(type, H5T_CSET_UTF8);
  return type;
}

Handle dataset_properties() {
  Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation, false);
  return creation;
}

std::string without_padding(std::string text) {
  text.resize(text.find_last_not_of('\0') + 1);
  return text;
}

hid_t native_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return H5T_NATIVE_DOUBLE;
    case Dtype::f32:
      return H5T_NATIVE_FLOAT;
    case Dtype::bf16:
    case Dtype::f16:
      return H5T_NATIVE_UINT16;
    case Dtype::i32:
      return H5T_NATIVE_INT32;
    case Dtype::u8:
      return H5T_NATIVE_UINT8;
  }
  return -1;
}

std::vector<hsize_t> extents_of(const Shape& shape) { return {shape.begin(), shape.end()}; }

Handle space_of(const Shape& shape) {
  if (shape.empty()) return scalar_space();
  const std::vector<hsize_t> extents = extents_of(shape);
  return {H5Screate_simple(static_cast<int>(shape.size()), extents.data(), nullptr), H5Sclose};
}

}  // namespace hdf5

using hdf5::Handle;
using hdf5::scalar_space;
using hdf5::string_type;

// HDF5 cannot give a file up: closing one writes what is cached, and if the disk is full the
// library keeps the file and crashes at the end of the program. So what is left to write goes into
// memory: it is little, and the descriptor is the only thing that the library knows of the file.
void Hdf5File::State::abandon() {
  if (!file.valid()) return;
  void* descriptor = nullptr;
  if (H5Fget_vfd_handle(file, H5P_DEFAULT, &descriptor) >= 0 && descriptor != nullptr) {
    const int memory = ::memfd_create("abandoned", MFD_CLOEXEC);
    if (memory >= 0) {
      ::dup2(memory, *static_cast<int*>(descriptor));
      ::close(memory);
    }
  }
  file.close();
}

Shape Hdf5File::State::shape_of(const Handle& set, const std::string& name) const {
  const Handle space(expect(H5Dget_space(set), "read the shape of", name), H5Sclose);
  const int rank = expect(H5Sget_simple_extent_ndims(space), "read the rank of", name);
  std::vector<hsize_t> extents(static_cast<size_t>(rank));
  if (rank > 0) {
    expect(H5Sget_simple_extent_dims(space, extents.data(), nullptr), "read the shape of", name);
  }
  Shape shape;
  // The product, with room for the bytes of an element; extents of 0 are left out, so that no part
  // of the dataset overflows either.
  int64_t bytes = 16;
  for (const hsize_t extent : extents) {
    const bool fits = extent <= hsize_t{1} << 62;
    const auto factor = static_cast<int64_t>(std::max<hsize_t>(fits ? extent : 0, 1));
    if (!fits || __builtin_mul_overflow(bytes, factor, &bytes)) {
      fail(path.string(), ": \"", name, "\" has an impossible extent, ", extent,
           "; the file is damaged, make it again");
    }
    shape.push_back(static_cast<int64_t>(extent));
  }
  return shape;
}

Dtype Hdf5File::State::dtype_of(const Handle& set, const std::string& name) const {
  const Handle type(expect(H5Dget_type(set), "read the type of", name), H5Tclose);
  const H5T_class_t kind = H5Tget_class(type);
  const size_t size = H5Tget_size(type);
  if (kind == H5T_FLOAT && size == 8) return Dtype::f64;
  if (kind == H5T_FLOAT && size == 4) return Dtype::f32;
  if (kind == H5T_INTEGER && size == 4 && H5Tget_sign(type) == H5T_SGN_2) return Dtype::i32;
  if (kind == H5T_INTEGER && size == 1 && H5Tget_sign(type) == H5T_SGN_NONE) return Dtype::u8;
  if (kind == H5T_INTEGER && size == 2 && H5Aexists(set, "dtype") > 0) {
    const Handle tag(H5Aopen(set, "dtype", H5P_DEFAULT), H5Aclose);
    const std::string text = text_of(tag, "dtype");
    if (text == "bf16") return Dtype::bf16;
    if (text == "f16") return Dtype::f16;
  }
  fail(path.string(), ": \"", name, "\" has an unknown type (", size,
       " bytes per element); expected f64, f32, i32, u8, or uint16 with the attribute dtype");
}

void Hdf5File::State::expect_stored(const Handle& set, const std::string& name,
                                    uint64_t bytes) const {
  // What other programs compress may grow, but no filter of HDF5 beats deflate's limit of 1032.
  constexpr uint64_t most_compressed = 1100;
  const uint64_t stored = H5Dget_storage_size(set);
  const Handle creation(expect(H5Dget_create_plist(set), "read the layout of", name), H5Pclose);
  const H5D_layout_t layout = H5Pget_layout(creation);
  if (layout == H5D_VIRTUAL || H5Pget_external_count(creation) > 0) {
    fail(path.string(), ": \"", name, "\" refers to other files, which is not followed");
  }
  const bool chunked = layout == H5D_CHUNKED;
  if (bytes / (chunked ? most_compressed : 1) > stored) {
    fail(path.string(), ": \"", name, "\" should have ", bytes, " bytes, the file holds ", stored,
         " of them (not finished, or broken)");
  }
}

Handle Hdf5File::State::create_dataset(const std::string& name, const Shape& shape, Dtype dtype) {
  expect_new(name);
  element_count(shape);
  check(shape.size() <= H5S_MAX_RANK, path, ": \"", name, "\" has rank ", shape.size());
  const Handle space = hdf5::space_of(shape);
  expect<hid_t>(space, "make the shape of", name);
  const Handle creation = hdf5::dataset_properties();
  H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
  Handle set(H5Dcreate2(file, name.c_str(), hdf5::native_type(dtype), space, H5P_DEFAULT, creation,
                        H5P_DEFAULT),
             H5Dclose);
  expect<hid_t>(set, "create", name);
  if (dtype == Dtype::bf16 || dtype == Dtype::f16) {
    const std::string text = name_of(dtype);
    write_attribute("dtype", name, string_type(text.size()), text.data());
  }
  return set;
}

void Hdf5File::State::write_attribute(const std::string& key, const std::string& object_name,
                                      hid_t type, const void* value) {
  expect_writable();
  check(!key.empty() && key.find('\0') == std::string::npos, path, ": an attribute needs a name");
  const Handle owner = object(object_name);
  check(H5Aexists(owner, key.c_str()) <= 0, path, ": attribute \"", key, "\" exists already");
  const Handle space = scalar_space();
  const Handle attribute(H5Acreate2(owner, key.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT),
                         H5Aclose);
  expect<hid_t>(attribute, "create attribute", key);
  expect(H5Awrite(attribute, type, value), "write attribute", key);
}

Handle Hdf5File::State::attribute(const std::string& key, const std::string& object_name) const {
  const Handle owner = object(object_name);
  check(H5Aexists(owner, key.c_str()) > 0, path, " has no attribute \"", key, "\"",
        [&] { return object_name.empty() ? "" : " at \"" + object_name + "\""; });
  return {expect(H5Aopen(owner, key.c_str(), H5P_DEFAULT), "open attribute", key), H5Aclose};
}

std::string Hdf5File::State::text_of(const Handle& attribute, const std::string& key) const {
  const Handle type(expect(H5Aget_type(attribute), "read attribute", key), H5Tclose);
  const size_t size = H5Tget_size(type);
  if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) > 0 ||
      H5Aget_storage_size(attribute) != size || size > 65536) {
    fail(path.string(), ": attribute \"", key, "\" is not a string of fixed length");
  }
  std::string text(size, '\0');
  expect(H5Aread(attribute, string_type(size), text.data()), "read attribute", key);
  return hdf5::without_padding(std::move(text));
}

}  // namespace cbq
