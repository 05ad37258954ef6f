// --resume where the result is there already, and what of a run is damaged on the disk.
#include <nlohmann/json.hpp>

#include "cbq/resume.h"
#include "nn/formats/output_lock.h"
#include "nn/formats/sealed_files.h"
#include "tests/flipped_bits.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_cli_finished {
namespace {

namespace fs = std::filesystem;

class FinishedTest : public CliTest {
 protected:
  void SetUp() override {
    CliTest::SetUp();
    const RunOfCbq run = cbq(quantize("q", usual()));
    ASSERT_EQ(run.code, 0) << run.err;
  }
  virtual std::vector<std::string> usual() const { return {"--evaluate", test_tokens()}; }
  RunOfCbq resume(std::vector<std::string> more = {}) const {
    std::vector<std::string> all = usual();
    all.insert(all.end(), more.begin(), more.end());
    all.push_back("--resume");
    return cbq(quantize("q", all));
  }
  std::map<std::string, std::string> contents() const {
    std::map<std::string, std::string> all;
    for (const std::string& name : listing()) {
      if (fs::is_regular_file(folder_ / name)) all[name] = bytes_of(folder_ / name);
    }
    return all;
  }
  /// An error with these parts, exit code 1, and nothing is changed.
  void expect_refused(const std::vector<std::string>& more,
                      std::initializer_list<const char*> parts) const {
    const auto before = contents();
    const RunOfCbq run = resume(more);
    EXPECT_EQ(run.code, 1) << run.out;
    expect_in(run.err, parts);
    expect_in(run.err, {"--overwrite", "Nothing was changed"});
    EXPECT_TRUE(contents() == before);
  }
};

TEST_F(FinishedTest, TheSameCommandHasNothingToDo) {
  const auto before = contents();
  const RunOfCbq run = resume();
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.out, {"finished already"});
  EXPECT_TRUE(contents() == before);
  // Nor has it if all that differs is how the work is done.
  const RunOfCbq blockwise =
      resume({"--load", "blockwise", "--threads", "2", "--window", "1", "--cache", path("cache")});
  ASSERT_EQ(blockwise.code, 0) << blockwise.err;
  EXPECT_TRUE(contents() == before);
}

TEST_F(FinishedTest, AnyOtherRunIsRefusedAndNamed) {
  folder_.write("other.json", nlohmann::json({{"calibration", tiny_segments(6, 12, 3)}}).dump());
  save_model(*tiny_model(tiny_config(4), 2), folder_ / "model2", Dtype::f32);
  const std::vector<std::vector<std::string>> cases[] = {
      {{"--epochs", "2"}, {"it differs in epochs (1 there, 2 here)"}},
      {{"--wbits", "3", "--seed", "4"}, {"seed (0 there, 4 here)", "wbits (2 there, 3 here)"}},
      {{"--calibration", path("other.json") + ":calibration"},
       {"it differs in the calibration tokens"}},
      {{"--segments", "5"}, {"it differs in the calibration tokens"}},
      {{"--segment-length", "9"}, {"the calibration tokens"}},
      {{"--calibration", "model", "--segments", "2", "--segment-length", "8"},
       {"the calibration tokens"}},
      {{"--dtype", "bf16"}, {"it differs in the dtype (f32 there, bf16 here)"}},
      {{"--export", "dense"}, {"it differs in the export (packed there, dense here)"}},
      {{"--window", "3", "--overlap", "2"}, {"it differs in schedule (0,1,2,3 there, "}},
  };
  for (const auto& one : cases) {
    SCOPED_TRACE(one[0][0]);
    for (const std::string& part : one[1]) {
      expect_refused(one[0], {"belongs to another run", part.c_str()});
    }
  }
  // Another model at the place of the old one.
  fs::rename(model(), path("aside"));
  fs::rename(path("model2"), model());
  expect_refused({}, {"it differs in the model"});
  fs::remove_all(model());
  const RunOfCbq missing = resume();
  EXPECT_EQ(missing.code, 1);
  expect_in(missing.err, {"model", "does not exist"});
}

TEST_F(FinishedTest, AnotherProgramIsToldFromThisOne) {
  auto recipe = json_of(path("q/recipe.json"));
  recipe["identity"]["program"] = "0.0.9+abc";
  folder_.write("q/recipe.json", sealed(recipe).dump());
  expect_refused({}, {"the program's version (0.0.9+abc there"});
  for (const char* key : {"identity", "checksum"}) recipe.erase(key);  // as before there were any
  folder_.write("q/recipe.json", recipe.dump());
  expect_refused({}, {"belongs to another run: it differs in the program's version"});
}

