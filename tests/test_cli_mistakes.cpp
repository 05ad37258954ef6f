// What is impossible, contradicting or unknown ends a command before anything is read.
#include <gtest/gtest.h>

#include "tests/test_cli_support.h"

namespace cbq::test::test_cli_mistakes {
namespace {

TEST_F(CliTest, MistakesAreToldBeforeAnythingIsRead) {
  const std::vector<std::string> before = listing();
  const struct {
    std::vector<std::string> options;
    std::vector<std::string> parts;
  } mistakes[] = {
      {quantize("o", {"--seed", "-1"}), {"--seed", "whole number from 0", "-1"}},
      {quantize("o", {"--rotation-seed", "-3"}), {"rotation-seed", "whole number from 0", "-3"}},
      {quantize("o", {"--bits", "W3"}), {"--bits W3", "--wbits 2", "contradict"}},
      {quantize("o", {"--bits", "W2A4", "--abits", "8"}),
       {"--bits W2A4", "--abits 8", "contradict"}},
      {quantize("o", {"--transform", "rotation:r1"}), {"--rotation"}},
      {{"sample", model(), "-o", path("s.h5"), "--seed", "-1"}, {"--seed", "whole number from 0"}},
      {{"evaluate", model(), "--tasks", "hellaswagg"}, {"hellaswagg", "hellaswag"}},
  };
  for (const auto& mistake : mistakes) {
    const RunOfCbq run = cbq(mistake.options);
    EXPECT_NE(run.code, 0);
    for (const std::string& part : mistake.parts) {
      EXPECT_NE(run.err.find(part), std::string::npos) << "not in the text: " << part << "\n"
                                                       << run.err;
    }
  }
  EXPECT_EQ(listing(), before);
}

// What a command explains is what `cbq quantize` does with the same options.
TEST_F(CliTest, MethodsExplainsTheBitsThatQuantizeTakes) {
  const RunOfCbq run = cbq({"methods", "cbq", "--wbits", "2"});
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.out, {"W2A16"});
  expect_in(cbq({"methods", "cbq", "--abits", "4"}).out, {"W4A4"});
}

}  // namespace
}  // namespace cbq::test::test_cli_mistakes
