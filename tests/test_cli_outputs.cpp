// Outputs of the programs: one writer at a time, replaced in one step, complete with companions,
// and whatever a limit of the system or a pipe does, nothing half-made stays behind.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <chrono>
#include <cstddef>
#include <iterator>
#include <map>
#include <thread>

#include "nn/formats/output_lock.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_cli_outputs {
namespace {

namespace fs = std::filesystem;

std::string quoted(const std::string& text) { return "'" + text + "'"; }

class OutputsTest : public CliTest {
 protected:
  static std::string program(const std::string& name) {
    return (build_folder() / "bin" / name).string();
  }
  static std::string command(const std::string& name, const std::vector<std::string>& arguments) {
    std::string text = quoted(program(name));
    for (const std::string& a : arguments) text += " " + quoted(a);
    return text;
  }
  /// Runs a line of bash; a hang ends after a minute with code 124.
  RunOfCbq bash(const std::string& line) const {
    const TemporaryFolder streams;
    const std::string script = "export OMP_WAIT_POLICY=passive; timeout 60 bash -c \"$LINE\" > '" +
                               (streams / "out").string() + "' 2> '" + (streams / "err").string() +
                               "'";
    ::setenv("LINE", line.c_str(), 1);
    const int status = std::system(script.c_str());
    ::unsetenv("LINE");
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, bytes_of(streams / "out"),
            bytes_of(streams / "err")};
  }
  static std::string tokenizer() { return std::string(CBQ_SOURCE_DIR) + "/models/embedded"; }
  std::map<std::string, std::string> contents(const std::string& folder) const {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / folder)) {
      if (entry.is_regular_file()) all[entry.path().string()] = bytes_of(entry.path());
    }
    return all;
  }
  void expect_tidy(const std::vector<std::string>& stays) const {
    std::vector<std::string> expected = {"ids.json", "model"};
    expected.insert(expected.end(), stays.begin(), stays.end());
    std::sort(expected.begin(), expected.end());
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder_.path())) {
      found.push_back(entry.path().filename().string());
    }
    std::sort(found.begin(), found.end());
    EXPECT_EQ(found, expected);
  }
  const std::vector<std::string> slow_ = {"--window", "1", "--overlap", "0", "--epochs", "200"};
};

// ---- one writer -------------------------------------------------------------------------------

