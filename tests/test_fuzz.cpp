// The program cbq_fuzz finds what it is there to find (tests/fuzz/targets/self_test.cpp has a
// parser for each fault), keeps the input, and shows the fault again from it.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>

#include "nn/formats/atomic_file.h"
#include "tests/test_data.h"

namespace cbq::test_fuzz {
namespace {

namespace fs = std::filesystem;

struct FuzzRun {
  int code = -1;
  std::string out;
};

FuzzRun fuzz(const std::string& arguments) {
  const std::string command = (build_folder() / "bin/cbq_fuzz ").string() + arguments + " 2>&1";
  FuzzRun run;
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return run;
  std::array<char, 4096> piece{};
  for (size_t got; (got = std::fread(piece.data(), 1, piece.size(), pipe)) > 0;) {
    run.out.append(piece.data(), got);
  }
  const int status = ::pclose(pipe);
  run.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return run;
}

struct Fault {
  const char* target;
  const char* said;
};
void PrintTo(const Fault& fault, std::ostream* out) { *out << fault.target; }

class FuzzFault : public ::testing::TestWithParam<Fault> {};

TEST_P(FuzzFault, IsFoundKeptAndShownAgain) {
  const TemporaryFolder folder;
  const std::string common = std::string("--target self_") + GetParam().target +
                             " --cpu-seconds 0.3 --wait-seconds 3 --megabytes 64 ";
  const FuzzRun found = fuzz(common + "--count 2 --findings " + folder.path().string());
  EXPECT_EQ(found.code, 1) << found.out;
  EXPECT_NE(found.out.find(GetParam().said), std::string::npos) << found.out;
  // The first case may be one that the target takes for empty.
  const fs::path cases = folder / ("self_" + std::string(GetParam().target));
  const fs::path first = cases / "1-0/input.txt", second = cases / "1-1/input.txt";
  const fs::path kept = fs::exists(first) ? first : second;
  ASSERT_TRUE(fs::exists(kept)) << found.out;
  EXPECT_TRUE(fs::exists(kept.parent_path() / "report.txt"));
  const FuzzRun again = fuzz(common + "--input " + kept.string());
  EXPECT_EQ(again.code, 1) << again.out;
}

/// What only a sanitizer sees is asked for where there is one.
std::vector<Fault> faults() {
  std::vector<Fault> all = {
      {"crash", "the process ended"},  {"hang", "too much processor time"},
      {"wait", "wait for something"},  {"out_of_range", "exception of the type"},
      {"number", "no std::exception"}, {"unnamed", "does not name the file"},
      {"not_utf8", "not UTF-8"},       {"long_message", "thousands of characters"}};
#if defined(__SANITIZE_ADDRESS__)
  all.insert(all.end(), {{"memory", "the process ended"},
                         {"overrun", "heap-buffer-overflow"},
                         {"leak", "LeakSanitizer"}});
#else
  all.push_back({"memory", "bad_alloc"});
#endif
  return all;
}

INSTANTIATE_TEST_SUITE_P(Fuzz, FuzzFault, ::testing::ValuesIn(faults()),
                         [](const auto& test) { return std::string(test.param.target); });

TEST(Fuzz, AParserThatRefusesCorrectlyPasses) {
  const TemporaryFolder folder;
  const FuzzRun run = fuzz("--target self_good --count 600 --findings " + folder.path().string());
  EXPECT_EQ(run.code, 0) << run.out;
  EXPECT_NE(run.out.find("601 cases of 1 targets"), std::string::npos) << run.out;
  EXPECT_EQ(folder.count(), 0);
}

TEST(Fuzz, AValidFileMustBeAccepted) {
  const TemporaryFolder folder;
  const FuzzRun run = fuzz("--target self_refused --count 0 --findings " + folder.path().string());
  EXPECT_EQ(run.code, 1) << run.out;
  EXPECT_NE(run.out.find("a valid file is refused"), std::string::npos) << run.out;
}

TEST(Fuzz, CasesFollowFromSeedAndNumber) {
  const TemporaryFolder folder;
  const auto case_of = [&](int seed, const char* range, int number, const char* name) {
    fuzz("--target self_unnamed --seed " + std::to_string(seed) + " " + range + " --findings " +
         (folder / name).string());
    return read_text_file(folder / name / "self_unnamed" /
                          (std::to_string(seed) + "-" + std::to_string(number)) / "input.txt");
  };
  const std::string first = case_of(5, "--first 1 --count 1", 1, "a");
  EXPECT_EQ(case_of(5, "--count 3", 1, "b"), first) << "it depends on the cases before";
  EXPECT_NE(case_of(6, "--first 1 --count 1", 1, "c"), first);
}

TEST(Fuzz, UnknownTargetsAreNamed) {
  const FuzzRun run = fuzz("--target nonsense");
  EXPECT_EQ(run.code, 2);
  EXPECT_NE(run.out.find("unknown 'nonsense'; known: "), std::string::npos) << run.out;
}

}  // namespace
}  // namespace cbq::test_fuzz
