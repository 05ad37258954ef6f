// run_ablation --figure as a user runs it: what it writes, what it does not compute twice, what it
// refuses.
#include <nlohmann/json.hpp>

#include "tests/strict_xml.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_figures_run {
namespace {

class RunFigures : public CliTest {
 protected:
  RunOfCbq run(const std::vector<std::string>& more) const {
    std::vector<std::string> all = {"--model",          model(),
                                    "--calibration",    calibration(),
                                    "--texts",          "a=" + test_tokens(),
                                    "--segments",       "6",
                                    "--segment-length", "12",
                                    "--epochs",         "1",
                                    "--figure-tokens",  "24",
                                    "--device",         "cpu",
                                    "--output",         path("out")};
    all.insert(all.end(), more.begin(), more.end());
    return run_program("run_ablation", all);
  }
  std::string header(const std::string& key) const {
    const std::string text = bytes_of(path("out/figures/" + key + ".csv"));
    return text.substr(0, text.find('\n'));
  }
};

TEST_F(RunFigures, AllOfThemOnceAndThenFromTheirParts) {
  const RunOfCbq first = run({"--figure", "all"});
  ASSERT_EQ(first.code, 0) << first.err;
  expect_in(first.out, {"Figure 1a", "Figure 1b", "Figure 1c", "Figure 3", "Figure depth",
                        "Figure bits", "figures.html", "off the diagonal", "ARTIFICIAL"});
  const std::map<std::string, std::string> headers = {
      {"1a", "quantity,inputs,block,row,column,value"},
      {"1b", "bits,step,row,column,value"},
      {"1c", "bits,first,second,value"},
      {"3", "model,kind,place,index,before,after,threshold"},
      {"depth", "method,block,value"},
      {"bits", "text,method,wbits,mean_nll,standard_error,perplexity,cells"}};
  const nlohmann::json report = json_of(path("out/figures/figures.json"));
  ASSERT_EQ(report.size(), headers.size());
  for (const nlohmann::json& figure : report) {
    const std::string key = figure.at("figure");
    EXPECT_EQ(header(key), headers.at(key));
    EXPECT_FALSE(figure.at("numbers").empty()) << key;
    const std::string svg = bytes_of(path("out/figures/" + key + ".svg"));
    EXPECT_NO_THROW(StrictXml{svg}) << key;
  }
  const std::string page = bytes_of(path("out/figures.html"));
  expect_in(page, {"id=\"figure-1a\"", "id=\"figure-bits\"", "<svg class=\"panel\""});
  EXPECT_FALSE(std::filesystem::exists(path("out/ablation.html"))) << "no table was asked for";

  const auto written = std::filesystem::last_write_time(path("out/figures/parts"));
  const RunOfCbq second = run({"--figure", "all"});
  ASSERT_EQ(second.code, 0) << second.err;
  EXPECT_EQ(second.out, first.out);
  EXPECT_EQ(second.err.find("figure 1b"), std::string::npos) << "computed again: " << second.err;
  EXPECT_EQ(std::filesystem::last_write_time(path("out/figures/parts")), written);

  ASSERT_EQ(run({"--figure", "1c"}).code, 0);
  EXPECT_EQ(json_of(path("out/figures/figures.json")).size(), headers.size())
      << "figures of the earlier command are gone";
}

TEST_F(RunFigures, APartIsComputedAgainForOtherParameters) {
  ASSERT_EQ(run({"--figure", "1a,1c"}).code, 0);
  const auto dry = [&](std::vector<std::string> more) {
    more.insert(more.end(), {"--dry-run"});
    return run(more).out;
  };
  const auto finished = [](const std::string& text) {
    size_t count = 0;
    for (size_t at = text.find("finished"); at != std::string::npos;
         at = text.find("finished", at + 1)) {
      ++count;
    }
    return count;
  };
  EXPECT_EQ(finished(dry({"--figure", "1a"})), 5u);
  EXPECT_EQ(finished(dry({"--figure", "1c"})), 2u);
  EXPECT_EQ(finished(dry({"--figure", "1c", "--figure-tokens", "48"})), 0u);
  EXPECT_EQ(finished(dry({"--figure", "1c", "--outliers", "1x8"})), 0u);
  EXPECT_EQ(finished(dry({"--figure", "1c", "--granularity", "per-tensor"})), 0u);
  EXPECT_EQ(finished(dry({"--figure", "1a", "--figure-layer", "model.layers.1.self_attn.k_proj"})),
            0u);
}

TEST_F(RunFigures, BitsSharesItsCellsWithATable) {
  const RunOfCbq figure = run({"--figure", "bits", "--figure-methods", "nearest,gptq"});
  ASSERT_EQ(figure.code, 0) << figure.err;
  const RunOfCbq table = run({"--axis", "method=nearest,gptq", "--bits", "W2A16", "--figure",
                              "bits", "--figure-methods", "nearest,gptq"});
  ASSERT_EQ(table.code, 0) << table.err;
  // Only nearest rounding on the grid of --method, for orientation, is new.
  expect_in(table.err, {"4 cells, 3 of them finished earlier"});
  expect_in(bytes_of(path("out/ablation.html")), {"id=\"figure-bits\"", "table-axis-method"});
}

TEST_F(RunFigures, DryRunSaysWhatIsToBeDoneAndWritesNothing) {
  const RunOfCbq dry = run({"--figure", "1b,depth", "--dry-run"});
  ASSERT_EQ(dry.code, 0) << dry.err;
  expect_in(dry.out, {"figure 1b", "Hessian over block scales at 2 bits", "streams of method cbq",
                      "figure depth: about"});
  EXPECT_FALSE(std::filesystem::exists(path("out")));
}

TEST_F(RunFigures, MistakesAreNamedBeforeAnythingIsComputed) {
  const RunOfCbq unknown = run({"--figure", "1a,7"});
  EXPECT_EQ(unknown.code, 1);
  expect_in(unknown.err, {"unknown figure '7'", "known: 1a, 1b, 1c, 3, bits, depth"});
  const RunOfCbq layer = run({"--figure", "1a", "--figure-layer", "model.layers.9.up"});
  EXPECT_EQ(layer.code, 1);
  expect_in(layer.err, {"--figure-layer model.layers.9.up", "mlp.down_proj", "model.layers.3"});
  const RunOfCbq method = run({"--figure", "1a,depth", "--figure-methods", "nothing"});
  EXPECT_EQ(method.code, 1);
  expect_in(method.err, {"nothing"});
  EXPECT_EQ(run({"--figure", "1b", "--figure-tokens", "0"}).code, 2);
  save_model(*tiny_model(tiny_config(1)), path("one"), Dtype::f32);
  for (const char* key : {"1b", "1c"}) {
    const RunOfCbq one = run({"--figure", std::string("3,") + key, "--model", path("one")});
    EXPECT_EQ(one.code, 1) << one.err;
    expect_in(one.err, {"at least two blocks", "has 1"});
  }
  EXPECT_FALSE(std::filesystem::exists(path("out/figures")));
}

TEST_F(RunFigures, ADamagedPartIsNamedAndComputedAgain) {
  ASSERT_EQ(run({"--figure", "1c"}).code, 0);
  std::filesystem::path part;
  for (const auto& entry : std::filesystem::directory_iterator(path("out/figures/parts"))) {
    part = entry.path();
  }
  std::string text = bytes_of(part);
  text[text.size() / 2] = text[text.size() / 2] == '7' ? '8' : '7';
  std::ofstream(part, std::ios::binary) << text;
  const RunOfCbq again = run({"--figure", "1c"});
  ASSERT_EQ(again.code, 0) << again.err;
  expect_in(again.err, {"not used, computed anew", part.filename().string().c_str()});
}

}  // namespace
}  // namespace cbq::test::test_figures_run
