// The programs on a GPU, and the same on the CPU: quantize, evaluate, train, sample, run_ablation.
// Elsewhere programs that tests run see no GPU (test_cli_support.h).
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "tensor/runtime/device.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_device_programs {
namespace {

namespace fs = std::filesystem;

class DevicePrograms : public CliTest, public testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    if (GetParam() == std::string("cuda") && cuda_device_count() == 0) {
      GTEST_SKIP() << "no CUDA device";
    }
    CliTest::SetUp();
  }
  /// A program's arguments, and the device.
  RunOfCbq run(std::vector<std::string> arguments, const char* streams = "auto",
               const std::function<void(pid_t)>& meanwhile = {}) const {
    arguments.insert(arguments.end(), {"--device", GetParam()});
    const ProgramsSeeDevices see;
    ::setenv("CBQ_STREAMS", streams, 1);
    const RunOfCbq result = cbq(arguments, meanwhile);
    ::unsetenv("CBQ_STREAMS");
    return result;
  }
  nlohmann::json scores(const std::string& folder, std::vector<std::string> more = {}) const {
    std::vector<std::string> all = {"evaluate",    path(folder), "--tokens",
                                    test_tokens(), "--json",     path("scores.json")};
    all.insert(all.end(), more.begin(), more.end());
    const RunOfCbq evaluated = run(all);
    EXPECT_EQ(evaluated.code, 0) << evaluated.err;
    return evaluated.code == 0 ? json_of(path("scores.json")) : nlohmann::json();
  }
};

INSTANTIATE_TEST_SUITE_P(Cuda, DevicePrograms, testing::Values("cpu", "cuda"),
                         [](const auto& p) { return std::string(p.param); });

TEST_P(DevicePrograms, ACheckpointInF16IsQuantized) {
  save_model(*tiny_model(tiny_config(4)), folder_ / "model", Dtype::f16);
  const RunOfCbq quantized = run(quantize("q", {"--evaluate", test_tokens()}));
  ASSERT_EQ(quantized.code, 0) << quantized.err;
  const bool on_cpu = GetParam() == std::string("cpu");
  EXPECT_EQ(json_of(path("q/recipe.json"))["dtype"], on_cpu ? "f32" : "bf16");
  EXPECT_EQ(quantized.err.find("computing in bf16") == std::string::npos, on_cpu) << quantized.err;
}

TEST_P(DevicePrograms, QuantizedFoldersScoreTheSameHoweverTheyAreMadeAndRead) {
  const std::vector<std::string> more = {"--abits",     "8",          "--preprocess",
                                         "smoothquant", "--evaluate", test_tokens()};
  const auto with = [&](std::vector<std::string> extra) {
    extra.insert(extra.end(), more.begin(), more.end());
    return extra;
  };
  const RunOfCbq whole = run(quantize("whole", with({"--load", "whole"})));
  ASSERT_EQ(whole.code, 0) << whole.err;
  EXPECT_EQ(whole.err.find("launch by launch"), std::string::npos) << whole.err;
  const RunOfCbq blockwise = run(quantize("blockwise", with({"--load", "blockwise"})));
  ASSERT_EQ(blockwise.code, 0) << blockwise.err;
  const RunOfCbq staged = run(quantize("staged", with({"--load", "whole"})), "host");
  ASSERT_EQ(staged.code, 0) << staged.err;
  const nlohmann::json report = json_of(path("whole/report.json"));
  const nlohmann::json expected = report["quantized"]["results"];
  for (const char* folder : {"blockwise", "staged"}) {
    EXPECT_EQ(json_of(path(std::string(folder) + "/report.json"))["quantized"]["results"], expected)
        << folder;
  }
  EXPECT_EQ(bytes_of(path("staged/model.safetensors")), bytes_of(path("whole/model.safetensors")));
  for (const char* load : {"whole", "blockwise"}) {
    const nlohmann::json again = scores("whole", {"--load", load});
    EXPECT_EQ(again["results"], expected) << load;
    EXPECT_TRUE(again["config"]["device"].get<std::string>().starts_with(GetParam()));
  }
}