TEST_F(FinishedTest, FurtherTextsAreOnlyScored) {
  const RunOfCbq run = resume({"--evaluate", path("ids.json") + ":calibration"});
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.out, {"original", "quantized", "ids:calibration", "finished already"});
  EXPECT_EQ(run.err.find("loss"), std::string::npos) << "nothing is learned again:\n" << run.err;
  const auto report = json_of(path("q/report.json"));
  EXPECT_EQ(report["quantized"]["results"].size(), 2u) << "what was there stays";
  EXPECT_EQ(report["windows"].size(), 4u);
  // The numbers of a run that had scored them from the start.
  ASSERT_EQ(
      cbq(quantize("whole", {"--evaluate", test_tokens(), path("ids.json") + ":calibration"})).code,
      0);
  const auto whole = json_of(path("whole/report.json"));
  for (const char* key : {"original", "quantized", "evaluated"}) {
    EXPECT_EQ(report[key], whole[key]) << key;
  }
  const auto before = contents();
  EXPECT_EQ(resume({"--evaluate", path("ids.json") + ":calibration"}).code, 0);
  EXPECT_TRUE(contents() == before) << "the second time there is nothing to add";
  // Other segments of the same source are other tokens.
  ASSERT_EQ(resume({"--evaluate-segments", "3"}).code, 0);
  EXPECT_EQ(json_of(path("q/report.json"))["quantized"]["results"]["ids:test"]["tokens"], 3 * 13);
}

TEST_F(FinishedTest, MissingFilesAreNamed) {
  for (const char* name : {"config.json", "model.safetensors", "recipe.json", "report.json"}) {
    const fs::path file = folder_ / "q" / name;
    fs::rename(file, folder_ / "aside");
    expect_refused({}, {"q has no ", name});
    fs::rename(folder_ / "aside", file);
  }
  EXPECT_EQ(resume().code, 0);
}

TEST_F(FinishedTest, DamagedFilesAreNamed) {
  for (const char* name : {"config.json", "model.safetensors", "recipe.json", "report.json"}) {
    const fs::path file = folder_ / "q" / name;
    const std::string good = bytes_of(file);
    const auto whole = [&] { return nlohmann::json::parse(bytes_of(file), nullptr, false); };
    const nlohmann::json before = whole();
    for_each_flipped_bit(good, 0, good.size() / 6, [&](const std::string& flipped) {
      folder_.write(std::string("q/") + name, flipped);
      const bool blank = !before.is_discarded() && whole() == before &&
                         std::string(name).starts_with("re");  // a blank between two members
      if (!blank) expect_refused({}, {name, "is damaged"});
    });
    folder_.write(std::string("q/") + name, good);
  }
  EXPECT_EQ(resume().code, 0);
}

/// Writes the state of a run with this identity beside the result.
void leave_state(const fs::path& folder, JobIdentity identity) {
  identity.export_format = identity.export_dtype = "";
  RunState state;
  state.finished = 1;  // without the block's file: a run that is killed may have removed it
  state.stream = Tensor::from<float>({1, 2}, {1, 1, 2});
  ResumeFolder(folder, identity).save(state);
}

TEST_F(FinishedTest, ItsOwnStateThatWasLeftBehindIsRemoved) {
  fs::create_directories(path("q.resume"));
  EXPECT_EQ(resume().code, 0);
  EXPECT_FALSE(fs::exists(path("q.resume"))) << "an empty one";
  leave_state(path("q.resume"),
              JobIdentity::from_json(json_of(path("q/recipe.json"))["identity"], "recipe"));
  {
    const OutputLock lock(folder_ / "q");
    const RunOfCbq refused = resume();
    EXPECT_EQ(refused.code, 1);
    expect_in(refused.err, {"is being written by process"});
    EXPECT_TRUE(fs::exists(path("q.resume/state.safetensors")));
  }
  EXPECT_EQ(resume().code, 0);
  EXPECT_FALSE(fs::exists(path("q.resume")));
  folder_.write("q.lock", "of a process that was killed");
  EXPECT_EQ(resume().code, 0);
  EXPECT_FALSE(fs::exists(path("q.lock")));
}

