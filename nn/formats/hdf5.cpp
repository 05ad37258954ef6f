#include "nn/formats/hdf5.h"

#include <algorithm>

#include "nn/formats/hdf5_state.h"
#include "nn/formats/sealed_files.h"

namespace cbq {

using hdf5::extents_of;
using hdf5::Handle;
using hdf5::native_type;
using hdf5::scalar_space;
using hdf5::Session;
using hdf5::space_of;
using hdf5::string_type;
using hdf5::without_padding;

Hdf5File::Hdf5File(std::unique_ptr<State> state) : state_(std::move(state)) {}
Hdf5File::Hdf5File(Hdf5File&&) noexcept = default;
Hdf5File& Hdf5File::operator=(Hdf5File&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

Hdf5File::~Hdf5File() {
  if (!state_) return;
  const Session session;
  if (state_->writer) {
    state_->abandon();
  } else {
    state_->file.close();
  }
}

namespace {

// Files take no locks: a name is published once and never written again. (Locks fail on NFS.)
// Closing a file closes whatever is still open in it.
Handle access_properties() {
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
  H5Pset_file_locking(access, false, true);
  return access;
}

// Without the root group's times: files made from the same data are the same bytes.
Handle creation_properties() {
  Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation, false);
  return creation;
}

}  // namespace

Hdf5File Hdf5File::create(const std::filesystem::path& path) {
  auto state = std::make_unique<State>();
  state->path = path;
  state->writer.emplace(path);
  const Session session;
  const Handle access = access_properties(), creation = creation_properties();
  const std::string temporary = state->writer->temporary_path().string();
  state->file = Handle(H5Fcreate(temporary.c_str(), H5F_ACC_TRUNC, creation, access), H5Fclose);
  if (!state->file.valid()) state->fail_to("create the file", "");
  return Hdf5File(std::move(state));
}

Hdf5File Hdf5File::open(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) fail_to_open(ENOENT, path.string(), ": no such file");
  if (!std::filesystem::is_regular_file(path, error)) {
    fail(path.string(), " is not a regular file");
  }
  auto state = std::make_unique<State>();
  state->path = path;
  const Session session;
  const Handle access = access_properties();
  state->file = Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), H5Fclose);
  if (!state->file.valid()) state->fail_to("open it as HDF5", "");
  return Hdf5File(std::move(state));
}

void Hdf5File::close_written() {
  const Session session;
  state_->expect_writable();
  state_->expect(H5Fflush(state_->file, H5F_SCOPE_GLOBAL), "write the file", "");
  if (!state_->file.close()) state_->fail_to("close the file", "");
}

void Hdf5File::publish() {
  close_written();
  state_->writer->publish();
  state_->writer.reset();
}

void Hdf5File::publish_sealed() {
  close_written();
  append_seal(state_->writer->temporary_path());
  state_->writer->publish();
  state_->writer.reset();
}

const std::filesystem::path& Hdf5File::path() const { return state_->path; }

std::vector<std::string> Hdf5File::names() const {
  const Session session;
  state_->expect_open();
  std::vector<std::string> names;
  const auto add = [](hid_t group, const char* name, const H5L_info_t*, void* out) -> herr_t {
    H5O_info_t info;
    if (H5Oget_info_by_name2(group, name, &info, H5O_INFO_BASIC, H5P_DEFAULT) >= 0 &&
        info.type == H5O_TYPE_DATASET) {
      static_cast<std::vector<std::string>*>(out)->push_back(name);
    }
    return 0;
  };
  hsize_t position = 0;
  state_->expect(H5Literate(state_->file, H5_INDEX_NAME, H5_ITER_NATIVE, &position, add, &names),
                 "list", "");
  std::sort(names.begin(), names.end());
  return names;
}

bool Hdf5File::has(const std::string& name) const {
  const Session session;
  return state_->has(name);
}

void Hdf5File::write(const std::string& name, const Tensor& tensor) {
  check(tensor.defined(), "Hdf5File::write: \"", name, "\" is undefined");
  const Tensor host = tensor.to(Device::cpu());
  const Session session;
  const Handle set = state_->create_dataset(name, host.shape(), host.dtype());
  if (host.count() == 0) return;
  state_->expect(
      H5Dwrite(set, native_type(host.dtype()), H5S_ALL, H5S_ALL, H5P_DEFAULT, host.raw()), "write",
      name);
}

Tensor Hdf5File::read(const std::string& name, Device device) const {
  Tensor host;
  {
    const Session session;
    const Handle set = state_->dataset(name);
    const Dtype dtype = state_->dtype_of(set, name);
    const Shape shape = state_->shape_of(set, name);
    const int64_t count = element_count(shape);
    state_->expect_stored(set, name, static_cast<uint64_t>(count * size_of(dtype)));
    host = Tensor(shape, dtype);
    if (count > 0) {
      state_->expect(H5Dread(set, native_type(dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, host.raw()),
                     "read", name);
    }
  }
  return host.to(device);
}

Shape Hdf5File::shape(const std::string& name) const {
  const Session session;
  return state_->shape_of(state_->dataset(name), name);
}

Dtype Hdf5File::dtype(const std::string& name) const {
  const Session session;
  return state_->dtype_of(state_->dataset(name), name);
}

void Hdf5File::create_dataset(const std::string& name, const Shape& shape, Dtype dtype) {
  const Session session;
  state_->create_dataset(name, shape, dtype);
}

namespace {

// Selects the rows [begin, begin + count) of a dataset.
Handle selected_rows(const Handle& set, const Shape& shape, int64_t begin, int64_t count) {
  Handle space(H5Dget_space(set), H5Sclose);
  std::vector<hsize_t> start(shape.size(), 0), extents = extents_of(shape);
  start[0] = static_cast<hsize_t>(begin);
  extents[0] = static_cast<hsize_t>(count);
  H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, extents.data(), nullptr);
  return space;
}

}  // namespace

