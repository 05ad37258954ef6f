#include <hdf5.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <optional>
#include <thread>

#include "nn/formats/atomic_file.h"
#include "nn/formats/hdf5.h"
#include "tests/test_data.h"

namespace cbq::test_hdf5 {
namespace {

Tensor counting(const Shape& shape, Dtype dtype) {
  std::vector<double> values(static_cast<size_t>(element_count(shape)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i % 100);
  return Tensor::from(values, shape, dtype);
}

void expect_equal(const Tensor& a, const Tensor& b) {
  ASSERT_EQ(a.shape(), b.shape());
  ASSERT_EQ(a.dtype(), b.dtype());
  EXPECT_EQ(std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())), 0);
}

constexpr Dtype all_dtypes[] = {Dtype::f64, Dtype::f32, Dtype::bf16,
                                Dtype::f16, Dtype::i32, Dtype::u8};

TEST(Hdf5, TensorsOfEveryDtypeComeBack) {
  const TemporaryFolder folder;
  Hdf5File file = Hdf5File::create(folder / "a.h5");
  const Shape shapes[] = {{}, {0}, {3, 0}, {5}, {2, 3, 4}};
  for (const Dtype dtype : all_dtypes) {
    for (const Shape& shape : shapes) {
      file.write(name_of(dtype) + to_string(shape), counting(shape, dtype));
    }
  }
  file.publish();
  const Hdf5File back = Hdf5File::open(folder / "a.h5");
  EXPECT_EQ(back.names().size(), 30u);
  for (const Dtype dtype : all_dtypes) {
    for (const Shape& shape : shapes) {
      const std::string name = name_of(dtype) + to_string(shape);
      SCOPED_TRACE(name);
      EXPECT_EQ(back.shape(name), shape);
      EXPECT_EQ(back.dtype(name), dtype);
      expect_equal(back.read(name), counting(shape, dtype));
    }
  }
}

TEST(Hdf5, RowsAreWrittenAndReadAlone) {
  const TemporaryFolder folder;
  const Tensor whole = counting({10, 3}, Dtype::bf16);
  Hdf5File file = Hdf5File::create(folder / "a.h5");
  file.create_dataset("x", {10, 3}, Dtype::bf16);
  file.write_rows("x", 6, whole.slice(6, 10));
  file.write_rows("x", 0, whole.slice(0, 6));
  file.write_rows("x", 10, whole.slice(0, 0));
  expect_equal(file.read_rows("x", 2, 5), whole.slice(2, 5));
  const auto write = [&](int64_t begin, const Tensor& rows) {
    return [&file, begin, rows] { file.write_rows("x", begin, rows); };
  };
  expect_error<std::invalid_argument>(write(7, whole.slice(0, 4)), {"a.h5", "\"x\"", "[7, 11)"});
  expect_error<std::invalid_argument>(write(-1, whole.slice(0, 1)), {"[-1, 0)"});
  expect_error<std::invalid_argument>(write(0, counting({2, 3}, Dtype::f32)),
                                      {"bf16[2, 3]", "f32"});
  expect_error<std::invalid_argument>(write(0, counting({2, 4}, Dtype::bf16)),
                                      {"[2, 3]", "[2, 4]"});
  expect_error<std::invalid_argument>([&] { file.read_rows("x", 5, 11); }, {"\"x\"", "[5, 11)"});
  expect_error<std::invalid_argument>([&] { file.read_rows("x", 5, 4); }, {"[5, 4)"});
  file.publish();
  const Hdf5File back = Hdf5File::open(folder / "a.h5");
  expect_equal(back.read("x"), whole);
  expect_equal(back.read_rows("x", 9, 10), whole.slice(9, 10));
  EXPECT_EQ(back.read_rows("x", 10, 10).count(), 0);
}

TEST(Hdf5, StringsAndAttributes) {
  const TemporaryFolder folder;
  const std::string large(200'000, 'x');
  Hdf5File file = Hdf5File::create(folder / "a.h5");
  file.write_string("large", large);
  file.write_string("empty", "");
  file.write("w", counting({2}, Dtype::f32));
  file.set_attribute("version", int64_t{-3});
  file.set_attribute("model", std::string("ü"));
  file.set_attribute("note", std::string(), "w");
  expect_error<std::invalid_argument>([&] { file.set_attribute("big", large); },
                                      {"\"big\"", "64 KB", "write_string"});
  expect_error<std::invalid_argument>([&] { file.set_attribute("version", int64_t{4}); },
                                      {"\"version\"", "already"});
  expect_error<std::invalid_argument>([&] { file.write_string("z", std::string("a\0", 2)); },
                                      {"\"z\"", "zero byte"});
  file.publish();
  const Hdf5File back = Hdf5File::open(folder / "a.h5");
  EXPECT_EQ(back.read_string("large"), large);
  EXPECT_EQ(back.read_string("empty"), "");
  EXPECT_EQ(back.int_attribute("version"), -3);
  EXPECT_EQ(back.string_attribute("model"), "ü");
  EXPECT_EQ(back.string_attribute("note", "w"), "");
  EXPECT_TRUE(back.has_attribute("version"));
  EXPECT_FALSE(back.has_attribute("version", "w"));
  expect_error<std::invalid_argument>([&] { back.int_attribute("none"); }, {"a.h5", "\"none\""});
  expect_error<std::runtime_error>([&] { back.int_attribute("model"); }, {"not an integer"});
  expect_error<std::runtime_error>([&] { back.string_attribute("version"); }, {"not a string"});
  expect_error<std::runtime_error>([&] { back.read_string("w"); },
                                   {"\"w\"", "not a single string"});
  expect_error<std::runtime_error>([&] { back.read("large"); }, {"\"large\"", "unknown type"});
}

TEST(Hdf5, ExistsOnlyWhenPublished) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.h5", "old");
  {
    Hdf5File file = Hdf5File::create(path);
    file.write("x", counting({1000}, Dtype::f32));
    EXPECT_EQ(folder.count(), 2);
  }
  EXPECT_EQ(folder.count(), 1);
  EXPECT_EQ(read_text_file(path), "old");
  Hdf5File file = Hdf5File::create(path);
  file.write("x", counting({10}, Dtype::f32));
  file.publish();
  EXPECT_EQ(folder.count(), 1);
  expect_error<std::invalid_argument>([&] { file.write("y", counting({1}, Dtype::f32)); },
                                      {"a.h5", "closed"});
  Hdf5File back = Hdf5File::open(path);
  expect_error<std::invalid_argument>([&] { back.write("y", counting({1}, Dtype::f32)); },
                                      {"a.h5", "reading only"});
  expect_error<std::invalid_argument>([&] { back.publish(); }, {"reading only"});
}

TEST(Hdf5, NamesAreChecked) {
  const TemporaryFolder folder;
  Hdf5File file = Hdf5File::create(folder / "a.h5");
  const Tensor x = counting({2}, Dtype::f32);
  file.write("x", x);
  expect_error<std::invalid_argument>([&] { file.write("x", x); }, {"\"x\"", "exists already"});
  for (const char* name : {"", ".", "a/b"}) {
    expect_error<std::invalid_argument>([&] { file.write(name, x); }, {"not a name"});
  }
  expect_error<std::invalid_argument>([&] { file.write("u", Tensor()); }, {"\"u\"", "undefined"});
  expect_error<std::invalid_argument>([&] { file.read("y"); }, {"a.h5", "no dataset \"y\""});
  EXPECT_TRUE(file.has("x"));
  EXPECT_FALSE(file.has("y"));
}

TEST(Hdf5, MissingAndBrokenFiles) {
  const TemporaryFolder folder;
  const auto path = folder / "a.h5";
  expect_error<std::runtime_error>([&] { Hdf5File::open(path); }, {"a.h5", "no such file"});
  expect_error<std::runtime_error>([&] { Hdf5File::open(folder.path()); }, {"not a regular file"});
  expect_error<std::runtime_error>([&] { Hdf5File::create(folder / "no/a.h5"); },
                                   {"no/a.h5", "No such file"});
  folder.write("a.h5", "this is not HDF5");
  expect_error<std::runtime_error>([&] { Hdf5File::open(path); }, {"a.h5", "signature"});
  Hdf5File file = Hdf5File::create(path);
  file.write("x", counting({100'000}, Dtype::f32));
  file.publish();
  std::filesystem::resize_file(path, 200'000);
  expect_error<std::runtime_error>([&] { Hdf5File::open(path); }, {"a.h5", "truncated"});
}

// Datasets as our writer never makes them, through the C API.
class ForeignHdf5 : public ::testing::Test {
 protected:
  void SetUp() override {
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);  // what is left open here closes with the file
    file_ = H5Fcreate(path_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access);
    ASSERT_GE(file_, 0);
  }
  void add(const char* name, hid_t type, std::vector<hsize_t> extents, hid_t creation) {
    const hid_t space = H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr);
    ASSERT_GE(H5Dcreate2(file_, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT), 0);
  }
  Hdf5File opened() {
    H5Fclose(file_);
    return Hdf5File::open(path_);
  }
  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_ / "a.h5";
  hid_t file_ = -1;
  hid_t creation_ = H5Pcreate(H5P_DATASET_CREATE);
};

TEST_F(ForeignHdf5, ClaimedSizesAreNotAllocated) {
  add("contiguous", H5T_NATIVE_FLOAT, {hsize_t{1} << 40}, H5P_DEFAULT);
  const hsize_t chunk = 1024;
  H5Pset_chunk(creation_, 1, &chunk);
  add("chunked", H5T_NATIVE_FLOAT, {hsize_t{1} << 40}, creation_);
  add("overflow", H5T_NATIVE_FLOAT, {1, hsize_t{1} << 40, hsize_t{1} << 40}, H5P_DEFAULT);
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, size_t{1} << 31);
  const hid_t scalar = H5Screate(H5S_SCALAR);
  H5Dcreate2(file_, "text", type, scalar, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  const Hdf5File file = opened();
  for (const char* name : {"contiguous", "chunked"}) {
    expect_error<std::runtime_error>([&] { file.read(name); }, {name, "the file holds 0"});
    expect_error<std::runtime_error>([&] { file.read_rows(name, 0, 5); }, {"the file holds 0"});
  }
  expect_error<std::runtime_error>([&] { file.read("overflow"); },
                                   {"a.h5", "overflow", "impossible extent"});
  expect_error<std::runtime_error>([&] { file.read_string("text"); }, {"the file holds 0"});
}

TEST_F(ForeignHdf5, OtherTypesAndLinksAreRefused) {
  add("wide", H5T_NATIVE_INT64, {4}, H5P_DEFAULT);
  add("unsigned", H5T_NATIVE_UINT32, {4}, H5P_DEFAULT);
  add("untagged", H5T_NATIVE_UINT16, {4}, H5P_DEFAULT);
  H5Pset_external(creation_, "/etc/passwd", 0, 16);
  add("external", H5T_NATIVE_UINT8, {16}, creation_);
  H5Lcreate_external("other.h5", "/x", file_, "away", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_soft("/wide", file_, "soft", H5P_DEFAULT, H5P_DEFAULT);
  const Hdf5File file = opened();
  expect_error<std::runtime_error>([&] { file.read("wide"); },
                                   {"\"wide\"", "unknown type", "8 bytes"});
  expect_error<std::runtime_error>([&] { file.read("unsigned"); }, {"unknown type", "4 bytes"});
  expect_error<std::runtime_error>([&] { file.read("untagged"); }, {"unknown type", "dtype"});
  expect_error<std::runtime_error>([&] { file.read("external"); }, {"\"external\"", "other files"});
  for (const char* name : {"away", "soft"}) {
    expect_error<std::runtime_error>([&] { file.read(name); }, {name, "is a link"});
  }
}

TEST(Hdf5, FullDiskIsAnErrorAndLeavesNothing) {
  const TemporaryFolder folder;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  std::vector<std::string> messages;
  for (const rlim_t limit : {65536, 4096, 100}) {  // in a large dataset, in small ones, at once
    std::optional<Hdf5File> file;
    const rlimit small{limit, before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    messages.push_back(error_of([&] {
      file = Hdf5File::create(folder / "a.h5");
      for (int i = 0; i < 100; ++i) file->write(std::to_string(i), counting({10}, Dtype::f32));
      file->write("x", counting({100'000}, Dtype::f32));
      file->publish();
    }));
    // The limit, unlike a full disk, would hold for the memory that takes an abandoned file's rest.
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  }
  std::signal(SIGXFSZ, handler);
  for (const std::string& message : messages) {
    EXPECT_NE(message.find("a.h5: cannot "), std::string::npos) << message;
    EXPECT_NE(message.find("disk full?"), std::string::npos) << message;
  }
  EXPECT_EQ(folder.count(), 0);
  Hdf5File file = Hdf5File::create(folder / "b.h5");  // the library is still usable
  file.write("x", counting({10}, Dtype::f32));
  file.publish();
}

TEST(Hdf5, ThreadsMayWriteTheirOwnFiles) {
  const TemporaryFolder folder;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&folder, t] {
      Hdf5File file = Hdf5File::create(folder / std::to_string(t));
      for (int i = 0; i < 20; ++i) file.write(std::to_string(i), counting({i + t}, Dtype::i32));
      file.publish();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < 4; ++t) {
    const Hdf5File file = Hdf5File::open(folder / std::to_string(t));
    EXPECT_EQ(file.names().size(), 20u);
    expect_equal(file.read("19"), counting({19 + t}, Dtype::i32));
  }
}

}  // namespace
}  // namespace cbq::test_hdf5