TEST_P(DevicePrograms, AnInterruptedRunGoesOnAndEndsInTheSameBytes) {
  const std::vector<std::string> slow = {"--window", "1", "--overlap", "0", "--epochs", "150"};
  const fs::path state = folder_ / "q.resume/state.safetensors";
  const RunOfCbq stopped = run(quantize("q", slow), "host", [&](pid_t child) {
    for (int i = 0; i < 20000 && !fs::exists(state); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ::kill(child, SIGINT);
  });
  ASSERT_EQ(stopped.code, 130) << stopped.err;
  std::vector<std::string> resumed = quantize("q", slow);
  resumed.push_back("--resume");
  const RunOfCbq second = run(resumed, "host");
  ASSERT_EQ(second.code, 0) << second.err;
  expect_in(second.err, {"resumed after window"});
  ASSERT_EQ(run(quantize("straight", slow), "host").code, 0);
  EXPECT_EQ(bytes_of(path("q/model.safetensors")), bytes_of(path("straight/model.safetensors")));
}

TEST_P(DevicePrograms, EveryRoundingSchemeAndPreparationRuns) {
  for (const char* scheme : {"nearest", "adaround", "lora_rounding", "signround", "direct"}) {
    const RunOfCbq done = run(quantize(scheme, {"--rounding", scheme, "--dtype", "bf16"}));
    EXPECT_EQ(done.code, 0) << scheme << done.err;
  }
  for (const char* stage : {"cfp_weight_activation", "omse", "percentile", "outlier_suppression",
                            "outlier_suppression_plus"}) {
    const RunOfCbq done =
        run(quantize(stage, {"--preprocess", stage, "--abits", "4", "--reconstruct", "none"}));
    EXPECT_EQ(done.code, 0) << stage << done.err;
  }
}

TEST_P(DevicePrograms, AModelSamplesItsOwnCalibration) {
  const RunOfCbq done = run({"quantize", model(), "--output", path("q"), "--epochs", "1",
                             "--segments", "4", "--segment-length", "8"});
  ASSERT_EQ(done.code, 0) << done.err;
  EXPECT_EQ(
      run({"sample", model(), "-o", path("s.h5"), "--segments", "4", "--segment-length", "8"}).code,
      0);
}

TEST_P(DevicePrograms, TrainingGoesOnFromItsCheckpoint) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += "line " + std::to_string(i) + " of some small text\n";
  folder_.write("a.txt", text);
  const auto train = [&](const std::string& output, const std::string& steps) {
    return run({"train",
                "--text",
                path("a.txt"),
                "--tokenizer",
                std::string(CBQ_SOURCE_DIR) + "/models/embedded",
                "--output",
                path(output),
                "--layers",
                "1",
                "--hidden",
                "16",
                "--intermediate",
                "16",
                "--heads",
                "2",
                "--kv-heads",
                "1",
                "--context",
                "16",
                "--tokens",
                "16",
                "--batch",
                "2",
                "--warmup",
                "2",
                "--steps",
                steps,
                "--save-every",
                "4",
                "--evaluate",
                path("a.txt")});
  };
  const RunOfCbq first = train("m", "12");
  ASSERT_EQ(first.code, 0) << first.err;
  expect_in(first.out, {"loss of the last steps", "perplexity"});
  ASSERT_EQ(train("again", "12").code, 0);
  EXPECT_EQ(bytes_of(path("m/model.safetensors")), bytes_of(path("again/model.safetensors")));
}

TEST_P(DevicePrograms, ATableIsComputed) {
  const ProgramsSeeDevices see;
  const RunOfCbq done = run_program(
      "run_ablation", {"--model", model(), "--calibration", calibration(), "--texts",
                       "a=" + test_tokens(), "--table", "12", "--segments", "6", "--epochs", "1",
                       "--device", GetParam(), "--output", path("out"), "--segment-length", "12"});
  ASSERT_EQ(done.code, 0) << done.err;
  expect_in(done.out, {"Rank", "written: "});
}

}  // namespace
}  // namespace cbq::test::test_device_programs
