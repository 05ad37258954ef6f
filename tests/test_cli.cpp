// The program as a user runs it: what it prints, writes, leaves behind and resumes.
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "nn/formats/safetensors.h"
#include "nn/text/tokens.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_cli {
namespace {

namespace fs = std::filesystem;

TEST(Cli, UsageErrorsAreToldFromFailures) {
  EXPECT_EQ(cbq({}).code, 2);
  const RunOfCbq no_command = cbq({"nonsense"});
  EXPECT_EQ(no_command.code, 2);
  expect_in(no_command.err, {"nonsense", "--help"});
  const RunOfCbq unknown = cbq({"evaluate", "model", "--nonsense"});
  EXPECT_EQ(unknown.code, 2);
  expect_in(unknown.err, {"--nonsense"});
  const RunOfCbq help = cbq({"quantize", "--help"});
  EXPECT_EQ(help.code, 0);
  expect_in(help.out,
            {"--wbits", "--no-act-dynamic", "--resume", "overrides --recipe", "signround"});
  EXPECT_EQ(cbq({"--version"}).out.substr(0, 4), "cbq ");
  EXPECT_EQ(cbq({"evaluate", "/nonexistent", "--text", "x"}).code, 1);
}

TEST_F(CliTest, QuantizedPerplexityIsTheSameAfterReloading) {
  const RunOfCbq run = cbq(quantize("q", {"--abits", "4", "--evaluate", test_tokens()}));
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.out, {"original", "quantized", "ids:test", "given: test"});
  const RunOfCbq again =
      cbq({"evaluate", path("q"), "--tokens", test_tokens(), "--json", path("result.json")});
  ASSERT_EQ(again.code, 0) << again.err;
  const auto result = json_of(path("result.json"))["results"]["ids:test"];
  const auto report = json_of(path("q/report.json"));
  EXPECT_EQ(result, report["quantized"]["results"]["ids:test"]);
  EXPECT_NE(result, report["original"]["results"]["ids:test"]);
  EXPECT_EQ(result["tokens"], 8 * 13);
  for (const char* key : {"perplexity", "mean_nll", "protocol"}) EXPECT_TRUE(result.contains(key));
  // Also with another number of threads, and the printed line is that of the run.
  const std::string line = run.out.substr(run.out.find("quantized") + 10);
  EXPECT_EQ(again.out.substr(11, 60), line.substr(1, 60)) << run.out << again.out;
  EXPECT_EQ(report["windows"].size(), 4u);
  EXPECT_GT(report["peak_bytes"], 0);
}

TEST_F(CliTest, AQuantizedFolderHasEverythingAndNothingElseIsLeft) {
  const std::vector<std::string> before = listing();
  folder_.write("model/tokenizer.model", "stand-in");
  ASSERT_EQ(cbq(quantize("out/q")).code, 0);
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.model", "recipe.json",
                           "report.json", "log.txt", "README.md"}) {
    EXPECT_TRUE(fs::exists(folder_ / "out/q" / name)) << name;
  }
  EXPECT_EQ(listing().size(), before.size() + 1 + 9);  // the tokenizer; out, q and its seven files
  const auto recipe = json_of(path("out/q/recipe.json"));
  EXPECT_EQ(recipe["settings"]["wbits"], 2);
  EXPECT_EQ(recipe["calibration"]["segments"], 6);
  EXPECT_EQ(recipe["calibration"]["tokens"], 12);
  for (const char* key : {"model_hash", "settings_hash", "cbq_version"}) {
    EXPECT_TRUE(recipe.contains(key)) << key;
  }
}

TEST_F(CliTest, OptionsWinOverTheRecipeAndTheRecipeOverTheMethod) {
  folder_.write("r.json", R"({"epochs": 7, "rank": 3, "reconstruct": "none", "wbits": 3})");
  ASSERT_EQ(
      cbq(quantize("q", {"--recipe", path("r.json"), "--method", "cbq_iclr", "--grid", "fixed"}))
          .code,
      0);
  const auto settings = json_of(path("q/recipe.json"))["settings"];
  EXPECT_EQ(settings["epochs"], 1) << "option";
  EXPECT_EQ(settings["wbits"], 2) << "option";
  EXPECT_EQ(settings["grid"], "fixed") << "option";
  EXPECT_EQ(settings["rank"], 3) << "recipe";
  EXPECT_EQ(settings["rounding"], "lora_rounding") << "method";
  // The recipe of a run is itself a recipe.
  ASSERT_EQ(cbq({"quantize", model(), "--output", path("q2"), "--recipe", path("q/recipe.json"),
                 "--calibration", calibration()})
                .code,
            0);
  EXPECT_EQ(json_of(path("q2/recipe.json"))["settings_hash"],
            json_of(path("q/recipe.json"))["settings_hash"]);
  EXPECT_EQ(bytes_of(path("q2/model.safetensors")), bytes_of(path("q/model.safetensors")));
}

