// `cbq inspect`: what it shows of blocks, on the terminal and as a page; and all commands on
// folders in the layouts of other programs.
#include <gtest/gtest.h>

#include <sstream>

#include "cbq/quantized_folder.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_cli_inspect {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

class InspectTest : public CliTest {
 protected:
  /// The cells of the row that begins with the block's number.
  static std::vector<std::string> row(const std::string& text, const std::string& block) {
    const size_t table = text.find("bits per weight");
    std::istringstream in(text.substr(table == std::string::npos ? 0 : table));
    for (std::string line; std::getline(in, line);) {
      std::replace(line.begin(), line.end(), '|', ' ');
      const std::vector<std::string> words = words_of(line);
      if (!words.empty() && words[0] == block) return words;
    }
    return {};
  }
};

TEST_F(InspectTest, ShowsBlocksWithErrorsAndLosses) {
  ASSERT_EQ(cbq(quantize("q")).code, 0);
  const RunOfCbq run = cbq({"inspect", path("q"), "--original", model()});
  ASSERT_EQ(run.code, 0) << run.err;
  const auto report = json_of(path("q/report.json"));
  const auto& window = report["windows"].back();  // it finishes the last block
  const auto quantized = load_any_model(path("q"), Dtype::f32, Device::cpu());
  const auto original = load_any_model(model(), Dtype::f32, Device::cpu());
  double squared = 0.0, norm = 0.0;
  for (size_t i = 0; i < quantized->block(3).linears().size(); ++i) {
    const auto a = quantized->block(3).linears()[i].linear->weight.value().to_vector<double>();
    const auto b = original->block(3).linears()[i].linear->weight.value().to_vector<double>();
    for (size_t j = 0; j < a.size(); ++j) {
      squared += (a[j] - b[j]) * (a[j] - b[j]);
      norm += b[j] * b[j];
    }
  }
  const std::vector<std::string> cells = row(run.out, "3");  // block bits share % error nearest
  ASSERT_EQ(cells.size(), 11u) << run.out;                   // moved % window before after
  EXPECT_NEAR(std::stod(cells[4]), squared / norm, 1e-5);
  EXPECT_EQ(cells[8], concat(window["first"].get<int>(), "-", 3));
  EXPECT_NEAR(std::stod(cells[9]) / double{window["loss_before"]}, 1.0, 1e-4);
  EXPECT_NEAR(std::stod(cells[10]) / double{window["loss_hard"]}, 1.0, 1e-4);
}

TEST_F(InspectTest, AResultWithoutReportHasNoLosses) {
  ASSERT_EQ(cbq(quantize("q")).code, 0);
  fs::remove(path("q/report.json"));
  const RunOfCbq run = cbq({"inspect", path("q")});
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.out.find("loss"), std::string::npos) << run.out;
  EXPECT_EQ(row(run.out, "3").size(), 4u) << run.out;
}

// Other programs write a report.json, too, and a file may be damaged: the codes can be shown.
TEST_F(InspectTest, AReportOfAnotherKindIsNoError) {
  ASSERT_EQ(cbq(quantize("q", {"--reconstruct", "none"})).code, 0);
  for (const char* text : {"[]", "x", R"({"windows": [1]})", R"({"windows": [{"first": null}]})"}) {
    SCOPED_TRACE(text);
    folder_.write("q/report.json", text);
    const RunOfCbq run = cbq({"inspect", path("q")});
    EXPECT_EQ(run.code, 0) << run.err;
    expect_in(run.err, {"no losses are shown", "report.json"});
    EXPECT_FALSE(row(run.out, "3").empty()) << run.out;
  }
}

TEST_F(InspectTest, WritesAPageThatNeedsNoOtherFile) {
  ASSERT_EQ(cbq(quantize("q")).code, 0);
  const RunOfCbq run =
      cbq({"inspect", path("q"), "--original", model(), "--html", path("page.html")});
  ASSERT_EQ(run.code, 0) << run.err;
  const std::string page = bytes_of(path("page.html"));
  expect_in(page, {"<!DOCTYPE html>", "width=device-width", "<svg", "Bits per weight", "Codes used",
                   "Relative error", "Loss of the window", "model.layers.3.mlp.down_proj"});
  for (const char* part : {" src=", " href=\"http", "@import", "<script", "url("}) {
    EXPECT_EQ(page.find(part), std::string::npos) << part;
  }
  const std::vector<std::string> cells = row(run.out, "2");
  ASSERT_EQ(cells.size(), 11u) << run.out;
  for (const size_t cell : {1, 4, 5, 9, 10}) {
    EXPECT_NE(page.find("<td>" + cells[cell] + "</td>") == std::string::npos &&
                  page.find("<td class=\"first\">" + cells[cell] + "</td>") == std::string::npos,
              true)
        << cells[cell];
  }
  const RunOfCbq plain = cbq({"inspect", model(), "--html", path("plain.html")});
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(bytes_of(path("plain.html")).find("Relative error of"), std::string::npos);
  const RunOfCbq refused = cbq({"inspect", path("q"), "--html", path("none/page.html")});
  EXPECT_EQ(refused.code, 1);
  EXPECT_EQ(refused.out, "") << "found before the work";
}

// The layouts of other programs, through the program as a user runs it.
TEST_F(InspectTest, EveryCommandTakesFoldersOfOtherPrograms) {
  ASSERT_EQ(cbq(quantize("q")).code, 0);
  const std::vector<std::string> score = {"--tokens", test_tokens(), "--json", path("s.json")};
  const auto evaluated = [&](const std::string& folder) {
    const RunOfCbq run = cbq({"evaluate", path(folder), score[0], score[1], score[2], score[3]});
    EXPECT_EQ(run.code, 0) << run.err;
    return json_of(path("s.json"))["results"]["ids:test"];
  };
  const RunOfCbq exported =
      cbq({"export", path("q"), "--format", "compressed-tensors", "-o", path("c")});
  ASSERT_EQ(exported.code, 0) << exported.err;
  EXPECT_EQ(evaluated("c"), evaluated("q"));
  const RunOfCbq inspected = cbq({"inspect", path("c"), "--original", model()});
  ASSERT_EQ(inspected.code, 0) << inspected.err;
  EXPECT_EQ(row(inspected.out, "1"),
            row(cbq({"inspect", path("q"), "--original", model()}).out, "1"));
  for (const char* from : {"q", "c"}) {
    ASSERT_EQ(cbq({"export", path(from), "--format", "dense", "-o", path(concat("d", from))}).code,
              0);
  }
  EXPECT_EQ(bytes_of(path("dc/model.safetensors")), bytes_of(path("dq/model.safetensors")));
  EXPECT_FALSE(json_of(path("dc/config.json")).contains("quantization_config"));
  // Scored when it is finished, too, as every format that is read here.
  const RunOfCbq direct = cbq(quantize("x", {"--export", "compressed-tensors"}));
  ASSERT_EQ(direct.code, 0) << direct.err;
  const RunOfCbq later = cbq(
      quantize("x", {"--export", "compressed-tensors", "--resume", "--evaluate", test_tokens()}));
  ASSERT_EQ(later.code, 0) << later.err;
  expect_in(later.out, {"scores are added"});
  const RunOfCbq again =
      cbq({"quantize", path("c"), "-o", path("z"), "--calibration", calibration()});
  EXPECT_EQ(again.code, 1);
  expect_in(again.err, {"quantized already", "floating-point model"});
}

}  // namespace
}  // namespace cbq::test::test_cli_inspect
