// Switches in the environment: known values, known names, and one table of both.
#include <gtest/gtest.h>

#include "nn/formats/atomic_file.h"
#include "tensor/runtime/environment.h"
#include "tests/environment.h"
#include "tests/test_data.h"

namespace cbq::test_environment {
namespace {

TEST(Switches, UnsetAndEmptyAreTheDefault) {
  for (const EnvironmentSwitch& s : environment_switches()) {
    const Environment unset(s.name.c_str(), nullptr);
    EXPECT_EQ(environment_value(s.name), s.values.front());
    const Environment empty(s.name.c_str(), "");
    EXPECT_EQ(environment_value(s.name), s.values.front());
  }
}

TEST(Switches, EveryKnownValueIsTakenAndNoOther) {
  for (const EnvironmentSwitch& s : environment_switches()) {
    for (const std::string& value : s.values) {
      const Environment known(s.name.c_str(), value.c_str());
      EXPECT_EQ(environment_value(s.name), value);
      EXPECT_NO_THROW(check_environment());
    }
    const Environment wrong(s.name.c_str(), "perhaps");
    const char *name = s.name.c_str(), *first = s.values[0].c_str(),
               *last = s.values.back().c_str();
    expect_error<std::invalid_argument>([&] { environment_value(s.name); },
                                        {name, "perhaps", first, last, "unset"});
    expect_error<std::invalid_argument>([] { check_environment(); }, {name, "perhaps"});
  }
  const Environment many("CBQ_GEMM_CANDIDATES", "17");
  expect_error<std::invalid_argument>([] { environment_value("CBQ_GEMM_CANDIDATES"); },
                                      {"17", "1 to 16"});
}

TEST(Switches, ThoseThatMoveBitsAreNamedWhereTheyAreNotAtTheirDefaults) {
  for (const EnvironmentSwitch& s : environment_switches()) {
    const Environment other(s.name.c_str(), s.values.back().c_str());
    const std::string named = s.name + "=" + s.values.back();
    EXPECT_EQ(bits_of_environment().find(named) != std::string::npos, s.moves_bits) << s.name;
  }
  const Environment a("CBQ_FAST", nullptr), b("CBQ_ATTENTION", "fused");
  const Environment c("CBQ_GEMM_CANDIDATES", "3"), d("CBQ_GRAPH", "0");
  EXPECT_EQ(bits_of_environment(), "CBQ_GEMM_CANDIDATES=3");
}

TEST(Switches, AVariableThatNobodyReadsIsDoubted) {
  EXPECT_EQ(doubt_about_variable("HOME"), "");
  EXPECT_EQ(doubt_about_variable("CBQ_TEST_DATA"), "");
  EXPECT_EQ(doubt_about_variable("CBQ_SYNC"), "");
  for (const auto& [name, nearest] :
       {std::pair<std::string, std::string>{"CBQ_STREAM", "CBQ_STREAMS"},
        {"CBQ_GRAPHS", "CBQ_GRAPH"},
        {"CBQ_SYNCH", "CBQ_SYNC"},
        {"CBQ_GEMM_CANDIDATE", "CBQ_GEMM_CANDIDATES"}}) {
    const std::string doubt = doubt_about_variable(name);
    EXPECT_NE(doubt.find(name + " "), std::string::npos) << doubt;
    EXPECT_TRUE(doubt.ends_with(" " + nearest)) << doubt;
  }
  const Environment misspelt("CBQ_STREEMS", "host");
  testing::internal::CaptureStderr();
  check_environment();
  EXPECT_NE(testing::internal::GetCapturedStderr().find("CBQ_STREAMS"), std::string::npos);
}

TEST(Switches, TheTableOfTheDocumentationIsComplete) {
  const std::string page = read_text_file(std::string(CBQ_SOURCE_DIR) + "/docs/performance.md");
  const std::string help = environment_help();
  for (const EnvironmentSwitch& s : environment_switches()) {
    EXPECT_NE(page.find("| `" + s.name + "` |"), std::string::npos) << s.name;
    EXPECT_NE(help.find(s.name), std::string::npos) << s.name;
  }
}

}  // namespace
}  // namespace cbq::test_environment