TEST_F(OutputsTest, ASecondCommandIsRefusedAndChangesNothing) {
  const fs::path state = folder_ / "q.resume/state.safetensors";
  const RunOfCbq first = cbq(quantize("q", slow_), [&](pid_t child) {
    for (int i = 0; i < 20000 && !fs::exists(state); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ::kill(child, SIGSTOP);  // so that what changes is the second command's doing
    const auto before = contents("");
    for (const char* way : {"--overwrite", "--resume", "--no-learn-activation"}) {
      const RunOfCbq second = cbq(quantize("q", {way}));
      EXPECT_EQ(second.code, 1) << way;
      expect_in(second.err, {"q is being written by process", std::to_string(child).c_str(),
                             "cbq quantize", "nothing was changed"});
      EXPECT_EQ(contents(""), before) << way;
    }
    ::kill(child, SIGCONT);
  });
  EXPECT_EQ(first.code, 0) << first.err;
  expect_tidy({"q"});
}

TEST_F(OutputsTest, EveryProgramThatWritesAsksForTheLock) {
  folder_.write("a.txt", "a text of a few words\n");
  folder_.write("a.jsonl", "{\"text\": \"a text of a few words\"}\n");
  const std::vector<std::vector<std::string>> commands = {
      quantize("o"),
      {"train", "--text", path("a.txt"), "--tokenizer", tokenizer(), "-o", path("o")},
      {"tokenize", path("a.txt"), "--tokenizer", tokenizer(), "-o", path("o")},
      {"data", "text", path("a.txt"), "--tokenizer", tokenizer(), "-o", path("o")},
      {"sample", model(), "-o", path("o"), "--segments", "1", "--segment-length", "4"},
      {"convert", CBQ_SOURCE_DIR "/tests/fixtures/gguf/llama.gguf", "-o", path("o")},
      {"evaluate", model(), "--tokens", test_tokens(), "--json", path("o")}};
  const OutputLock lock(folder_ / "o");
  const std::vector<std::string> before = listing();
  for (const std::vector<std::string>& arguments : commands) {
    const RunOfCbq run = cbq(arguments);
    EXPECT_EQ(run.code, 1) << arguments[0];
    expect_in(run.err, {"o is being written by process"});
    EXPECT_EQ(listing(), before) << arguments[0];
  }
  const RunOfCbq ablation =
      run_program("run_ablation", {"--model", model(), "--calibration", calibration(), "--texts",
                                   "a=" + test_tokens(), "--table", "12", "--segments", "6",
                                   "--segment-length", "12", "--output", path("o")});
  EXPECT_EQ(ablation.code, 1);
  expect_in(ablation.err, {"o is being written by process"});
  EXPECT_EQ(listing(), before);
}

TEST_F(OutputsTest, ACacheIsSharedByRunsAtTheSameTime) {
  const std::vector<std::string> cached = {"--cache", path("cache")};
  RunOfCbq second;
  const RunOfCbq first =
      cbq(quantize("q1", cached), [&](pid_t) { second = cbq(quantize("q2", cached)); });
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_EQ(second.code, 0) << second.err;
  EXPECT_EQ(bytes_of(path("q1/model.safetensors")), bytes_of(path("q2/model.safetensors")));
  expect_tidy({"cache", "q1", "q2"});
  EXPECT_EQ(contents("cache").size(), 1u);
}

TEST_F(OutputsTest, AKilledRunLeavesNothingThatItsResumptionDoesNotClear) {
  const fs::path state = folder_ / "q.resume/state.safetensors";
  cbq(quantize("q", slow_), [&](pid_t child) {
    for (int i = 0; i < 20000 && !fs::exists(state); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ::kill(child, SIGKILL);
  });
  EXPECT_TRUE(fs::exists(folder_ / "q.partial"));
  std::vector<std::string> resumed = quantize("q", slow_);
  resumed.push_back("--resume");
  const RunOfCbq run = cbq(resumed);
  EXPECT_EQ(run.code, 0) << run.err;
  expect_tidy({"q"});
}

// ---- replaced in one step ---------------------------------------------------------------------

class OverwriteTest : public OutputsTest {
 protected:
  void SetUp() override {
    OutputsTest::SetUp();
    ASSERT_EQ(cbq(nearest(3)).code, 0);
    first_ = bytes_of(path("q/model.safetensors"));
  }
  std::vector<std::string> nearest(int bits, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all =
        quantize("q", {"--reconstruct", "none", "--wbits", std::to_string(bits)});
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  void mark(const std::string& folder) const { folder_.write(folder + "/.cbq-replaced", ""); }

  std::string first_;
};

TEST_F(OverwriteTest, KilledBeforeAndAfterTheExchange) {
  for (const bool exchanged : {false, true}) {
    fs::copy(folder_ / "q", folder_ / "q.partial");
    folder_.write(exchanged ? "q/.cbq-partial" : "q.partial/.cbq-partial", "x");
    mark(exchanged ? "q.partial" : "q");
    folder_.write("q.lock", "process 1 on somewhere: cbq quantize");
    ASSERT_EQ(cbq(nearest(exchanged ? 3 : 4, {"--overwrite"})).code, 0);
    EXPECT_EQ(bytes_of(path("q/model.safetensors")) == first_, exchanged);
    EXPECT_FALSE(fs::exists(folder_ / "q/.cbq-partial"));
    EXPECT_FALSE(fs::exists(folder_ / "q/.cbq-replaced"));
    expect_tidy({"q"});
  }
}

TEST_F(OverwriteTest, RestoresTheFolderAfterAKillBetweenTwoRenames) {
  mark("q");
  fs::rename(folder_ / "q", folder_ / "q.old");
  fs::create_directory(folder_ / "q.partial");
  folder_.write("q.partial/config.json", "{}");
  folder_.write("q.partial/.cbq-partial", "x");
  const RunOfCbq run = cbq(nearest(4));
  EXPECT_EQ(run.code, 1);
  expect_in(run.err, {"not empty", "--overwrite"});
  EXPECT_EQ(bytes_of(path("q/model.safetensors")), first_);
  EXPECT_FALSE(fs::exists(folder_ / "q/.cbq-replaced"));
  EXPECT_FALSE(fs::exists(folder_ / "q.old"));
  ASSERT_EQ(cbq(nearest(4, {"--overwrite"})).code, 0);
  expect_tidy({"q"});
}

TEST_F(OverwriteTest, KilledAfterTheSecondRename) {
  fs::copy(folder_ / "q", folder_ / "q.old");
  mark("q.old");
  EXPECT_EQ(cbq(nearest(4)).code, 1);
  EXPECT_EQ(bytes_of(path("q/model.safetensors")), first_);
  expect_tidy({"q"});
}

TEST_F(OverwriteTest, KilledBeforeTheFirstRename) {
  mark("q");
  ASSERT_EQ(cbq(nearest(4, {"--overwrite"})).code, 0);
  EXPECT_FALSE(fs::exists(folder_ / "q/.cbq-replaced"));
  expect_tidy({"q"});
}

TEST_F(OverwriteTest, KeepsAnUnmarkedFolderNamedOld) {
  fs::copy(folder_ / "q", folder_ / "q.old");
  ASSERT_EQ(cbq(nearest(4, {"--overwrite"})).code, 0);
  EXPECT_EQ(bytes_of(path("q.old/model.safetensors")), first_);
  fs::remove_all(folder_ / "q");
  ASSERT_EQ(cbq(nearest(4)).code, 0);
  EXPECT_EQ(bytes_of(path("q.old/model.safetensors")), first_);
  expect_tidy({"q", "q.old"});
}

TEST_F(OutputsTest, SomebodysOwnPartialFolderStays) {
  fs::create_directory(folder_ / "q.partial");
  folder_.write("q.partial/thesis.tex", "years of work");
  const RunOfCbq run = cbq(quantize("q"));
  EXPECT_EQ(run.code, 1);
  expect_in(run.err, {"q.partial is in the way", "move it away", "--output"});
  EXPECT_EQ(bytes_of(path("q.partial/thesis.tex")), "years of work");
  expect_tidy({"q.partial"});
}

TEST_F(OutputsTest, SomebodysOwnFilesInTheFolderOfTheStateStay) {
  fs::create_directory(folder_ / "q.resume");
  folder_.write("q.resume/cv.tex", "a life");
  EXPECT_EQ(cbq(quantize("q", {"--wbits", "77"})).code, 1) << "and nothing is learned";
  ASSERT_EQ(cbq(quantize("q")).code, 0);
  EXPECT_EQ(bytes_of(path("q.resume/cv.tex")), "a life");
  const auto entries = fs::directory_iterator(folder_ / "q.resume");
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1) << "the state is removed";
}

// With the state inside the output, the finished folder could not get its name.
TEST_F(OutputsTest, TheFolderWhereOneStandsMayBeTheOutput) {
  for (const char* name : {".", "inner/.."}) {
    fs::remove_all(folder_ / "here");
    fs::create_directories(folder_ / "here/inner");
    if (name == std::string(".")) fs::remove(folder_ / "here/inner");
    std::vector<std::string> arguments = quantize("unused");
    arguments[std::find(arguments.begin(), arguments.end(), "--output") - arguments.begin() + 1] =
        name;
    const std::string line = "cd " + quoted(path("here")) + " && " + command("cbq", arguments);
    const RunOfCbq run = bash(line);
    if (name == std::string(".")) {
      ASSERT_EQ(run.code, 0) << run.err;
      EXPECT_TRUE(fs::exists(folder_ / "here/model.safetensors"));
      EXPECT_FALSE(fs::exists(folder_ / "here/..resume"));
    } else {
      EXPECT_EQ(run.code, 1) << "it is not empty";
    }
    expect_tidy({"here"});
  }
}

// ---- signals ------------------------------------------------------------------------------------

/// Whether /proc says that the process catches the signal; false where it is gone.
bool catches(pid_t process, int signal) {
  std::ifstream in("/proc/" + std::to_string(process) + "/status");
  for (std::string word; in >> word;) {
    if (word != "SigCgt:") continue;
    in >> word;
    return (std::stoull(word, nullptr, 16) >> (signal - 1) & 1) != 0;
  }
  return false;
}

TEST_F(OutputsTest, ASecondSignalOfEitherKindEndsTheProgram) {
  bool was_caught = false, still_caught = false;
  const RunOfCbq run = cbq(quantize("q", slow_), [&](pid_t child) {
    for (int i = 0; i < 20000 && !catches(child, SIGINT); ++i) {  // the last one to be set
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    was_caught = catches(child, SIGTERM);
    ::kill(child, SIGINT);
    while (catches(child, SIGINT)) std::this_thread::yield();
    still_caught = catches(child, SIGTERM);
  });
  EXPECT_EQ(run.code, 130) << run.err;
  EXPECT_TRUE(was_caught);
  EXPECT_FALSE(still_caught);
}

TEST_F(OutputsTest, AnIgnoredSignalStaysIgnored) {
  const RunOfCbq run = bash("trap '' INT TERM; " + command("cbq", quantize("q", slow_)) +
                            " & sleep 0.3; kill -INT $!; kill -TERM $!; wait $!");
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.err.find("interrupted"), std::string::npos) << run.err;
  expect_tidy({"q"});
}

/// Runs `cbq` where exchanging names is refused, as on some file systems.
int cbq_without_exchange(const std::vector<std::string>& arguments, const std::string& err) {
  const std::string program = (build_folder() / "bin/cbq").string();
  const pid_t child = ::fork();
  if (child == 0) {
    sock_filter refuse[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 0, 1),
                            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
                            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    sock_fprog filter = {4, refuse};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
      ::_exit(77);
    }
    ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT, 0600), 2);
    ::dup2(::open("/dev/null", O_WRONLY), 1);
    std::vector<char*> argv = {const_cast<char*>(program.c_str())};
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(OverwriteTest, WorksWhereNamesCannotBeExchanged) {
  const TemporaryFolder streams;
  const std::string err = (streams / "err").string();
  const int code = cbq_without_exchange(nearest(4, {"--overwrite"}), err);
  if (code == 77) GTEST_SKIP() << "no system call filters here";
  ASSERT_EQ(code, 0) << bytes_of(err);
  EXPECT_NE(bytes_of(path("q/model.safetensors")), first_);
  EXPECT_FALSE(fs::exists(folder_ / "q/.cbq-replaced"));
  expect_tidy({"q"});
  // The name that it needs is somebody's.
  const std::string second = bytes_of(path("q/model.safetensors"));
  fs::create_directory(folder_ / "q.old");
  EXPECT_EQ(cbq_without_exchange(nearest(5, {"--overwrite"}), err), 1);
  expect_in(bytes_of(err), {"q.old is in the way", "another --output"});
  EXPECT_EQ(bytes_of(err).find("settings:"), std::string::npos) << "after the work";
  EXPECT_EQ(bytes_of(path("q/model.safetensors")), second);
  expect_tidy({"q", "q.old"});
}

// ---- links, pipes, companions -----------------------------------------------------------------

TEST_F(OutputsTest, ALinkToNothingIsFoundBeforeTheWork) {
  fs::create_symlink("nowhere", folder_ / "q");
  folder_.write("a.txt", "a text of a few words\n");
  const std::vector<std::string> before = listing();
  for (const std::vector<std::string>& arguments :
       {quantize("q"),
        {"train", "--text", path("a.txt"), "--tokenizer", tokenizer(), "-o", path("q")},
        {"tokenize", path("a.txt"), "--tokenizer", tokenizer(), "-o", path("q")}}) {
    const RunOfCbq run = cbq(arguments);
    EXPECT_EQ(run.code, 1);
    expect_in(run.err, {"link to nowhere", "not there"});
    EXPECT_EQ(run.err.find("loss"), std::string::npos) << run.err;
    EXPECT_EQ(listing(), before);
  }
}

TEST_F(OutputsTest, ALinkToAFolderStaysALink) {
  fs::create_directories(folder_ / "far/q");
  fs::create_symlink("far/q", folder_ / "q");
  ASSERT_EQ(cbq(quantize("q", {"--reconstruct", "none"})).code, 0);
  ASSERT_EQ(cbq(quantize("q", {"--reconstruct", "none", "--overwrite"})).code, 0);
  EXPECT_TRUE(fs::is_symlink(folder_ / "q"));
  EXPECT_TRUE(fs::exists(folder_ / "far/q/model.safetensors"));
  expect_tidy({"far", "q"});
}

TEST_F(OutputsTest, APipeInPlaceOfAFileIsRefused) {
  const auto pipe_in_place_of = [&](const fs::path& file) {
    fs::remove(file);
    ASSERT_EQ(::mkfifo(file.c_str(), 0600), 0);
  };
  const fs::path spare = folder_ / "model";
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.model", "tokenizer.json",
                           "ids.json", "recipe.json"}) {
    const TemporaryFolder place;
    fs::copy(spare, place / "model");
    fs::copy(folder_ / "ids.json", place / "ids.json");
    place.write("recipe.json", "{}");
    place.write("a.txt", "some text\n");
    const bool outside = std::string(name) == "ids.json" || std::string(name) == "recipe.json";
    pipe_in_place_of(outside ? place / name : place / "model" / name);
    const bool tokenizes = std::string(name).starts_with("tokenizer");
    const std::string line =
        tokenizes
            ? command("cbq", {"tokenize", (place / "a.txt").string(), "--tokenizer",
                              (place / "model").string(), "-o", (place / "t.h5").string()})
            : command("cbq", {"quantize", (place / "model").string(), "-o", (place / "q").string(),
                              "--calibration", (place / "ids.json").string() + ":calibration",
                              "--recipe", (place / "recipe.json").string(), "--epochs", "1"});
    const RunOfCbq run = bash(line);
    EXPECT_EQ(run.code, 1) << name << ": " << run.err;
    expect_in(run.err, {name, "not a regular file"});
    EXPECT_FALSE(fs::exists(place / "q") || fs::exists(place / "q.partial"));
  }
}