void Hdf5File::write_rows(const std::string& name, int64_t begin, const Tensor& rows) {
  check(rows.defined() && rows.rank() > 0, "Hdf5File::write_rows: \"", name, "\" needs rows");
  const Tensor host = rows.to(Device::cpu());
  const Session session;
  state_->expect_writable();
  const Handle set = state_->dataset(name);
  const Shape shape = state_->shape_of(set, name);
  const Dtype dtype = state_->dtype_of(set, name);
  const int64_t count = rows.size(0);
  Shape expected = shape;
  if (!expected.empty()) expected[0] = count;
  check(dtype == rows.dtype() && expected == rows.shape(), state_->path, ": rows of \"", name,
        "\" are ", dtype, expected, ", got ", rows.dtype(), rows.shape());
  check(begin >= 0 && count <= shape[0] && begin <= shape[0] - count, state_->path, ": rows [",
        begin, ", ", begin + count, ") of \"", name, "\" ", shape);
  if (host.count() == 0) return;
  const Handle in_file = selected_rows(set, shape, begin, count);
  const Handle in_memory = space_of(host.shape());
  state_->expect(H5Dwrite(set, native_type(dtype), in_memory, in_file, H5P_DEFAULT, host.raw()),
                 "write rows of", name);
}

Tensor Hdf5File::read_rows(const std::string& name, int64_t begin, int64_t end,
                           Device device) const {
  Tensor host;
  {
    const Session session;
    const Handle set = state_->dataset(name);
    Shape shape = state_->shape_of(set, name);
    const Dtype dtype = state_->dtype_of(set, name);
    check(!shape.empty() && 0 <= begin && begin <= end && end <= shape[0], state_->path, ": rows [",
          begin, ", ", end, ") of \"", name, "\" ", shape);
    const uint64_t bytes = static_cast<uint64_t>(element_count(shape) * size_of(dtype));
    state_->expect_stored(set, name, bytes);
    const Handle in_file = selected_rows(set, shape, begin, end - begin);
    shape[0] = end - begin;
    host = Tensor(shape, dtype);
    if (host.count() > 0) {
      const Handle in_memory = space_of(shape);
      state_->expect(H5Dread(set, native_type(dtype), in_memory, in_file, H5P_DEFAULT, host.raw()),
                     "read rows of", name);
    }
  }
  return host.to(device);
}

void Hdf5File::write_string(const std::string& name, const std::string& text) {
  check(text.find('\0') == std::string::npos, "Hdf5File::write_string: \"", name,
        "\" contains a zero byte");
  const Session session;
  state_->expect_new(name);
  const Handle type = string_type(text.size());
  const Handle space = scalar_space();
  const Handle creation = hdf5::dataset_properties();
  const Handle set(
      H5Dcreate2(state_->file, name.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT),
      H5Dclose);
  state_->expect<hid_t>(set, "create", name);
  state_->expect(H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text.c_str()), "write", name);
}

std::string Hdf5File::read_string(const std::string& name) const {
  const Session session;
  const Handle set = state_->dataset(name);
  const Handle type(state_->expect(H5Dget_type(set), "read the type of", name), H5Tclose);
  const size_t size = H5Tget_size(type);
  if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) > 0 ||
      !state_->shape_of(set, name).empty()) {
    fail(state_->path.string(), ": \"", name, "\" is not a single string of fixed length");
  }
  state_->expect_stored(set, name, size);
  std::string text(size, '\0');
  state_->expect(H5Dread(set, string_type(size), H5S_ALL, H5S_ALL, H5P_DEFAULT, text.data()),
                 "read", name);
  return without_padding(std::move(text));
}

void Hdf5File::set_attribute(const std::string& key, int64_t value, const std::string& object) {
  const Session session;
  state_->write_attribute(key, object, H5T_NATIVE_INT64, &value);
}

void Hdf5File::set_attribute(const std::string& key, const std::string& value,
                             const std::string& object) {
  check(value.size() < 60000, "Hdf5File::set_attribute: \"", key, "\" has ", value.size(),
        " bytes; an attribute holds less than 64 KB: use write_string");
  check(value.find('\0') == std::string::npos, "Hdf5File::set_attribute: \"", key,
        "\" contains a zero byte");
  const Session session;
  state_->write_attribute(key, object, string_type(value.size()), value.c_str());
}

bool Hdf5File::has_attribute(const std::string& key, const std::string& object) const {
  const Session session;
  return H5Aexists(state_->object(object), key.c_str()) > 0;
}

int64_t Hdf5File::int_attribute(const std::string& key, const std::string& object) const {
  const Session session;
  const Handle attribute = state_->attribute(key, object);
  const Handle type(state_->expect(H5Aget_type(attribute), "read attribute", key), H5Tclose);
  const Handle space(state_->expect(H5Aget_space(attribute), "read attribute", key), H5Sclose);
  if (H5Tget_class(type) != H5T_INTEGER || H5Sget_simple_extent_npoints(space) != 1) {
    fail(state_->path.string(), ": attribute \"", key, "\" is not an integer");
  }
  int64_t value = 0;
  state_->expect(H5Aread(attribute, H5T_NATIVE_INT64, &value), "read attribute", key);
  return value;
}

std::string Hdf5File::string_attribute(const std::string& key, const std::string& object) const {
  const Session session;
  return state_->text_of(state_->attribute(key, object), key);
}

}  // namespace cbq
