// What killed writers leave behind, locks of outputs, copies, and files that are none.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nn/formats/atomic_file.h"
#include "nn/formats/hdf5.h"
#include "nn/formats/output_lock.h"
#include "tests/test_data.h"

namespace cbq::test_atomic_file {
namespace {

namespace fs = std::filesystem;

/// A process that runs `act` and then waits to be killed.
class Writer {
 public:
  explicit Writer(const std::function<void()>& act) {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    child_ = ::fork();
    if (child_ == 0) {
      act();
      [[maybe_unused]] const ssize_t told = ::write(ends[1], "x", 1);
      for (;;) ::pause();
    }
    ::close(ends[1]);
    char byte = 0;
    EXPECT_EQ(::read(ends[0], &byte, 1), 1) << "the writer ended early";
    ::close(ends[0]);
  }
  ~Writer() { kill(); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  void kill() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(std::exchange(child_, -1), nullptr, 0);
  }

 private:
  pid_t child_ = -1;
};

fs::path temporary_in(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".tmp") return entry.path();
  }
  return {};
}

void leave_unfinished(const fs::path& path) {
  auto* file = new AtomicFile(path);  // never destroyed, as in a process that is killed
  file->write("half");
}

TEST(Sweep, RemovesWhatAKilledWriterLeftAndNothingThatIsWritten) {
  const TemporaryFolder folder;
  for (const char* name : {"a.tmp", "b.1.2.tmp", "c.cbq-1-2-3.tmp", "d.cbq-0123abcd-5.tmp",
                           "e.cbq-0123abcd-5-x.tmp", ".cbq-0123abcd-5-6.tmp"}) {
    folder.write(name, "somebody's own");
  }
  const int others = folder.count();
  Writer text([&] { leave_unfinished(folder / "a.txt"); });
  EXPECT_EQ(folder.count(), others + 1);
  Writer cache([&] {
    auto* file = new Hdf5File(Hdf5File::create(folder / "b.h5"));
    file->write("x", Tensor::from(std::vector<float>{1, 2, 3}, {3}));
  });
  sweep_temporaries(folder.path());
  EXPECT_EQ(folder.count(), others + 2) << "a file was removed under its writer";
  text.kill();
  sweep_temporaries(folder.path());
  EXPECT_EQ(folder.count(), others + 1);
  cache.kill();
  write_text_atomically(folder / "c.txt", "x");  // has swept in this process already
  sweep_temporaries(folder.path());
  EXPECT_EQ(folder.count(), others + 1) << "others, c.txt";
}

TEST(Sweep, TheFirstFileOfAProcessSweepsItsFolder) {
  const TemporaryFolder folder;
  Writer writer([&] { leave_unfinished(folder / "a.txt"); });
  writer.kill();
  EXPECT_EQ(folder.count(), 1);
  write_text_atomically(folder / "b.txt", "x");
  EXPECT_EQ(folder.count(), 1);
}

TEST(Sweep, AFileOfAnotherHostIsLeftAloneForADay) {
  const TemporaryFolder folder;
  Writer writer([&] { leave_unfinished(folder / "a.txt"); });
  const fs::path left = temporary_in(folder.path());
  ASSERT_FALSE(left.empty());
  std::string name = left.filename().string();
  const size_t host = name.find(".cbq-") + 5;
  name[host] = name[host] == '0' ? '1' : '0';
  const fs::path other = folder / name;
  fs::rename(left, other);
  const auto written_days_ago = [&](int days) {
    fs::last_write_time(other, fs::file_time_type::clock::now() - std::chrono::hours(24 * days));
  };
  written_days_ago(2);
  sweep_temporaries(folder.path());
  EXPECT_TRUE(fs::exists(other)) << "it is old, but somebody writes to it";
  writer.kill();
  written_days_ago(0);
  sweep_temporaries(folder.path());
  EXPECT_TRUE(fs::exists(other));
  written_days_ago(2);
  sweep_temporaries(folder.path());
  EXPECT_FALSE(fs::exists(other));
}

