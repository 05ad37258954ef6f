// The benchmarks run and their figures are consistent; how large they are is no test's business.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "kernels/ops.h"
#include "tensor/runtime/device_profile.h"
#include "tests/test_data.h"

namespace cbq::test_bench {
namespace {

/// What `bench <arguments> --json FILE` writes.
nlohmann::json bench(const std::string& arguments) {
  const TemporaryFolder folder;
  const std::string file = (folder / "figures.json").string();
  const std::string command = (build_folder() / "bin/bench ").string() + arguments +
                              " --shape tiny --device cpu --threads 1 --seconds 0.02 --json " +
                              file + " > /dev/null";
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  std::ifstream in(file);
  return nlohmann::json::parse(in);
}

TEST(Bench, PartsOfAStepSumToTheWhole) {
  const nlohmann::json r = bench("step --wbits 4 --abits 4");
  const double whole = r["profiled_ms"];
  double ops = 0.0;
  std::map<std::string, double> sums;
  for (const auto& [op, entry] : r["ops"].items()) {
    EXPECT_NE(entry["part"], "other") << op << " belongs to no part: see part_of()";
    ops += entry["ms"].get<double>();
    sums[entry["part"]] += entry["ms"].get<double>();
  }
  EXPECT_EQ(r["parts_ms"].size(), 9u);
  sums["other"] = whole - ops;  // what passes between the ops
  for (const auto& [part, ms] : r["parts_ms"].items()) {
    EXPECT_GT(ms.get<double>(), 0.0) << part;
    EXPECT_NEAR(sums[part], ms, 1e-6 * whole) << part;
  }
  EXPECT_LT(ops, whole);  // or an op was counted twice
  EXPECT_GT(r["peak_bytes"], 0);
  EXPECT_GT(r["floor"]["ms"], 0.0);
}

TEST(Bench, OnlyWhatIsQuantizedCosts) {
  const nlohmann::json r = bench("step --wbits 2 --rounding rank");
  EXPECT_EQ(r["parts_ms"]["activation_quant"], 0.0);
  EXPECT_GT(r["parts_ms"]["weight_quant"], 0.0);
}

TEST(Bench, StepsLowerTheLoss) {
  const nlohmann::json losses = bench("step --wbits 2 --losses 40")["losses"];
  ASSERT_EQ(losses.size(), 40u);
  EXPECT_LT(losses[39], losses[1]);  // 39 and 1: the same segments
}

TEST(Bench, RunReportsWindowsAndHours) {
  const nlohmann::json r = bench("run --segments 10 --epochs 2 --test-tokens 0")[0];
  EXPECT_EQ(r["windows"], 3);            // 4 blocks, 2 per window, 1 shared
  EXPECT_EQ(r["steps_per_window"], 10);  // 10 segments in twos, twice
  const double seconds = r["window_seconds"];
  EXPECT_GT(seconds, 10 * 1e-3 * r["step_ms"].get<double>());
  EXPECT_EQ(r["perplexity_seconds"], 0.0);
  EXPECT_NEAR(r["hours"].get<double>(), 3 * seconds / 3600, 1e-9);
}

TEST(Bench, ARunEndsWithItsPerplexity) {
  const nlohmann::json r = bench("run --test-tokens 1200")[0];
  const double perplexity = r["perplexity_seconds"],
               windows = 3 * r["window_seconds"].get<double>();
  EXPECT_GT(perplexity, 0.0);
  EXPECT_NEAR(r["hours"].get<double>(), (windows + perplexity) / 3600, 1e-9);
}

TEST(Bench, OpsWritesWhatItPrints) {
  const TemporaryFolder folder;
  const std::string file = (folder / "figures.json").string(), out = (folder / "out").string();
  const std::string command = (build_folder() / "bin").string() +
                              "/bench ops --filter kernels::mul_row --seconds 0.01 --json " + file +
                              " > " + out;
  ASSERT_EQ(std::system(command.c_str()), 0);
  std::ifstream in(file), printed(out);
  const nlohmann::json r = nlohmann::json::parse(in);
  ASSERT_EQ(r["lines"].size(), 1u);
  const nlohmann::json& line = r["lines"][0];
  EXPECT_EQ(line["unit"], "GB/s");
  // [1024, 4096] read and written, [4096] read.
  const double bytes = 4.0 * (2.0 * 1024 * 4096 + 4096);
  EXPECT_NEAR(line["rate"].get<double>() * line["ms"].get<double>(), 1e-6 * bytes, 1e-9 * bytes);
  EXPECT_NEAR(line["share"], line["rate"].get<double>() / r["copy_gbs"].get<double>(), 1e-9);
  const std::string text((std::istreambuf_iterator<char>(printed)), {});
  EXPECT_NE(text.find(line["op"].get<std::string>()), std::string::npos) << text;
}

TEST(DeviceProfile, CountsOutermostOpsOnlyWhileItLives) {
  const Tensor x = Tensor::zeros({100}, Dtype::f32);
  DeviceProfile profile;
  kernels::add(x, x);
  {
    const OpTimer outer("outer", Device::cpu());
    kernels::add(x, x);
    kernels::mul(x, x);
  }
  const auto first = profile.take();
  ASSERT_EQ(first.size(), 2u);
  EXPECT_EQ(first.at("add").calls, 1);
  EXPECT_EQ(first.at("outer").calls, 1);
  EXPECT_TRUE(profile.take().empty());
  EXPECT_THROW(DeviceProfile second, std::invalid_argument);
}

TEST(DeviceProfile, IsOffByDefault) { EXPECT_EQ(DeviceProfile::active(), nullptr); }

}  // namespace
}  // namespace cbq::test_bench
