// docs/add-a-rounding-scheme.md: its code is part of this program (cmake/Tutorial.cmake) and goes
// through the contract of test_rounding.cpp under the name it registers.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>

#include "quant/rounding.h"

namespace cbq {
namespace {

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(Tutorial, RoundingSchemeIsRegisteredByItsOwnFile) {
  ASSERT_TRUE(rounding_schemes().has("linear"));
  EXPECT_EQ(rounding_schemes().make("linear")->default_start(), Start::fraction);
}

TEST(Tutorial, RoundingSchemeIsAtMostFortyLines) {
  const std::string code = text_of(CBQ_BINARY_DIR "/tutorial/linear.cu");
  ASSERT_NE(code.find("register_rounding_scheme"), std::string::npos);
  EXPECT_LE(std::count(code.begin(), code.end(), '\n'), 40);
  // What was compiled is what the page shows.
  EXPECT_NE(text_of(CBQ_SOURCE_DIR "/docs/add-a-rounding-scheme.md").find(code), std::string::npos);
}

}  // namespace
}  // namespace cbq
