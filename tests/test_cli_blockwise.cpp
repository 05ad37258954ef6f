// --load blockwise as a user runs it: the same folders and scores, in less memory than the model.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <nlohmann/json.hpp>

#include "nn/formats/safetensors.h"
#include "nn/formats/sharded_writer.h"
#include "nn/text/tokens.h"
#include "tests/folder_tensors.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_cli_blockwise {
namespace {

namespace fs = std::filesystem;

TEST_F(CliTest, BlockwiseEndsInTheSameTensorsAndScores) {
  const std::vector<std::string> more = {"--abits",     "8",          "--preprocess",
                                         "smoothquant", "--evaluate", test_tokens()};
  const auto with = [&](std::vector<std::string> extra) {
    extra.insert(extra.end(), more.begin(), more.end());
    return extra;
  };
  const RunOfCbq whole = cbq(quantize("whole", with({"--load", "whole"})));
  ASSERT_EQ(whole.code, 0) << whole.err;
  const RunOfCbq run = cbq(quantize("q", with({"--load", "blockwise"})));
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.err, {"blocks are loaded when they are needed", "smoothquant: scaled"});
  expect_in(run.out, {"peak host memory", "MiB"});
  EXPECT_EQ(tensors_of(path("q")), tensors_of(path("whole")));
  EXPECT_EQ(bytes_of(path("q/config.json")), bytes_of(path("whole/config.json")));
  const auto report = json_of(path("q/report.json")), other = json_of(path("whole/report.json"));
  for (const char* key : {"original", "quantized", "notes"}) EXPECT_EQ(report[key], other[key]);
  auto recipe = json_of(path("q/recipe.json")), whole_recipe = json_of(path("whole/recipe.json"));
  for (const char* key : {"files", "checksum"}) {  // of one file, and of a file per block
    recipe.erase(key);
    whole_recipe.erase(key);
  }
  EXPECT_EQ(recipe, whole_recipe);
  EXPECT_GT(report["peak_host_bytes"], 1 << 20);
  for (const char* folder : {"q", "whole"}) {
    for (const char* load : {"whole", "blockwise"}) {
      const RunOfCbq again = cbq({"evaluate", path(folder), "--tokens", test_tokens(), "--load",
                                  load, "--json", path("result.json")});
      ASSERT_EQ(again.code, 0) << again.err;
      expect_in(again.err, {"peak host memory"});
      EXPECT_EQ(json_of(path("result.json"))["results"], report["quantized"]["results"])
          << folder << load;
    }
  }
  // A shard per block and one for the rest; nothing else is left.
  EXPECT_TRUE(fs::exists(path("q/model-00005-of-00005.safetensors")));
  EXPECT_FALSE(fs::exists(path("q/model.safetensors")));
  EXPECT_FALSE(fs::exists(path("q.partial")) || fs::exists(path("q.resume")));
  EXPECT_EQ(cbq({"inspect", path("q")}).code, 0);
}

TEST_F(CliTest, BlockwiseDenseExportIsThatOfTheWholeModel) {
  for (const char* load : {"whole", "blockwise"}) {
    const RunOfCbq run = cbq(quantize(load, {"--load", load, "--export", "dense", "--export-dtype",
                                             "bf16", "--evaluate", test_tokens()}));
    ASSERT_EQ(run.code, 0) << run.err;
  }
  EXPECT_EQ(tensors_of(path("blockwise")), tensors_of(path("whole")));
  EXPECT_EQ(json_of(path("blockwise/report.json"))["quantized"],
            json_of(path("whole/report.json"))["quantized"]);
  EXPECT_FALSE(fs::exists(path("blockwise/packed")));
}

TEST_F(CliTest, UnknownWaysOfLoadingAreRefused) {
  for (const std::vector<std::string>& arguments :
       {quantize("q", {"--load", "halfway"}),
        {"evaluate", model(), "--tokens", test_tokens(), "--load", "halfway"},
        {"sample", model(), "-o", path("s.h5"), "--load", "halfway"}}) {
    const std::vector<std::string> before = listing();
    const RunOfCbq run = cbq(arguments);
    EXPECT_EQ(run.code, 1) << run.out;
    expect_in(run.err, {"--load", "halfway", "auto, whole, blockwise"});
    EXPECT_EQ(listing(), before);
  }
}

