// What the program writes about itself: completion scripts, the manual page, its version.
#include <gtest/gtest.h>

#include <cstdlib>
#include <regex>
#include <sstream>

#include "cbq/exporters/exporter.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_cli_texts {
namespace {

namespace fs = std::filesystem;

/// The standard output of a shell's line; `code` must be its exit code.
std::string output_of(const std::string& line, int code = 0) {
  const TemporaryFolder folder;
  const std::string out = (folder / "out").string();
  const int status = std::system(("( " + line + " ) > '" + out + "' 2>&1").c_str());
  EXPECT_EQ(WEXITSTATUS(status), code) << line << "\n" << bytes_of(out);
  return bytes_of(out);
}

bool has_program(const char* name) {
  return std::system(("command -v " + std::string(name) + " > /dev/null").c_str()) == 0;
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

/// What bash proposes for the last of these words.
std::vector<std::string> proposed(const fs::path& script, const std::string& words) {
  return words_of(output_of("bash -c 'source " + script.string() + "; COMP_WORDS=(" + words +
                            "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _cbq; "
                            "echo \"${COMPREPLY[@]}\"'"));
}

TEST(CompletionTest, BashProposesCommandsOptionsAndValues) {
  const TemporaryFolder folder;
  const RunOfCbq script = cbq({"completion", "bash"});
  ASSERT_EQ(script.code, 0) << script.err;
  const fs::path file = folder.write("cbq.bash", script.out);
  EXPECT_EQ(proposed(file, "cbq qu"), (std::vector<std::string>{"quantize"}));
  EXPECT_EQ(proposed(file, "cbq export --form"), (std::vector<std::string>{"--format"}));
  std::vector<std::string> formats = exporters().names();
  std::erase(formats, "unpacked");  // the tutorial's, which this program of tests alone has
  EXPECT_EQ(proposed(file, "cbq export result -f \"\""), formats);
  EXPECT_EQ(proposed(file, "cbq quantize m --method cbq_v"), (std::vector<std::string>{"cbq_v4"}));
  EXPECT_EQ(proposed(file, "cbq quantize m --rounding sig"),
            (std::vector<std::string>{"signround"}));
  EXPECT_TRUE(proposed(file, "cbq evaluate mod").empty()) << "files: bash's own";
  // Every command of the help.
  const std::vector<std::string> all = proposed(file, "cbq \"\"");
  const std::string help = cbq({"--help"}).out;
  for (const std::string& word : all) EXPECT_NE(help.find(word), std::string::npos) << word;
  EXPECT_GE(all.size(), 15u);
}

TEST(CompletionTest, OtherShellsReadTheirScripts) {
  const TemporaryFolder folder;
  for (const char* shell : {"zsh", "fish"}) {
    const RunOfCbq script = cbq({"completion", shell});
    ASSERT_EQ(script.code, 0) << script.err;
    expect_in(script.out, {"quantize", "export", "compressed-tensors", "scale-type"});
    const fs::path file = folder.write(shell, script.out);
    if (has_program(shell)) output_of(std::string(shell) + " -n " + file.string());
  }
  const RunOfCbq unknown = cbq({"completion", "tcsh"});
  EXPECT_EQ(unknown.code, 1);
  expect_in(unknown.err, {"tcsh", "bash, zsh, fish"});
}

TEST(ManualTest, HasEveryCommandAndOptionAndNoFaultOfRoff) {
  const TemporaryFolder folder;
  const RunOfCbq page = cbq({"man"});
  ASSERT_EQ(page.code, 0) << page.err;
  EXPECT_EQ(page.out.substr(0, 10), ".TH cbq 1 ");
  expect_in(page.out, {".SH NAME", ".SH COMMANDS", ".SS cbq inspect", "\\-\\-html", "CBQ_FAST"});
  const fs::path file = folder.write("cbq.1", page.out);
  if (!has_program("groff")) GTEST_SKIP() << "groff is not there to read the page";
  const std::string shown = output_of("groff -man -Tascii -ww -P-c -P-b -P-u " + file.string());
  EXPECT_EQ(shown.find("warning"), std::string::npos) << shown.substr(0, 2000);
  expect_in(shown, {"cbq quantize", "--wbits"});
}

TEST(VersionTest, SaysHowTheProgramWasBuilt) {
  const std::string out = cbq({"--version"}).out;
  EXPECT_TRUE(std::regex_search(out, std::regex(R"(^cbq \d+\.\d+\.\d+\+[0-9a-f]{12}\n)"))) << out;
  expect_in(out, {"\ncompiler: ", "\nprocessor: ", "\nCUDA: "});
}

}  // namespace
}  // namespace cbq::test::test_cli_texts
