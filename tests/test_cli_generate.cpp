// cbq generate as a user runs it, on the model that comes with the project.
#include <gtest/gtest.h>

#include "tests/test_cli_support.h"

namespace cbq::test::test_cli_generate {
namespace {

const std::string embedded = std::string(CBQ_SOURCE_DIR) + "/models/embedded";

class CliGenerate : public CliTest {
 protected:
  std::vector<std::string> generate(const std::vector<std::string>& more) const {
    std::vector<std::string> all = {"generate", embedded, "--device", "cpu", "--tokens", "12"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

TEST_F(CliGenerate, ShowsTheTextAndWritesIt) {
  const RunOfCbq run =
      cbq(generate({"--prompt", "A kind of", "--prompt", "To make", "--json", path("out.json")}));
  ASSERT_EQ(run.code, 0) << run.err;
  const auto json = json_of(path("out.json"));
  ASSERT_EQ(json.size(), 2u);
  std::string shown;
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(json[i]["ids"].size(), 12u);
    EXPECT_EQ(json[i]["stopped"], "--tokens reached");
    shown += (i == 0 ? "A kind of" : "To make") + json[i]["text"].get<std::string>() + "\n";
  }
  EXPECT_EQ(run.out, shown);
  EXPECT_EQ(json[0]["text"].get<std::string>().front(), ' ') << "the space between the words stays";
  EXPECT_EQ(cbq(generate({"--prompt", "A kind of", "--prompt", "To make"})).out, run.out);
}

TEST_F(CliGenerate, ComparesTwoModels) {
  const RunOfCbq run =
      cbq(generate({"--prompt", "A kind of", "--compare", embedded, "--json", path("out.json")}));
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.out, {"models/embedded", "the first 12 tokens are those of", "mean NLL"});
  const auto compared = json_of(path("out.json"))[1]["compared"];
  EXPECT_EQ(compared["same_tokens"], 12);
  EXPECT_EQ(compared["likeliest_too"], 12);
  EXPECT_GT(compared["mean_nll"].get<double>(), 0.0);
}

TEST_F(CliGenerate, MistakesAreNamed) {
  folder_.write("long.txt", [] {
    std::string text;
    for (int i = 0; i < 400; ++i) text += "word ";
    return text;
  }());
  const RunOfCbq too_long = cbq(generate({"--prompt-file", path("long.txt")}));
  EXPECT_EQ(too_long.code, 1);
  expect_in(too_long.err, {"context of 256", "shorter"});
  const RunOfCbq cold = cbq(generate({"--temperature", "-1"}));
  EXPECT_EQ(cold.code, 1);
  expect_in(cold.err, {"temperature -1", "0 or more"});
  EXPECT_EQ(cbq(generate({"--tokens", "0"})).code, 2);
}

}  // namespace
}  // namespace cbq::test::test_cli_generate