TEST_F(FinishedTest, AnotherRunsStateStays) {
  JobIdentity other = JobIdentity::from_json(json_of(path("q/recipe.json"))["identity"], "recipe");
  other.settings["seed"] = 5;
  leave_state(path("q.resume"), other);
  const auto before = contents();
  EXPECT_EQ(resume().code, 0);
  EXPECT_TRUE(contents() == before);
  folder_.write("q.resume/state.safetensors", "damaged");
  EXPECT_EQ(resume().code, 0) << "nobody knows whose it is";
  EXPECT_EQ(bytes_of(path("q.resume/state.safetensors")), "damaged");
}

class SampledTest : public FinishedTest {
 protected:
  std::vector<std::string> usual() const override {
    return {"--calibration", "model", "--segments", "4", "--segment-length", "8"};
  }
};

TEST_F(SampledTest, TheSameRequestIsNotSampledAgain) {
  const RunOfCbq run = resume();
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.out, {"finished already"});
  EXPECT_EQ(run.err.find("calibration: model"), std::string::npos) << run.err;
  expect_refused({"--segments", "3"}, {"it differs in the calibration tokens"});
  // The very tokens, from a file.
  ASSERT_EQ(
      cbq({"sample", model(), "-o", path("s.h5"), "--segments", "4", "--segment-length", "8"}).code,
      0);
  EXPECT_EQ(resume({"--calibration", path("s.h5")}).code, 0);
}

// What a default means may change with the program or the model, so the recipe has numbers.
TEST_F(SampledTest, TheRecipeSaysHowMuchWasSampled) {
  ASSERT_EQ(cbq({"quantize", model(), "-o", path("d"), "--segments", "2", "--epochs", "1",
                 "--device", "cpu"})
                .code,
            0);
  const auto request = json_of(path("d/recipe.json"))["calibration"]["sampling"];
  EXPECT_EQ(request["segments"], 2);
  EXPECT_EQ(request["tokens"], 16) << "the model's context";
  const RunOfCbq same =
      cbq({"quantize", model(), "-o", path("d"), "--segments", "2", "--segment-length", "16",
           "--epochs", "1", "--device", "cpu", "--resume"});
  EXPECT_EQ(same.code, 0) << same.err;
  EXPECT_EQ(same.err.find("calibration: model"), std::string::npos) << same.err;
}

TEST_F(CliTest, ACacheChangesNoByteWhoeverMadeIt) {
  folder_.write("more.json", nlohmann::json({{"calibration", tiny_segments(37, 3)}}).dump());
  for (const std::string& tokens : {calibration(), path("more.json") + ":calibration"}) {
    const std::vector<std::string> more = {"--calibration", tokens, "--overwrite"};
    const auto with = [&](std::vector<std::string> extra) {
      extra.insert(extra.end(), more.begin(), more.end());
      return extra;
    };
    ASSERT_EQ(cbq(quantize("plain", more)).code, 0);
    ASSERT_EQ(cbq(quantize("other", with({"--batch", "4", "--cache", path("cache")}))).code, 0);
    ASSERT_EQ(cbq(quantize("shared", with({"--cache", path("cache")}))).code, 0);
    EXPECT_EQ(bytes_of(path("shared/model.safetensors")),
              bytes_of(path("plain/model.safetensors")));
  }
}

// The tiny model sums too few terms for their order to show.
TEST_F(CliTest, ACacheChangesNoByteOfARealModel) {
  SKIP_WITHOUT_TEST_DATA();
  const std::string folder = (test_data() / "models").string();
  const auto quantized = [&](const std::string& output, std::vector<std::string> more) {
    std::vector<std::string> all = {
        "quantize",       folder + "/stories260K_hf",
        "--output",       path(output),
        "--calibration",  folder + "/stories260K/sampled.json:calibration",
        "--segments",     "13",
        "--epochs",       "1",
        "--wbits",        "2",
        "--scale-search", "min_max",
        "--device",       "cpu"};
    all.insert(all.end(), more.begin(), more.end());
    const RunOfCbq run = cbq(all);
    EXPECT_EQ(run.code, 0) << run.err;
    return bytes_of(path(output + "/model.safetensors"));
  };
  const std::string plain = quantized("plain", {});
  quantized("other", {"--batch", "4", "--cache", path("cache")});
  EXPECT_TRUE(quantized("shared", {"--cache", path("cache")}) == plain);
}

}  // namespace
}  // namespace cbq::test::test_cli_finished
