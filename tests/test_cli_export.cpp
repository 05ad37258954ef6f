// `cbq export`: what it writes is what `cbq quantize --export` would have written, or nothing.
#include <csignal>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "nn/formats/output_lock.h"
#include "nn/formats/sealed_files.h"
#include "tests/flipped_bits.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_cli_export {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

class ExportTest : public CliTest {
 protected:
  std::vector<std::string> export_to(const std::string& output, const std::string& format,
                                     const Words& more = {}, const std::string& result = "q") {
    Words all = {"export",   path(result), "--format", format,
                 "--output", path(output), "--device", "cpu"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  void quantize_to(const std::string& output, const Words& more = {}) {
    const RunOfCbq run = cbq(quantize(output, more));
    ASSERT_EQ(run.code, 0) << run.err;
  }
  std::map<std::string, std::string> contents(const std::string& folder) const {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / folder)) {
      const std::string name = entry.path().lexically_relative(folder_ / folder).string();
      if (entry.is_regular_file()) all[name] = bytes_of(entry.path());
    }
    return all;
  }
  /// An error with these parts, exit code 1, and nothing is changed.
  void expect_refused(const Words& arguments, std::initializer_list<const char*> parts) {
    const auto before = contents("");
    const RunOfCbq run = cbq(arguments);
    EXPECT_EQ(run.code, 1) << run.out;
    expect_in(run.err, parts);
    EXPECT_TRUE(contents("") == before);
  }
};

/// All but times: of the report, everything but the seconds and the memory.
void expect_same_result(const std::map<std::string, std::string>& direct,
                        const std::map<std::string, std::string>& later) {
  for (const auto& [name, bytes] : direct) {
    if (name == "log.txt" || name == "report.json") continue;
    ASSERT_TRUE(later.contains(name)) << name;
    EXPECT_TRUE(later.at(name) == bytes) << name;
  }
  EXPECT_EQ(later.size() + 1, direct.size()) << "all but the log";
}

TEST_F(ExportTest, WritesWhatQuantizeWouldHaveWritten) {
  folder_.write("model/tokenizer.json", "{}");
  folder_.write("model/README.md", "a card");
  fs::create_directories(folder_ / "model/additional_chat_templates");
  folder_.write("model/additional_chat_templates/tools.jinja", "{{ tools }}");
  const Words ways[] = {{},
                        {"--rotation", "r1_r2_r4", "--wbits", "3"},
                        {"--dtype", "bf16"},
                        {"--group-size", "8", "--symmetric", "--reconstruct", "none"}};
  for (const Words& way : ways) {
    for (const char* load : {"whole", "blockwise"}) {
      SCOPED_TRACE(concat(way.empty() ? "" : way[0], " ", load));
      Words options = way;
      options.insert(options.end(), {"--load", load, "--overwrite"});
      quantize_to("q", options);
      for (const std::string& dtype : way.empty() ? Words{"f32", "bf16", "f16"} : Words{"f32"}) {
        Words direct = options;
        direct.insert(direct.end(), {"--export", "dense", "--export-dtype", dtype});
        quantize_to("direct", direct);
        const RunOfCbq run = cbq(export_to("later", "dense", {"--dtype", dtype, "--overwrite"}));
        ASSERT_EQ(run.code, 0) << run.err;
        expect_same_result(contents("direct"), contents("later"));
      }
      ASSERT_EQ(cbq(export_to("again", "packed", {"--overwrite"})).code, 0);
      expect_same_result(contents("q"), contents("again"));
    }
  }
}

TEST_F(ExportTest, TheDefaultTypeIsTheFirstOneThatTheHelpNames) {
  quantize_to("q", {"--reconstruct", "none"});
  ASSERT_EQ(cbq(export_to("default", "dense")).code, 0);
  ASSERT_EQ(cbq(export_to("f32", "dense", {"--dtype", "f32"})).code, 0);
  EXPECT_TRUE(contents("default") == contents("f32"));
  const RunOfCbq help = cbq({"export", "--help"});
  std::string words;
  std::istringstream in(help.out);
  for (std::string word; in >> word;) words += word + " ";
  expect_in(words, {"dense: a Hugging Face folder of dequantized weights", "packed: integer codes",
                    "by default the first (", "dense: f32, bf16, f16"});
}