TEST_F(OutputsTest, TextsAndRecipesMayComeFromACommand) {
  const RunOfCbq run = bash(command("cbq", quantize("q", {"--reconstruct", "none"})) +
                            " --recipe <(echo '{\"scale_search\": \"min_max\"}')");
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(json_of(path("q/recipe.json"))["settings"]["scale_search"], "min_max");
  const std::string rest = " --tokenizer " + quoted(tokenizer()) + " -o " + quoted(path("t.h5"));
  const RunOfCbq text = bash(quoted(program("cbq")) + " tokenize <(echo some text)" + rest);
  EXPECT_EQ(text.code, 0) << text.err;
  const RunOfCbq input =
      bash("echo some text | " + quoted(program("cbq")) + " tokenize /dev/stdin" + rest);
  EXPECT_EQ(input.code, 0) << input.err;
}

TEST_F(OutputsTest, CompanionsAreCarriedOver) {
  const std::vector<std::string> carried = {"tokenizer.json",
                                            "tokenizer.model",
                                            "vocab.json",
                                            "merges.txt",
                                            "tokenizer.bin",
                                            "tokenizer_config.json",
                                            "added_tokens.json",
                                            "chat_template.jinja",
                                            "special_tokens_map.json",
                                            "LICENSE",
                                            "README.md",
                                            "generation_config.json",
                                            "modeling_special.py",
                                            ".gitattributes",
                                            "preprocessor_config.json"};
  const std::vector<std::string> left = {
      "pytorch_model.bin", "consolidated.00.pth", "model-q4.gguf", "model.safetensors.index.json",
      "training.json",     "recipe.json",         "flax.msgpack",  "tokens-0123.h5",
      "other.safetensors"};
  fs::copy(model(), folder_ / "spare");
  for (const std::string& name : carried) folder_.write("spare/" + name, "of the model: " + name);
  for (const std::string& name : left) {
    if (name.find("index") == std::string::npos) folder_.write("spare/" + name, "not carried");
  }
  fs::create_directories(folder_ / "spare/onnx");
  folder_.write("spare/onnx/model.onnx", "x");
  fs::create_directories(folder_ / "spare/additional_chat_templates");
  folder_.write("spare/additional_chat_templates/tools.jinja", "{{ tools }}");
  fs::create_symlink("README.md", folder_ / "spare/link.md");
  ASSERT_EQ(::mkfifo(path("spare/pipe.txt").c_str(), 0600), 0);
  for (const char* format : {"packed", "dense"}) {
    const std::string q = std::string("q-") + format;
    const RunOfCbq run =
        bash(command("cbq", {"quantize", path("spare"), "-o", path(q), "--calibration",
                             calibration(), "--reconstruct", "none", "--export", format}));
    ASSERT_EQ(run.code, 0) << run.err;
    for (const std::string& name : carried) {
      EXPECT_EQ(bytes_of(path(q + "/" + name)), "of the model: " + name);
    }
    EXPECT_EQ(bytes_of(path(q + "/link.md")), "of the model: README.md");
    EXPECT_EQ(bytes_of(path(q + "/additional_chat_templates/tools.jinja")), "{{ tools }}");
    for (const std::string& name : left) {
      EXPECT_EQ(fs::exists(folder_ / q / name), name == "recipe.json") << name;
    }
    EXPECT_NE(bytes_of(path(q + "/recipe.json")), "not carried");
    EXPECT_FALSE(fs::exists(folder_ / q / "onnx"));
    expect_in(run.err, {"onnx", "pipe.txt is not a regular file"});
  }
}

