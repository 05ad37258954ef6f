// Files for tests: the test data, temporary folders, and what an error says.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

/// The folder of test data (models, tokenizers, malformed files): the environment variable
/// CBQ_TEST_DATA, else the compile definition of that name; empty when there is none.
inline std::filesystem::path test_data() {
  const char* folder = std::getenv("CBQ_TEST_DATA");
#ifdef CBQ_TEST_DATA
  if (folder == nullptr) folder = CBQ_TEST_DATA;
#endif
  if (folder == nullptr || !std::filesystem::is_directory(folder)) return {};
  return folder;
}

/// The folder of the build that this test program belongs to; the program is in its subfolder
/// "bin".
inline std::filesystem::path build_folder() {
  return std::filesystem::canonical("/proc/self/exe").parent_path().parent_path();
}

/// First line of a test that needs the test data.
#define SKIP_WITHOUT_TEST_DATA() \
  if (test_data().empty()) GTEST_SKIP() << "no test data: set CBQ_TEST_DATA to its folder"

/// A new folder, removed with everything in it at the end of the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "cbq_test_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  /// Writes a file and returns its path.
  std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return path_ / name;
  }
  int count() const {
    int files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      (void)entry;
      ++files;
    }
    return files;
  }

 private:
  std::filesystem::path path_;
};

/// What the exception that `f` throws says; "(no error)" when it throws none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "(no error)";
}

/// Expects `f` to throw `Exception` with every one of `parts` in its message.
template <class Exception, class F>
void expect_error(F&& f, std::initializer_list<const char*> parts) {
  const std::string message = error_of(f);
  EXPECT_THROW(f(), Exception) << message;
  for (const char* part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << "not in the message: " << part << "\n"
                                                     << message;
  }
}
