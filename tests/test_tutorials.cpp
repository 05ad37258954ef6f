// The code of the pages docs/add-a-*.md is part of this program (cmake/Tutorial.cmake). A rounding
// scheme and a grid go through their contracts (test_rounding.cpp, test_grids.cpp) under the names
// they register; what has no contract is run here.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>
#include <string>

#include "cbq/global_transforms.h"
#include "cbq/pipeline.h"
#include "cbq/settings.h"
#include "kernels/ops.h"
#include "quant/grid_scheme.h"
#include "quant/rounding.h"
#include "quant/solvers/solver.h"
#include "tests/test_data.h"
#include "tests/tiny_model.h"

namespace cbq::test_tutorials {
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
  const std::string code = text_of(build_folder() / "tutorial" / file);
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

std::vector<double> logits_of(Transformer& model) {
  NoGrad none;
  const std::vector<int32_t> ids = tiny_segments(1, 12)[0];
  return model.forward(Tensor::from(ids, {12}), {1, 12}).value().to_vector<double>();
}

TEST(Tutorial, TransformIsRegisteredByItsOwnFileAndRuns) {
  ASSERT_TRUE(global_transforms().has("equalize"));
  expect_shown("equalize.cpp", "add-a-transform.md");
  Settings settings;
  settings.transform = "equalize";
  settings.reconstruct = "none";
  const auto model = tiny_model(2);
  Linear& fc2 = *model->block(1).linears().back().linear;
  const Tensor uneven = fc2.weight.value().clone();
  for (int64_t row = 0; row < uneven.size(0); ++row) {
    uneven.data<float>()[row * uneven.size(1)] *= 100.0f;
  }
  fc2.weight.set_value(uneven);
  const auto spread = [&] {
    const auto largest = kernels::abs_max_columns(fc2.weight.value()).to_vector<double>();
    return *std::max_element(largest.begin(), largest.end()) /
           *std::min_element(largest.begin(), largest.end());
  };
  const double before = spread();
  const std::vector<double> logits = logits_of(*model);
  apply_global_transforms(*model, settings);
  EXPECT_EQ(logits_of(*model), logits) << "powers of two change no bit";
  EXPECT_LT(spread(), 0.5 * before);
  EXPECT_EQ(model->transforms, std::vector<std::string>{"equalize, seed 0"});
  quantize(*model, tiny_segments(2, 8), settings, nullptr, {});  // the model that settings describe
  EXPECT_NE(logits_of(*model), logits);
}

TEST(Tutorial, TransformsAreRefusedByName) {
  const auto message_of_setting = [](const char* text) {
    Settings settings;
    settings.transform = text;
    try {
      validate(settings, 2);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message_of_setting("equalize"), "");
  EXPECT_NE(message_of_setting("equalise").find("known: equalize, rotation"), std::string::npos);
  EXPECT_NE(message_of_setting("equalize:2").find("no variants"), std::string::npos);
  EXPECT_NE(message_of_setting("equalize+").find("empty stage"), std::string::npos);
  EXPECT_NE(message_of_setting("rotation:r1").find("(--rotation)"), std::string::npos);
}

// A transform may draw from the seed, so runs that differ in it are not the same run.
TEST(Tutorial, ASeedCountsWhereThereIsATransform) {
  const auto identity = [](const char* transform, uint64_t seed) {
    Settings settings;
    settings.reconstruct = "none";
    settings.transform = transform;
    settings.seed = seed;
    return to_json(canonical(settings, 2));
  };
  EXPECT_EQ(identity("none", 0), identity("none", 1));
  EXPECT_NE(identity("equalize", 0), identity("equalize", 1));
}

/// Whether a source or a JSON file declares or defines the name: as a class, as a function or
/// member at the beginning of a line but for its type (or behind another one), or as a key.
bool has_definition(const std::string& code, const std::string& name) {
  const std::string before =
      R"((^|\n)[ ]*(\[\[[a-z_]+\]\] )?(inline |static |virtual |const |constexpr |explicit )*)"
      R"((template <[^\n]*> )?(CBQ_HD )?(static )?)";
  const std::string type =
      R"((?!return|throw|else)[A-Za-z_][\w:]*(<[^;=\n]*>)?[&*]* (const )?[&*]?)";
  const std::string scope = R"(\w+(<[^\n]*>)?::)";
  const std::regex pattern(before + "(class|struct|enum class) " + name + R"(\b|)" + before + "(" +
                           type + "(" + scope + ")?|" + scope + ")" + name + R"((\(|;| = |\{)|, )" +
                           name + " = [^;()]*;|\"" + name + "\":");
  return std::regex_search(code, pattern);
}

TEST(ReadingGuide, AUseIsNoDefinition) {
  const std::string code =
      "struct Shape {\n  int64_t size(int i) const;\n};\nvoid Tape::run() {\n  advance(2);\n"
      "  x.size(3);\n  return run_all();\n}\n";
  for (const char* name : {"Shape", "size", "run"}) EXPECT_TRUE(has_definition(code, name)) << name;
  for (const char* name : {"run_all", "Tap", "siz", "advance"})
    EXPECT_FALSE(has_definition(code, name)) << name;
}

/// Every file that the guide has a section of exists and has the names that the section lists.
TEST(ReadingGuide, NamesFilesAndWhatIsInThem) {
  std::istringstream page(text_of(CBQ_SOURCE_DIR "/docs/read-in-an-afternoon.md"));
  std::string file, code;
  int64_t files = 0, names = 0, lines = 0;
  bool is_command = false;
  for (std::string line; std::getline(page, line); ++lines) {
    if (line.starts_with("```")) is_command = !is_command;
    if (is_command || line.starts_with("```")) continue;
    std::vector<std::string> quoted;  // between backticks
    for (size_t at = 0; (at = line.find('`', at)) != std::string::npos;) {
      const size_t end = line.find('`', at + 1);
      ASSERT_NE(end, std::string::npos) << line;
      quoted.push_back(line.substr(at + 1, end - at - 1));
      at = end + 1;
    }
    if (line.starts_with("## ") && !quoted.empty()) {
      file = quoted.front();
      code = text_of(CBQ_SOURCE_DIR "/" + file);
      EXPECT_FALSE(code.empty()) << file;
      ++files;
    } else if (line.starts_with("- ")) {
      const std::string listed = line.substr(0, line.find(':'));
      for (const std::string& name : quoted) {
        if (listed.find("`" + name + "`") == std::string::npos) continue;
        EXPECT_TRUE(has_definition(code, name)) << file << " has no " << name;
        ++names;
      }
    }
    for (const std::string& path : quoted) {  // other files that are mentioned
      const bool is_path = path.find('/') != std::string::npos &&
                           path.find(' ') == std::string::npos &&
                           path.find('.') != std::string::npos && !path.starts_with("build") &&
                           !path.starts_with("./");
      if (!is_path) continue;
      EXPECT_TRUE(std::filesystem::exists(CBQ_SOURCE_DIR "/" + path)) << path;
    }
  }
  EXPECT_EQ(files, 10);
  EXPECT_GE(names, 25);
  EXPECT_LE(lines, 150);
}

TEST(Tutorial, RoundingSchemeIsAtMostFortyLines) {
  const std::string code = text_of(build_folder() / "tutorial/linear.cu");
  ASSERT_NE(code.find("register_rounding_scheme"), std::string::npos);
  EXPECT_LE(std::count(code.begin(), code.end(), '\n'), 40);
  // What was compiled is what the page shows.
  EXPECT_NE(text_of(CBQ_SOURCE_DIR "/docs/add-a-rounding-scheme.md").find(code), std::string::npos);
}

}  // namespace
}  // namespace cbq::test_tutorials