TEST(AtomicFile, WritesThroughALinkAndRefusesALinkToNothing) {
  const TemporaryFolder folder;
  fs::create_directory(folder / "far");
  folder.write("far/a.txt", "old");
  fs::create_symlink("far/a.txt", folder / "link");
  write_text_atomically(folder / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(read_text_file(folder / "far/a.txt"), "new");
  fs::create_symlink("nowhere/b", folder / "dangling");
  expect_error<std::runtime_error>([&] { write_text_atomically(folder / "dangling", "x"); },
                                   {"dangling", "link to nowhere/b"});
  EXPECT_TRUE(fs::is_symlink(folder / "dangling"));
}

TEST(CopyFile, IsCompleteOrNotThere) {
  const TemporaryFolder folder;
  const std::string text(3'000'000, 'x');
  folder.write("from", text);
  copy_file_atomically(folder / "from", folder / "to");
  EXPECT_EQ(read_text_file(folder / "to"), text);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{2'000'000, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message =
      error_of([&] { copy_file_atomically(folder / "from", folder / "full"); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(message.find("full: File too large; raise the limit"), std::string::npos) << message;
  EXPECT_EQ(folder.count(), 2);
}

TEST(ReadTextFile, RefusesANamedPipeWithoutWaiting) {
  const TemporaryFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  ::alarm(60);  // ends the test where the file is waited for
  expect_error<std::runtime_error>([&] { read_text_file(folder / "pipe"); },
                                   {"pipe", "not a regular file"});
  expect_error<std::runtime_error>([&] { copy_file_atomically(folder / "pipe", folder / "copy"); },
                                   {"not a regular file"});
  EXPECT_FALSE(fs::exists(folder / "copy"));
  // What the program's caller has opened may be one.
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ASSERT_EQ(::write(ends[1], "text", 4), 4);
  ::close(ends[1]);
  EXPECT_EQ(read_text_file("/dev/fd/" + std::to_string(ends[0])), "text");
  ::close(ends[0]);
  ::alarm(0);
}

TEST(OutputLock, IsHeldByOneProcessAndSaysByWhich) {
  const TemporaryFolder folder;
  const fs::path output = folder / "q";
  Writer writer([&] { new OutputLock(output); });
  EXPECT_EQ(folder.count(), 1);
  const std::string message = error_of([&] { const OutputLock second(output); });
  for (const char* part : {"q is being written by process ", " on ", "--output"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  for (const char* spelling : {"q/", "./q", "q//", "../"}) {
    const fs::path other =
        std::string(spelling) == "../" ? folder / "none/../q" : folder / spelling;
    if (std::string(spelling) == "../") fs::create_directory(folder / "none");
    EXPECT_THROW({ const OutputLock second(other); }, std::runtime_error) << other;
  }
  fs::remove(folder / "none");
  { const OutputLock elsewhere(folder / "q2"); }
  EXPECT_EQ(folder.count(), 1);
  writer.kill();
  {
    const OutputLock second(output);  // a lock ends with its process
    EXPECT_EQ(folder.count(), 1);
    EXPECT_NE(read_text_file(folder / "q.lock").find(std::to_string(::getpid())),
              std::string::npos);
  }
  EXPECT_EQ(folder.count(), 0);
}

TEST(OutputLock, RemovesTheFoldersItMadeUnlessTheyAreUsed) {
  const TemporaryFolder folder;
  { const OutputLock lock(folder / "a/b/q", OutputLock::Parents::are_made); }
  EXPECT_EQ(folder.count(), 0);
  {
    const OutputLock lock(folder / "a/b/q", OutputLock::Parents::are_made);
    folder.write("a/b/q", "x");
  }
  EXPECT_TRUE(fs::exists(folder / "a/b/q"));
  EXPECT_FALSE(fs::exists(folder / "a/b/q.lock"));
  expect_error<std::runtime_error>([&] { const OutputLock lock(folder / "none/q"); },
                                   {"none/q.lock", "No such file"});
}

TEST(Hdf5File, KeepsNoTimes) {
  const TemporaryFolder folder;
  {
    Hdf5File file = Hdf5File::create(folder / "a.h5");
    file.set_attribute("key", int64_t{1});
    file.write("x", Tensor::from(std::vector<float>{1, 2, 3}, {3}));
    file.create_dataset("rows", {4, 2}, Dtype::bf16);
    file.write_string("text", "some text");
    file.publish();
  }
  const hid_t file = H5Fopen((folder / "a.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  for (const char* name : {"/", "x", "rows", "text"}) {
    H5O_info_t info{};
    ASSERT_GE(H5Oget_info_by_name2(file, name, &info, H5O_INFO_TIME, H5P_DEFAULT), 0) << name;
    EXPECT_EQ(info.mtime, 0) << name;
    EXPECT_EQ(info.ctime, 0) << name;
  }
  H5Fclose(file);
}

}  // namespace
}  // namespace cbq::test_atomic_file