TEST_F(ExportTest, ScoresAreThoseOfTheFolder) {
  quantize_to("q", {"--evaluate", test_tokens()});
  for (const char* dtype : {"f32", "bf16"}) {
    const std::string out = std::string("dense-") + dtype;
    ASSERT_EQ(cbq(export_to(out, "dense", {"--dtype", dtype})).code, 0);
    const RunOfCbq scored =
        cbq({"evaluate", path(out), "--tokens", test_tokens(), "--json", path("r")});
    ASSERT_EQ(scored.code, 0) << scored.err;
    const auto report = json_of(path(out + "/report.json"));
    const auto& stated = report["quantized"]["results"];
    if (dtype == std::string("f32")) {
      EXPECT_EQ(json_of(path("r"))["results"], stated);
    } else {
      EXPECT_TRUE(stated.empty()) << "they would be those of other weights";
    }
    const RunOfCbq inspected = cbq({"inspect", path(out)});
    ASSERT_EQ(inspected.code, 0) << inspected.err;
    expect_in(inspected.out, {"model.layers.3.mlp.down_proj"});
    // It is a finished run like any other.
    const RunOfCbq resumed =
        cbq(quantize("dense-" + std::string(dtype), {"--export", "dense", "--export-dtype", dtype,
                                                     "--resume", "--evaluate", test_tokens()}));
    ASSERT_EQ(resumed.code, 0) << resumed.err;
    EXPECT_EQ(json_of(path(out + "/report.json"))["quantized"]["results"],
              json_of(path("r"))["results"]);
  }
}

TEST_F(ExportTest, AModelCardSaysWhatTheFolderIs) {
  quantize_to("q", {"--reconstruct", "none", "--group-size", "8", "--evaluate", test_tokens()});
  const std::string card = bytes_of(path("q/README.md"));
  const auto report = json_of(path("q/report.json"));
  const std::string name = report["quantized"]["results"].begin().key();
  const double perplexity = report["quantized"]["results"][name]["perplexity"];
  char text[32];
  std::snprintf(text, sizeof text, "%.4f", perplexity);
  expect_in(card,
            {"base_model: \"model\"", "quantized_by: cbq", "method", "groups of 8", "cbq quantize",
             "--reconstruct none", "--group-size 8", "--export packed", text});
  // A shell completes the name of a folder with a slash. The folders above it are nobody's
  // business.
  std::vector<std::string> with_slash = quantize("t", {"--reconstruct", "none"});
  with_slash[1] += "/";
  ASSERT_EQ(cbq(with_slash).code, 0);
  const std::string other = bytes_of(path("t/README.md"));
  expect_in(other,
            {"base_model: \"model\"", "# model, W2A16", "cbq quantize model", "--dtype f32"});
  EXPECT_EQ(other.find(path("")), std::string::npos) << other;
  ASSERT_EQ(cbq(export_to("o", "dense", {"--dtype", "bf16"})).code, 0);
  expect_in(bytes_of(path("o/README.md")),
            {"`dense`", "--export-dtype bf16", "Perplexity was not measured"});
  EXPECT_FALSE(json_of(path("o/recipe.json"))["files"].contains("README.md"));
  // The model's own card stays, and its licence holds.
  folder_.write("model/README.md", "---\nlicense: mit\n---\nthe model's own");
  quantize_to("r", {"--reconstruct", "none"});
  EXPECT_EQ(bytes_of(path("r/README.md")), bytes_of(path("model/README.md")));
  expect_in(bytes_of(path("r/QUANTIZATION.md")), {"license: mit", "cbq quantize"});
  ASSERT_EQ(cbq(export_to("s", "dense", {}, "r")).code, 0);
  EXPECT_EQ(bytes_of(path("s/README.md")), bytes_of(path("model/README.md")));
  expect_in(bytes_of(path("s/QUANTIZATION.md")), {"license: mit", "--export dense"});
}