TEST_F(CliTest, BlockwiseSamplesTheSameSegments) {
  const auto sample = [&](const char* load) {
    return cbq({"sample", model(), "-o", path(std::string(load) + ".h5"), "--segments", "5",
                "--segment-length", "8", "--device", "cpu", "--load", load});
  };
  const RunOfCbq whole = sample("whole"), blockwise = sample("blockwise");
  ASSERT_EQ(whole.code, 0) << whole.err;
  ASSERT_EQ(blockwise.code, 0) << blockwise.err;
  EXPECT_EQ(whole.err.find("blocks are read"), std::string::npos) << whole.err;
  expect_in(blockwise.err, {"the blocks are read 7 times", "--load whole"});
  EXPECT_EQ(load_tokens(path("blockwise.h5")).segments, load_tokens(path("whole.h5")).segments);
  for (const char* load : {"whole", "blockwise"}) {
    const RunOfCbq run =
        cbq(quantize(std::string("q_") + load, {"--load", load, "--calibration", "model",
                                                "--segments", "4", "--segment-length", "8"}));
    ASSERT_EQ(run.code, 0) << run.err;
  }
  EXPECT_EQ(tensors_of(path("q_blockwise")), tensors_of(path("q_whole")));
}

TEST_F(CliTest, AMissingShardIsSaidBeforeAnyWork) {
  ASSERT_EQ(cbq(quantize("q", {"--load", "blockwise", "--reconstruct", "none"})).code, 0);
  fs::remove(path("q/model-00003-of-00005.safetensors"));
  for (const char* load : {"whole", "blockwise"}) {
    const RunOfCbq run = cbq({"evaluate", path("q"), "--tokens", test_tokens(), "--load", load});
    EXPECT_EQ(run.code, 1);
    expect_in(run.err, {"model-00003-of-00005.safetensors", "not there", "fetch the missing file"});
  }
}

// ---- a model larger than the memory
// --------------------------------------------------------------

#if defined(__SANITIZE_ADDRESS__)
constexpr bool sanitized = true;  // the sanitizer's own memory counts, too
#else
constexpr bool sanitized = false;
#endif

class LargeModel : public ::testing::Test {
 protected:
  static constexpr int64_t blocks = 12;
  static constexpr int64_t mib = int64_t{1} << 20;

  void SetUp() override {
    if (sanitized) GTEST_SKIP() << "limits of memory mean nothing under a sanitizer";
    ModelConfig config = tiny_config(1);
    config.hidden_size = 1024;
    config.intermediate_size = 2816;
    config.num_heads = 8;
    config.num_kv_heads = 8;
    config.head_dim = 128;
    const auto model = make_model(config, Dtype::bf16, Device::cpu());
    initialize(*model, 1);
    write_shards(*model);
    config.num_layers = blocks;
    config.dtype = "bf16";
    folder_.write("m/config.json", config.to_json().dump());
    folder_.write("ids.json", nlohmann::json({{"calibration", tiny_segments(2, 16)},
                                              {"test", tiny_segments(4, 15, 8)}})
                                  .dump());
  }