TEST_F(CliTest, SamplingSaysWhatItCosts) {
  const RunOfCbq run =
      cbq({"sample", model(), "-o", path("s.h5"), "--segments", "3", "--segment-length", "8"});
  ASSERT_EQ(run.code, 0) << run.err;
  // 64 segments are sampled together, whatever is kept of them.
  expect_in(run.err, {"sampling 3 segments of 8 tokens", "448 tokens pass it", "448/448"});
  expect_in(run.out, {"24 tokens"});
}

TEST_F(CliTest, ErrorsBlameTheOptionThatWasGiven) {
  const RunOfCbq quantized =
      cbq(quantize("q", {"--evaluate", test_tokens(), "--evaluate-length", "17"}));
  EXPECT_EQ(quantized.code, 1);
  expect_in(quantized.err, {"--evaluate-length 17", "context of 16"});
  const RunOfCbq evaluated =
      cbq({"evaluate", model(), "--tokens", test_tokens(), "--segment-length", "17"});
  EXPECT_EQ(evaluated.code, 1);
  expect_in(evaluated.err, {"--segment-length 17", "context of 16"});
}

TEST_F(CliTest, AnInterruptedRunGoesOnAndEndsInTheSameBytes) {
  const std::vector<std::string> slow = {"--window", "1", "--overlap", "0", "--epochs", "150"};
  const fs::path state = folder_ / "q.resume/state.safetensors";
  const RunOfCbq stopped = cbq(quantize("q", slow), [&](pid_t child) {
    for (int i = 0; i < 4000 && !fs::exists(state); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ::kill(child, SIGINT);
  });
  ASSERT_EQ(stopped.code, 130) << stopped.err;
  expect_in(stopped.err, {"cbq quantize: interrupted ", "finished windows are kept", "--resume"});
  EXPECT_TRUE(fs::exists(state));
  EXPECT_FALSE(fs::exists(folder_ / "q.partial"));
  EXPECT_FALSE(fs::exists(folder_ / "q"));

  const RunOfCbq neither = cbq(quantize("q", slow));
  EXPECT_EQ(neither.code, 1) << neither.err;
  expect_in(neither.err, {"q.resume", "--resume goes on", "--overwrite drops"});
  EXPECT_TRUE(fs::exists(state));

  std::vector<std::string> resumed = quantize("q", slow);
  resumed.push_back("--resume");
  const RunOfCbq second = cbq(resumed);
  ASSERT_EQ(second.code, 0) << second.err;
  expect_in(second.err, {"resumed after window"});
  EXPECT_FALSE(fs::exists(folder_ / "q.resume"));
  // The windows of before it was stopped are told again: the log is that of the whole run.
  expect_in(bytes_of(path("q/log.txt")),
            {"settings: method cbq, W2A16", "blocks 0-0: loss", "blocks 3-3: loss"});
  const RunOfCbq third = cbq(resumed);
  EXPECT_EQ(third.code, 0) << third.err;
  expect_in(third.out, {"finished already"});
  ASSERT_EQ(cbq(quantize("whole", slow)).code, 0);
  EXPECT_EQ(bytes_of(path("q/model.safetensors")), bytes_of(path("whole/model.safetensors")));
}

TEST_F(CliTest, ADamagedStateIsToldAndReplaced) {
  fs::create_directories(folder_ / "q.resume");
  folder_.write("q.resume/state.safetensors", "not a state: damaged");
  const RunOfCbq damaged = cbq(quantize("q", {"--resume"}));
  ASSERT_EQ(damaged.code, 0) << damaged.err;
  expect_in(damaged.err, {"not resumed", "state.safetensors"});
  EXPECT_FALSE(fs::exists(folder_ / "q.resume"));
}

TEST_F(CliTest, BitsAndGroupsAsTablesWriteThem) {
  const auto settings_of = [&](const std::string& name, std::vector<std::string> more) {
    more.insert(more.end(), {"--reconstruct", "none", "--overwrite"});
    std::vector<std::string> all = {"quantize", model(), "--output", path(name)};
    all.insert(all.end(), more.begin(), more.end());
    const RunOfCbq run = cbq(all);
    EXPECT_EQ(run.code, 0) << run.err;
    return run.code == 0 ? json_of(path(name + "/recipe.json"))["settings"] : nlohmann::json();
  };
  const nlohmann::json pair = settings_of("a", {"--bits", "W3A8", "--granularity", "g8"});
  EXPECT_EQ(pair["wbits"], 3);
  EXPECT_EQ(pair["abits"], 8);
  EXPECT_EQ(pair["granularity"], "per_group");
  EXPECT_EQ(pair["group_size"], 8);
  const nlohmann::json single = settings_of("b", {"--bits", "w2", "--abits", "4"});
  EXPECT_EQ(single["wbits"], 2);
  EXPECT_EQ(single["abits"], 4);
  EXPECT_EQ(settings_of("c", {"--bits", "5"})["wbits"], 5);
  EXPECT_EQ(settings_of("d", {"--granularity", "per-tensor"})["granularity"], "per_tensor");
  const nlohmann::json size = settings_of("e", {"--group-size", "8"});
  EXPECT_EQ(size["granularity"], "per_group");
  EXPECT_EQ(size["group_size"], 8);
}

TEST_F(CliTest, WhatWouldHaveNoEffectIsRefused) {
  const std::pair<std::vector<std::string>, std::vector<const char*>> cases[] = {
      {{"--bits", "Wx"}, {"bits", "W4A4"}},
      {{"--bits", "4,4"}, {"--bits", "W4A4"}},
      {{"--granularity", "g"}, {"'g'", "g64"}},
      {{"--rank", "3"}, {"--rank", "signround", "lora_rounding"}},
      {{"--layer-bits", "up_prj=4"}, {"up_prj", "no linear layer", "q_proj"}},
  };
  for (const auto& [options, parts] : cases) {
    const RunOfCbq refused = cbq(quantize("q", options));
    EXPECT_EQ(refused.code, 1) << options[0];
    for (const char* part : parts) expect_in(refused.err, {part});
  }
  EXPECT_EQ(cbq(quantize("q", {"--rank", "3", "--parameterization", "low_rank"})).code, 0);
}

TEST_F(CliTest, CountsAreNotNegative) {
  const RunOfCbq run = cbq(quantize("q", {"--segments", "-5"}));
  EXPECT_EQ(run.code, 2);
  expect_in(run.err, {"--segments", "-5"});
}

TEST_F(CliTest, DenseExportScoresTheSameAndIsAPlainModel) {
  ASSERT_EQ(cbq(quantize("q", {"--evaluate", test_tokens(), "--export", "dense"})).code, 0);
  ASSERT_EQ(cbq({"evaluate", path("q"), "--tokens", test_tokens(), "--json", path("r")}).code, 0);
  EXPECT_EQ(json_of(path("r"))["results"], json_of(path("q/report.json"))["quantized"]["results"]);
  EXPECT_FALSE(json_of(path("q/config.json")).contains("quantization_config"));
}

// Weights lose digits when they are written in another type, and the scores are those of the
// folder.
TEST_F(CliTest, DenseExportInAnotherTypeIsScoredAsItIsWritten) {
  for (const char* load : {"whole", "blockwise"}) {
    ASSERT_EQ(cbq(quantize("q", {"--evaluate", test_tokens(), "--export", "dense", "--export-dtype",
                                 "bf16", "--load", load, "--overwrite"}))
                  .code,
              0);
    ASSERT_EQ(cbq({"evaluate", path("q"), "--tokens", test_tokens(), "--json", path("r")}).code, 0);
    EXPECT_EQ(json_of(path("r"))["results"], json_of(path("q/report.json"))["quantized"]["results"])
        << load;
    EXPECT_FALSE(fs::exists(folder_ / "q/packed"));
  }
}

TEST_F(CliTest, ATypeThatWeightsAreNotQuantizedInIsRefusedBeforeTheWork) {
  const auto before = listing();
  const RunOfCbq computed = cbq(quantize("q", {"--dtype", "f16", "--evaluate", test_tokens()}));
  EXPECT_EQ(computed.code, 1);
  expect_in(computed.err, {"--dtype f16", "f32 or bf16"});
  EXPECT_EQ(computed.err.find("calibration"), std::string::npos) << computed.err;
  const RunOfCbq written = cbq(quantize("q", {"--export", "dense", "--export-dtype", "i32"}));
  EXPECT_EQ(written.code, 1);
  expect_in(written.err, {"--export-dtype i32", "f32, bf16 or f16"});
  EXPECT_EQ(written.err.find("loss"), std::string::npos) << written.err;
  EXPECT_EQ(listing(), before);
}

TEST_F(CliTest, CalibrationNeedsNoDataAtAll) {
  const RunOfCbq run = cbq({"quantize", model(), "--output", path("q"), "--epochs", "1",
                            "--segments", "4", "--segment-length", "8"});
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(json_of(path("q/recipe.json"))["calibration"]["protocol"], {"sampled from the model"});
  // `sample` writes the very segments.
  ASSERT_EQ(
      cbq({"sample", model(), "-o", path("s.h5"), "--segments", "4", "--segment-length", "8"}).code,
      0);
  EXPECT_EQ(load_tokens(path("s.h5")).hash(),
            json_of(path("q/recipe.json"))["calibration"]["hash"]);
}

TEST_F(CliTest, InspectShowsLayersAndSizes) {
  ASSERT_EQ(
      cbq(quantize("q", {"--abits", "4", "--reconstruct", "none", "--rotation", "none"})).code, 0);
  const RunOfCbq quantized = cbq({"inspect", path("q"), "--original", model()});
  ASSERT_EQ(quantized.code, 0) << quantized.err;
  expect_in(quantized.out, {"4 blocks", "model.layers.3.mlp.down_proj", "[16, 24]",
                            "bits per weight", "inputs 4 bits", "nearest"});
  // Nearest rounding moves nothing away from the nearest code.
  expect_in(quantized.out, {"  0.0 %"});
  const RunOfCbq plain = cbq({"inspect", model()});
  ASSERT_EQ(plain.code, 0) << plain.err;
  expect_in(plain.out, {"model.layers.0.self_attn.q_proj", "32.000 bits per weight"});
}

TEST_F(CliTest, AnOutputThatIsThereIsOnlyReplacedWhenAsked) {
  folder_.write("precious.txt", "x");
  ASSERT_EQ(cbq(quantize("q")).code, 0);
  const std::string first = bytes_of(path("q/model.safetensors"));
  const RunOfCbq refused = cbq(quantize("q", {"--wbits", "3"}));
  EXPECT_EQ(refused.code, 1);
  expect_in(refused.err, {"not empty", "--overwrite"});
  EXPECT_EQ(bytes_of(path("q/model.safetensors")), first);
  ASSERT_EQ(cbq(quantize("q", {"--overwrite", "--wbits", "3"})).code, 0);
  EXPECT_NE(bytes_of(path("q/model.safetensors")), first);
  EXPECT_FALSE(fs::exists(folder_ / "q.old"));
  // Not even then, if it is no model folder.
  const RunOfCbq home = cbq(quantize("", {"--overwrite"}));
  EXPECT_EQ(home.code, 1);
  expect_in(home.err, {"no model folder"});
  EXPECT_TRUE(fs::exists(folder_ / "precious.txt"));
}

// ---- text: with the vocabulary that is in the repository ----------------------------------------

class CliTextTest : public CliTest {
 protected:
  void SetUp() override {
    if (!fs::exists(tokenizer())) GTEST_SKIP() << "no " << tokenizer();
    std::string text;
    for (int i = 0; i < 300; ++i) text += "line " + std::to_string(i) + " of some small text\n";
    folder_.write("a.txt", text);
    folder_.write("b.txt", "another text, a shorter one, and one more line of it\n" + text);
  }
  static std::string tokenizer() { return std::string(CBQ_SOURCE_DIR) + "/models/embedded"; }
  /// `cbq train` into `output`; `more` adds options or gives them another value, as the later wins.
  std::vector<std::string> train(const std::string& output,
                                 const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = {"train", "--text", path("a.txt"), path("b.txt")};
    const std::pair<std::string, std::string> usual[] = {{"--tokenizer", tokenizer()},
                                                         {"--output", path(output)},
                                                         {"--device", "cpu"},
                                                         {"--layers", "1"},
                                                         {"--hidden", "16"},
                                                         {"--intermediate", "16"},
                                                         {"--heads", "2"},
                                                         {"--kv-heads", "1"},
                                                         {"--context", "16"},
                                                         {"--tokens", "16"},
                                                         {"--batch", "2"},
                                                         {"--steps", "60"},
                                                         {"--warmup", "5"},
                                                         {"--save-every", "5"}};
    for (const auto& [name, value] : usual) {
      all.insert(all.end(), {name, value});
    }
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

TEST_F(CliTextTest, ATokenizerWithFarFewerTokensIsDoubted) {
  ModelConfig config = tiny_config(1);
  for (const int64_t vocabulary : {2050, 4096}) {
    config.vocab_size = vocabulary;
    save_model(*tiny_model(config), folder_ / "wide", Dtype::f32);
    const RunOfCbq run = cbq({"evaluate", path("wide"), "--tokenizer", tokenizer(), "--text",
                              path("a.txt"), "--segments", "1"});
    ASSERT_EQ(run.code, 0) << run.err;
    if (vocabulary == 4096) {
      expect_in(run.err, {"warning", "2048 tokens", "4096 embeddings"});
    } else {
      EXPECT_EQ(run.err.find("warning"), std::string::npos) << run.err;
    }
  }
}

TEST_F(CliTextTest, TrainMakesAModelOfEachFamily) {
  const struct {
    std::string family, architecture, activation_key, activation;
  } cases[] = {{"opt", "OPTForCausalLM", "activation_function", "relu"},
               {"qwen3", "Qwen3ForCausalLM", "hidden_act", "silu"}};
  for (const auto& [family, architecture, key, activation] : cases) {
    const RunOfCbq run =
        cbq(train(family, {"--family", family, "--kv-heads", "2", "--steps", "6"}));
    ASSERT_EQ(run.code, 0) << run.err;
    const auto config = json_of(path(family + "/config.json"));
    EXPECT_EQ(config["architectures"][0], architecture);
    EXPECT_EQ(config["model_type"], family);
    EXPECT_EQ(config[key], activation);
  }
  // BLOOM derives the width of its feed-forward part: an option that says otherwise is an error.
  const RunOfCbq refused = cbq(train("bloom", {"--family", "bloom", "--kv-heads", "2"}));
  EXPECT_NE(refused.code, 0);
  expect_in(refused.err, {"--intermediate 16", "bloom", "64", "leave the option out"});
  const std::vector<std::string> four_times = {"--family", "bloom", "--kv-heads",     "2",
                                               "--steps",  "6",     "--intermediate", "64"};
  const RunOfCbq run = cbq(train("bloom", four_times));
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(json_of(path("bloom/config.json"))["model_type"], "bloom");
  const RunOfCbq shared = cbq(train("shared", {"--family", "opt"}));
  EXPECT_NE(shared.code, 0);
  expect_in(shared.err, {"--kv-heads 1", "opt", "each head has its own"});
  const RunOfCbq unknown = cbq(train("unknown", {"--family", "gptx"}));
  EXPECT_NE(unknown.code, 0);
  expect_in(unknown.err, {"unknown model family 'gptx'", "bloom, ", "llama, mistral, ", "opt, ",
                          "qwen2, qwen3"});
}

TEST_F(CliTextTest, TrainWritesAModelAndScoresIt) {
  const RunOfCbq run = cbq(train("m", {"--tie", "--evaluate", path("b.txt")}));
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.out,
            {"loss of the last steps", "trained", "perplexity", "consecutive segments of 16"});
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.model"}) {
    EXPECT_TRUE(fs::exists(folder_ / "m" / name)) << name;
  }
  const auto config = json_of(path("m/config.json"));
  EXPECT_EQ(config["vocab_size"], 2048);
  EXPECT_EQ(config["tie_word_embeddings"], true);
  EXPECT_EQ(config["torch_dtype"], "bfloat16");
  // What was scored is what was saved.
  const RunOfCbq again = cbq({"evaluate", path("m"), "--text", path("b.txt")});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(again.out.substr(11), run.out.substr(run.out.find("trained") + 11));
}

TEST_F(CliTextTest, AnInterruptedTrainingGoesOnAndEndsInTheSameBytes) {
  const RunOfCbq stopped = cbq(train("m", {"--steps", "150"}), [&](pid_t child) {
    for (int i = 0; i < 4000 && !fs::exists(folder_ / "m/training.safetensors"); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ::kill(child, SIGINT);
  });
  ASSERT_EQ(stopped.code, 130) << stopped.err;
  expect_in(stopped.err, {"go on with the same command"});
  EXPECT_FALSE(fs::exists(folder_ / "m/model.safetensors"));
  const SafetensorsFile state = SafetensorsFile::open(path("m/training.safetensors"));
  EXPECT_LT(std::stoi(state.metadata().at("step")), 150) << "it did not stop";
  const RunOfCbq second = cbq(train("m", {"--steps", "150"}));
  ASSERT_EQ(second.code, 0) << second.err;
  expect_in(second.err, {"token ids from"});
  ASSERT_EQ(cbq(train("whole", {"--steps", "150"})).code, 0);
  EXPECT_EQ(bytes_of(path("m/model.safetensors")), bytes_of(path("whole/model.safetensors")));
}

TEST_F(CliTextTest, ATrainingRunDoesNotGoOnWithOtherData) {
  ASSERT_EQ(cbq(train("m")).code, 0);
  for (const char* what : {"batch", "hidden"}) {
    const RunOfCbq run = cbq(train("m", {std::string("--") + what, "4"}));
    EXPECT_EQ(run.code, 1);
    expect_in(run.err, {"another", std::string(what) == "batch" ? "batch" : "model", "--output"});
  }
}

TEST_F(CliTextTest, AStateThatDoesNotSayWhatItWasTrainedOnIsRefused) {
  ASSERT_EQ(cbq(train("m")).code, 0);
  fs::remove(folder_ / "m/training.json");
  const std::string state = bytes_of(path("m/training.safetensors"));
  const RunOfCbq run = cbq(train("m", {"--steps", "70"}));
  EXPECT_EQ(run.code, 1) << run.err;
  expect_in(run.err, {"training.safetensors", "without training.json", "--output"});
  EXPECT_EQ(bytes_of(path("m/training.safetensors")), state);
}

TEST_F(CliTextTest, TokenizeWritesWhatEvaluateAndQuantizeRead) {
  ASSERT_EQ(cbq(train("m", {"--dtype", "f32"})).code, 0);
  const auto tokenize = [&](const char* file, std::vector<std::string> more) {
    std::vector<std::string> all = {"tokenize",  path("b.txt"), "--tokenizer",
                                    tokenizer(), "-o",          path(file)};
    all.insert(all.end(), more.begin(), more.end());
    return cbq(all).code;
  };
  ASSERT_EQ(tokenize("text.h5", {}), 0);
  ASSERT_EQ(tokenize("segments.h5", {"--segment-length", "16"}), 0);
  ASSERT_EQ(tokenize("random.h5", {"--segment-length", "12", "--segments", "5"}), 0);
  EXPECT_EQ(load_tokens(path("random.h5")).count(), 5);
  // One text in three shapes, one result.
  std::vector<nlohmann::json> results;
  for (const char* source : {"b.txt", "text.h5", "segments.h5"}) {
    const bool is_text = std::string(source) == "b.txt";
    const RunOfCbq run = cbq({"evaluate", path("m"), is_text ? "--text" : "--tokens", path(source),
                              "--json", path("r.json")});
    ASSERT_EQ(run.code, 0) << run.err;
    results.push_back(json_of(path("r.json"))["results"].front());
  }
  EXPECT_EQ(results[1], results[0]);
  EXPECT_EQ(results[2], results[0]);
  const RunOfCbq run = cbq({"quantize", path("m"), "--output", path("q"), "--calibration",
                            path("text.h5"), "--segments", "4", "--epochs", "1"});
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(json_of(path("q/recipe.json"))["calibration"]["protocol"],
            "4 random segments of 16, seed 0");
}

// ---- figures
// --------------------------------------------------------------------------------------

TEST(CheckReference, TunedRowsAreMet) {
  SKIP_WITHOUT_TEST_DATA();
  const std::string program = (build_folder() / "bin/check_reference").string();
  ASSERT_TRUE(fs::exists(program)) << "build the target check_reference";
  const TemporaryFolder folder;
  const std::string out = (folder / "out").string();
  const std::string command = program + " '" + test_data().string() + "' --fast > " + out + " 2>&1";
  EXPECT_EQ(std::system(command.c_str()), 0) << bytes_of(out);
  expect_in(bytes_of(out), {"7 of 7 rows ok", "W2", "held_out: original model"});
}

}  // namespace
}  // namespace cbq::test::test_cli
