// Settings on the command line: what is not read, what is no number, what is refused before the
// model is scored, and what the names stand for.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cbq/exporters/exporter.h"
#include "quant/rounding.h"
#include "quant/solvers/solver.h"
#include "quant/transforms/global/global_transform.h"
#include "quant/transforms/local/preprocessor.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_cli_settings {
namespace {

using CliSettings = CliTest;

TEST_F(CliSettings, OptionsThatTheRunDoesNotReadAreNamed) {
  const RunOfCbq nearest = cbq(quantize("a", {"--reconstruct", "none", "--rate-polish", "0.5",
                                              "--rotation-seed", "3", "--seed", "4"}));
  ASSERT_EQ(nearest.code, 0) << nearest.err;
  expect_in(nearest.err, {"does not read --rotation-seed, --epochs, --rate-polish: it has W2A16, "
                          "reconstruct none"});
  const RunOfCbq polished =
      cbq(quantize("b", {"--reconstruct", "none", "--polish-epochs", "1", "--batch", "2"}));
  ASSERT_EQ(polished.code, 0) << polished.err;
  expect_in(polished.err, {"does not read --epochs: it has"});
  const RunOfCbq windows =
      cbq(quantize("c", {"--window", "3", "--schedule", "0-3", "--seed", "4"}));
  ASSERT_EQ(windows.code, 0) << windows.err;
  EXPECT_EQ(windows.err.find("does not read"), std::string::npos) << windows.err;
}

TEST_F(CliSettings, WordsAreNoNumbers) {
  for (const char* option : {"--threads", "--segments"}) {
    const RunOfCbq run = cbq(quantize("q", {option, "abc"}));
    EXPECT_EQ(run.code, 2);
    expect_in(run.err, {option, "expected a number from 0, got abc"});
  }
  const RunOfCbq run = cbq({"evaluate", model(), "--pass-tokens", "0"});
  EXPECT_EQ(run.code, 2);
  expect_in(run.err, {"expected a number above 0, got 0"});
}

TEST_F(CliSettings, CheckDeviceSaysWhatThereIsToCompare) {
  const RunOfCbq run = cbq({"check-device", "--device", "cpu"});
  EXPECT_EQ(run.code, 0) << run.err;
  expect_in(run.out, {"there is nothing to compare", "NVIDIA GPUs"});
  if (cuda_device_count() > 0) return;
  const RunOfCbq missing = cbq({"check-device", "--device", "cuda"});
  EXPECT_EQ(missing.code, 1);
  expect_in(missing.err, {"CUDA"});
}

TEST_F(CliSettings, WhatCannotRunIsRefusedBeforeTheModelIsScored) {
  const RunOfCbq groups = cbq(quantize("q", {"--group-size", "5", "--evaluate", test_tokens()}));
  EXPECT_EQ(groups.code, 1);
  expect_in(groups.err, {"group size 5 does not divide", "model.layers.0."});
  EXPECT_EQ(groups.out, "");
  std::filesystem::create_directories(folder_ / "q.resume");
  folder_.write("q.resume/state.safetensors", "a state");
  const RunOfCbq interrupted = cbq(quantize("q", {"--evaluate", test_tokens()}));
  EXPECT_EQ(interrupted.code, 1);
  expect_in(interrupted.err, {"--resume goes on with it"});
  EXPECT_EQ(interrupted.out, "");
  EXPECT_TRUE(std::filesystem::exists(folder_ / "q.resume/state.safetensors"));
}

TEST_F(CliSettings, AMethodFileIsBlamedForBitsOnlyWhereTheyMatter) {
  const auto refusal = [&](const std::string& text) {
    folder_.write("mine.json", text);
    return cbq(quantize("q", {"--method", path("mine.json")})).err;
  };
  const std::string always =
      refusal(R"({"title": "t", "source": "s", "settings": {"rounding": "x"}})");
  expect_in(always, {"'x'"});
  EXPECT_EQ(always.find("at W"), std::string::npos) << always;
  expect_in(refusal(R"({"title": "t", "source": "s", "settings": {},
                        "by_bits": [{"wbits": "<=3", "settings": {"rounding": "x"}}]})"),
            {"at W1A", "'x'"});
}

template <class Part>
void expect_all(const std::string& text, const Registry<Part>& parts) {
  ASSERT_FALSE(parts.names().empty());
  for (const std::string& name : parts.names()) {
    expect_in(text, {("  " + name + "\n").c_str(), parts.make(name)->help().c_str()});
  }
}

TEST(CbqParts, ListsEveryPartWithItsSentence) {
  const RunOfCbq run = cbq({"parts"});
  ASSERT_EQ(run.code, 0) << run.err;
  for (const char* name : {"log", "relative", "clip"}) expect_in(run.out, {name});
  // The tests register a solver, a transform and formats of their own, which `cbq` does not have.
  for (const std::string name : {"signround", "adaround", "lora_rounding"}) {
    expect_in(run.out,
              {("  " + name + "\n").c_str(), rounding_schemes().make(name)->help().c_str()});
  }
  expect_all(run.out, preprocessors());
}

TEST(CbqParts, TheHelpOfQuantizeNamesThem) {
  const std::string help = cbq({"quantize", "--help"}).out;
  for (const std::string& name : preprocessors().names()) expect_in(help, {name.c_str()});
  expect_in(help, {"rotation", "gptq", "weighted"});
}

}  // namespace
}  // namespace cbq::test::test_cli_settings