  /// The model's only block under the names of all blocks, a file each.
  void write_shards(Transformer& model) const {
    ShardedWriter writer(folder_ / "m", blocks + 1);
    for (int64_t b = 0; b < blocks; ++b) {
      std::map<std::string, Tensor> tensors;
      model.block(0).visit(model.block_prefix(b),
                           [&](const std::string& path, Var& p) { tensors[path] = p.value(); });
      writer.add(tensors);
    }
    std::map<std::string, Tensor> rest;
    const ParameterVisitor keep = [&](const std::string& path, Var& p) { rest[path] = p.value(); };
    model.visit_embedding("", keep);
    model.visit_head("", keep);
    writer.add(rest);
    writer.finish();
  }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  /// The program with at most `bytes` of memory of its own; files that it maps do not count.
  RunOfCbq limited(const std::vector<std::string>& arguments) const {
    return cbq(arguments, [](pid_t child) {
      const rlimit limit{limit_bytes, limit_bytes};
      EXPECT_EQ(::prlimit(child, RLIMIT_DATA, &limit, nullptr), 0);
    });
  }
  std::vector<std::string> quantize(const std::string& output, const std::string& load,
                                    const std::vector<std::string>& more) const {
    std::vector<std::string> all = {
        "quantize", path("m"), "--output",      path(output),
        "--load",   load,      "--calibration", path("ids.json") + ":calibration",
        "--device", "cpu"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::vector<std::string> evaluate(const std::string& folder, const std::string& load) const {
    return {"evaluate", path(folder), "--tokens", path("ids.json") + ":test", "--device", "cpu",
            "--load",   load,         "--json",   path(load + ".json")};
  }

#ifdef CBQ_CUDA
  static constexpr rlim_t library_bytes = 192 * mib;  // written pages of cuBLASLt, used or not
#else
  static constexpr rlim_t library_bytes = 0;
#endif
  // The parameters alone take 588 MiB in f32.
  static constexpr rlim_t limit_bytes = 520 * mib + library_bytes;
  TemporaryFolder folder_;
};

TEST_F(LargeModel, RunsInLessMemoryThanItTakes) {
  const std::vector<std::string> nearest = {"--reconstruct", "none",    "--scale-search",
                                            "min_max",       "--wbits", "4"};
  const RunOfCbq whole = limited(quantize("no", "whole", nearest));
  EXPECT_EQ(whole.code, 1) << whole.out;
  expect_in(whole.err, {"out of memory on cpu", "--load blockwise"});
  EXPECT_FALSE(fs::exists(path("no")));
  // auto sees by itself that the model is too large.
  const RunOfCbq run = limited(quantize("q", "auto", nearest));
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.err, {"blocks are loaded when they are needed"});
  const RunOfCbq scored = limited(evaluate("q", "blockwise"));
  ASSERT_EQ(scored.code, 0) << scored.err;
  EXPECT_EQ(limited(evaluate("q", "whole")).code, 1);
  const RunOfCbq inspected = limited({"inspect", path("q"), "--original", path("m")});
  ASSERT_EQ(inspected.code, 0) << inspected.err;
  const auto sample = [&](const char* load) {
    return limited({"sample", path("m"), "-o", path(concat(load, ".h5")), "--segments", "2",
                    "--segment-length", "3", "--device", "cpu", "--load", load});
  };
  const RunOfCbq sampled = sample("auto");
  ASSERT_EQ(sampled.code, 0) << sampled.err;
  expect_in(sampled.err, {"the blocks are read 2 times, 0.6 GiB"});
  EXPECT_EQ(sample("whole").code, 1);
  expect_in(inspected.out, {"model.layers.11.mlp.down_proj", "linear layers: 154140672 weights"});
  ASSERT_EQ(cbq(evaluate("q", "whole")).code, 0);  // with all the memory that there is
  EXPECT_EQ(json_of(path("blockwise.json"))["results"], json_of(path("whole.json"))["results"]);
}

/// Every step of training needs all blocks, so it can only say what it needs.
TEST_F(LargeModel, TrainingSaysWhatItNeeds) {
  folder_.write("text.txt", std::string(4000, 'a'));
  const RunOfCbq run =
      limited({"train",
               "--text",
               path("text.txt"),
               "--tokenizer",
               (fs::path(CBQ_SOURCE_DIR) / "tests/fixtures/tokenizers/bloom.json").string(),
               "-o",
               path("trained"),
               "--layers",
               "12",
               "--hidden",
               "1024",
               "--intermediate",
               "2816",
               "--heads",
               "8",
               "--kv-heads",
               "8",
               "--tokens",
               "8",
               "--context",
               "8",
               "--device",
               "cpu"});
  EXPECT_EQ(run.code, 1) << run.out;
  expect_in(run.err, {"out of memory on cpu", "16 bytes per parameter", "--layers"});
  expect_in(cbq({"train", "--help"}).out, {"Every step needs all blocks", "16 bytes"});
}

TEST_F(LargeModel, IsReconstructedInLessMemoryThanItTakes) {
  const RunOfCbq run = limited(quantize("q", "blockwise",
                                        {"--epochs", "1", "--batch", "2", "--wbits", "16",
                                         "--layer-bits", "o_proj=2", "--scale-search", "min_max"}));
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.err, {"method cbq_windows in place of cbq: the last stage takes about 4."});
  EXPECT_EQ(json_of(path("q/report.json"))["windows"].size(), blocks - 1u);
}

}  // namespace
}  // namespace cbq::test::test_cli_blockwise