TEST_F(OutputsTest, TrainCarriesTheTokenizersCompanions) {
  fs::create_directory(folder_ / "tok");
  fs::copy(fs::path(tokenizer()) / "tokenizer.model", folder_ / "tok/tokenizer.model");
  for (const char* name : {"chat_template.jinja", "added_tokens.json", "README.md"}) {
    folder_.write(std::string("tok/") + name, "{}");
  }
  std::string text;
  for (int i = 0; i < 100; ++i) text += "line " + std::to_string(i) + " of some text\n";
  folder_.write("a.txt", text);
  const RunOfCbq run = cbq({"train",       "--text",    path("a.txt"),
                            "--tokenizer", path("tok"), "-o",
                            path("m"),     "--layers",  "1",
                            "--hidden",    "16",        "--intermediate",
                            "16",          "--heads",   "2",
                            "--kv-heads",  "1",         "--context",
                            "16",          "--tokens",  "16",
                            "--batch",     "2",         "--steps",
                            "4",           "--warmup",  "1"});
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_TRUE(fs::exists(folder_ / "m/chat_template.jinja"));
  EXPECT_TRUE(fs::exists(folder_ / "m/added_tokens.json"));
  EXPECT_FALSE(fs::exists(folder_ / "m/README.md"));
  EXPECT_FALSE(fs::exists(folder_ / "m.lock"));
}

