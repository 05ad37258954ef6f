// The code of the pages docs/add-a-*.md is part of this program (cmake/Tutorial.cmake). A rounding
// scheme and a grid go through their contracts (test_rounding.cpp, test_grids.cpp) under the names
// they register; what has no contract is run here.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>

#include "cbq/pipeline.h"
#include "cbq/settings.h"
#include "kernels/ops.h"
#include "quant/grid_scheme.h"
#include "quant/rounding.h"
#include "quant/solvers/solver.h"
#include "tests/tiny_model.h"

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

/// What was compiled is what the page shows.
void expect_shown(const std::string& file, const std::string& page) {
  const std::string code = text_of(CBQ_BINARY_DIR "/tutorial/" + file);
  ASSERT_FALSE(code.empty()) << file;
  EXPECT_NE(text_of(CBQ_SOURCE_DIR "/docs/" + page).find(code), std::string::npos) << page;
}

TEST(Tutorial, GridIsRegisteredByItsOwnFile) {
  ASSERT_TRUE(grid_schemes().has("bounded"));
  expect_shown("bounded.cu", "add-a-grid.md");
}

TEST(Tutorial, SolverIsRegisteredByItsOwnFileAndRuns) {
  ASSERT_TRUE(solvers().has("output_clip"));
  expect_shown("output_clip.cpp", "add-a-solver.md");
  Settings settings;
  settings.wbits = 2;
  settings.scale_search = "min_max";
  settings.solver = "output_clip";
  settings.reconstruct = "none";
  const auto model = tiny_model(2);
  std::vector<SolveReport> reports;
  RunHooks hooks;
  hooks.solved = [&](const SolveReport& report) { reports.push_back(report); };
  quantize(*model, tiny_segments(4, 12), settings, nullptr, hooks);
  ASSERT_EQ(static_cast<int64_t>(reports.size()), model->block_count());
  for (const SolveReport& report : reports) EXPECT_LT(report.mean_error_ratio(), 1.0);
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