TEST_F(ExportTest, AFolderThatIsNotReadHereNamesTheResultThatIs) {
  quantize_to("q", {"--reconstruct", "none"});
  ASSERT_EQ(cbq(export_to("c", "compressed-tensors")).code, 0);
  auto config = json_of(path("c/config.json"));
  config["quantization_config"]["quant_method"] = "hqq";
  folder_.write("c/config.json", config.dump());
  for (const Words& command : {Words{"evaluate", path("c"), "--tokens", test_tokens()},
                               Words{"inspect", path("c")}, export_to("o", "dense", {}, "c")}) {
    expect_refused(command, {"hqq", "not read here", "the result in the format packed",
                             "floating-point model"});
  }
}

TEST_F(ExportTest, WhatIsNoFinishedPackedResultIsRefused) {
  expect_refused(export_to("o", "dense"), {"q does not exist", "folder of a quantized model"});
  expect_refused(export_to("o", "dense", {}, "model"), {"model is not quantized", "plain weights"});
  quantize_to("q", {"--reconstruct", "none"});
  ASSERT_EQ(cbq(export_to("d", "dense")).code, 0);
  expect_refused(export_to("o", "dense", {}, "d"), {"d is not quantized", "format dense"});
  expect_refused(export_to("o", "dense", {}, "ids.json"), {"ids.json", "config.json"});
  // What a killed run leaves.
  fs::create_directories(folder_ / "k.resume");
  expect_refused(export_to("o", "dense", {}, "k"), {"k does not exist", "--resume"});
  fs::create_directories(folder_ / "k.partial");
  folder_.write("k.partial/.cbq-partial", "x");
  expect_refused(export_to("o", "dense", {}, "k.partial"), {"incomplete", "--resume"});
  // Another program's.
  auto config = json_of(path("q/config.json"));
  config["quantization_config"]["quant_method"] = "hqq";
  fs::copy(folder_ / "q", folder_ / "g");
  folder_.write("g/config.json", config.dump());
  expect_refused(export_to("o", "dense", {}, "g"), {"format of \"hqq\"", "not read here"});
}

TEST_F(ExportTest, ImpossibleRequestsAreRefused) {
  quantize_to("q", {"--abits", "4", "--reconstruct", "none"});
  expect_refused(export_to("o", "dense"),
                 {"--format dense", "activations would be lost", "fits into --format packed"});
  expect_refused(export_to("o", "nonsense"), {"nonsense", "known", "dense", "packed"});
  expect_refused(export_to("o", "packed", {"--dtype", "bf16"}), {"--dtype bf16", "no choice"});
  expect_refused(export_to("q", "packed", {"--overwrite"}), {"own folder"});
  quantize_to("q", {"--reconstruct", "none", "--overwrite"});
  expect_refused(export_to("o", "dense", {"--dtype", "i32"}), {"--dtype i32", "f32, bf16 or f16"});
  expect_refused(export_to("model", "dense"), {"model is there", "--overwrite"});
}

TEST_F(ExportTest, DamagedFilesAreNamed) {
  for (const char* load : {"whole", "blockwise"}) {
    quantize_to("q", {"--reconstruct", "none", "--load", load, "--overwrite"});
    const std::string weights =
        load == std::string("whole") ? "model.safetensors" : "model-00002-of-00005.safetensors";
    for (const std::string& name :
         {weights, std::string("config.json"), std::string("recipe.json")}) {
      const fs::path file = folder_ / "q" / name;
      const std::string good = bytes_of(file);
      for_each_flipped_bit(good, good.size() / 3, good.size() / 4, [&](const std::string& flipped) {
        if (name == "recipe.json" &&
            nlohmann::json::parse(flipped, nullptr, false) == nlohmann::json::parse(good)) {
          return;  // a blank between two members
        }
        folder_.write("q/" + name, flipped);
        expect_refused(export_to("o", "dense"),
                       {path("q").c_str()});  // with the file or the tensor
      });
      fs::remove(file);
      if (name != "recipe.json") expect_refused(export_to("o", "dense"), {name.c_str()});
      folder_.write("q/" + name, good);
    }
    // A card that somebody has written is no damage.
    folder_.write("q/README.md", "of my own");
    ASSERT_EQ(cbq(export_to("o", "dense", {"--overwrite"})).code, 0);
    EXPECT_EQ(bytes_of(path("o/README.md")), "of my own");
    fs::remove_all(folder_ / "o");
  }
}