// ---- limits and pipes -------------------------------------------------------------------------

TEST_F(OutputsTest, ALimitOfFileSizesIsReportedAndLeavesNothing) {
  const std::string limit = "ulimit -f 8; exec ";  // of 1,024 bytes
  const RunOfCbq run = bash(limit + command("cbq", quantize("q", {"--reconstruct", "none"})));
  EXPECT_EQ(run.code, 1) << run.err;
  expect_in(run.err, {"q.partial", "File too large"});
  const RunOfCbq cached =
      bash(limit + command("cbq", quantize("q", {"--cache", path("cache"), "--segments", "6"})));
  EXPECT_EQ(cached.code, 1) << cached.err;
  const RunOfCbq sampled =
      bash("ulimit -f 1; exec " + command("cbq", {"sample", model(), "-o", path("s.h5"),
                                                  "--segments", "40", "--segment-length", "16"}));
  EXPECT_EQ(sampled.code, 1) << sampled.err;
  expect_in(sampled.err, {"s.h5"});
  const RunOfCbq ablation = bash(
      "ulimit -f 1; exec " +
      command("run_ablation", {"--model", model(), "--calibration", calibration(), "--texts",
                               "a=" + test_tokens(), "--table", "12", "--segments", "6",
                               "--segment-length", "12", "--epochs", "1", "--output", path("a")}));
  EXPECT_EQ(ablation.code, 1) << ablation.err;
  expect_in(ablation.err, {"run_ablation: "});
  for (const auto& entry : fs::recursive_directory_iterator(folder_.path())) {
    const std::string name = entry.path().filename().string();
    EXPECT_FALSE(name.ends_with(".tmp") || name.ends_with(".partial") || name.ends_with(".lock"))
        << name;
  }
}

TEST_F(OutputsTest, APipeWithoutAReaderStopsNoWork) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ::close(ends[0]);
  const std::string to_pipe = " >&" + std::to_string(ends[1]);
  const RunOfCbq shown = bash("exec " + command("cbq", {"inspect", model()}) + to_pipe);
  EXPECT_EQ(shown.code, 141);
  EXPECT_EQ(shown.err, "");
  const RunOfCbq run =
      bash("exec " + command("cbq", quantize("q", {"--evaluate", test_tokens()})) + to_pipe);
  EXPECT_EQ(run.code, 141);
  EXPECT_EQ(run.err.find("cannot write"), std::string::npos) << run.err;
  EXPECT_EQ(cbq({"evaluate", path("q"), "--tokens", test_tokens()}).code, 0);
  const RunOfCbq list = bash("exec " + command("run_ablation", {"--list"}) + to_pipe);
  EXPECT_EQ(list.code, 141);
  ::close(ends[1]);
  expect_tidy({"q"});
}

#if !defined(__SANITIZE_ADDRESS__)  // whose shadow takes terabytes of addresses
TEST_F(OutputsTest, ASmallAddressSpaceIsNoReasonToHang) {
  const auto limited = [](int mebibytes, const std::string& line) {
    return "ulimit -v " + std::to_string(mebibytes * 1024) + "; exec " + line;
  };
  for (const char* name : {"cbq", "run_ablation", "bench", "check_reference"}) {
    const RunOfCbq help = bash(limited(150, command(name, {"--help"})));
    EXPECT_EQ(help.code, 0) << name << help.err;
  }
  const RunOfCbq version = bash(limited(150, command("cbq", {"--version"})));
  EXPECT_EQ(version.code, 0) << version.err;
  EXPECT_EQ(version.out.substr(0, 4), "cbq ");
  const std::vector<std::string> arguments = quantize("q", {"--evaluate", test_tokens()});
  const RunOfCbq none = bash(limited(250, command("cbq", arguments)));
  EXPECT_EQ(none.code, 1) << none.out;
  expect_in(none.err, {"no room for a matrix product", "OpenBLAS", "ulimit -v"});
  expect_tidy({});
  // Room for two or three threads of 16.
  const RunOfCbq few = bash("export OMP_NUM_THREADS=16 OMP_STACKSIZE=256K; " +
                            limited(1000, command("cbq", arguments)));
  ASSERT_EQ(few.code, 0) << few.err;
  expect_in(few.err, {"threads instead of 16", "ulimit -v"});
  const std::string bytes = bytes_of(path("q/model.safetensors"));
  ASSERT_EQ(cbq(quantize("whole", {"--evaluate", test_tokens()})).code, 0);
  EXPECT_EQ(bytes, bytes_of(path("whole/model.safetensors")));
}
#endif

}  // namespace
}  // namespace cbq::test::test_cli_outputs