TEST_F(ExportTest, AResultWithoutARecipeIsExported) {
  quantize_to("q", {"--reconstruct", "none"});
  ASSERT_EQ(cbq(export_to("with", "dense")).code, 0);
  fs::remove(folder_ / "q/recipe.json");
  ASSERT_EQ(cbq(export_to("without", "dense")).code, 0);
  EXPECT_EQ(bytes_of(path("without/model.safetensors")), bytes_of(path("with/model.safetensors")));
  EXPECT_FALSE(fs::exists(folder_ / "without/recipe.json"));
  // As an earlier program wrote it, without checksums.
  folder_.write("q/recipe.json", R"({"settings_hash": "0"})");
  const RunOfCbq run = cbq(export_to("old", "dense"));
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.err, {"recipe.json has no checksums", "not compared"});
  EXPECT_EQ(bytes_of(path("old/model.safetensors")), bytes_of(path("with/model.safetensors")));
}

TEST_F(ExportTest, TheOutputIsLockedAndReplacedInOneStep) {
  quantize_to("q", {"--reconstruct", "none"});
  ASSERT_EQ(cbq(export_to("o", "dense")).code, 0);
  expect_refused(export_to("o", "packed"), {"o is there and not empty", "--overwrite"});
  ASSERT_EQ(cbq(export_to("o", "packed", {"--overwrite"})).code, 0);
  EXPECT_TRUE(contents("o").contains("model.safetensors"));
  EXPECT_EQ(bytes_of(path("o/config.json")), bytes_of(path("q/config.json")));
  const OutputLock lock(folder_ / "o");
  expect_refused(export_to("o", "dense", {"--overwrite"}), {"o is being written by process"});
}

TEST_F(ExportTest, AFullDiskIsNamedAndNothingStays) {
  quantize_to("q", {"--reconstruct", "none"});
  const auto before = contents("");
  const std::string line = "ulimit -f 8; exec '" + (build_folder() / "bin/cbq").string() +
                           "' export '" + path("q") + "' -f dense -o '" + path("o") + "' 2> '" +
                           path("err") + "'";
  const int status = std::system(("bash -c \"" + line + "\"").c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
  expect_in(bytes_of(path("err")), {"o.partial", "File too large"});
  fs::remove(folder_ / "err");
  EXPECT_TRUE(contents("") == before);
}

TEST_F(ExportTest, CtrlCLeavesNothing) {
  fs::remove_all(folder_ / "model");
  save_model(*tiny_model(tiny_config(300)), model(), Dtype::f32);
  quantize_to("q", {"--reconstruct", "none", "--scale-search", "min_max", "--load", "blockwise"});
  const auto before = contents("");
  for (int wait = 2; wait < 40; wait *= 3) {  // blocks that are written by then
    const RunOfCbq run = cbq(export_to("o", "dense"), [&](pid_t child) {
      const fs::path block =
          folder_ / "o.partial" / concat("model-0000", wait, "-of-00301.safetensors");
      const fs::path later =
          folder_ / "o.partial" / concat("model-000", wait, "-of-00301.safetensors");
      for (int i = 0; i < 20000 && !fs::exists(wait < 10 ? block : later); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      ::kill(child, SIGINT);
    });
    EXPECT_EQ(run.code, 130) << run.err;
    expect_in(run.err, {"interrupted while"});
    EXPECT_TRUE(contents("") == before);
  }
}

}  // namespace
}  // namespace cbq::test::test_cli_export
