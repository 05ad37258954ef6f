// Whatever is wrong with what a user gives: the message names the thing and the remedy, the exit
// code is not 0, and nothing half-written stays behind.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "nn/formats/safetensors.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_bad_input {
namespace {

namespace fs = std::filesystem;

class BadInput : public CliTest {
 protected:
  /// The command fails, says all of `parts`, and changes nothing in the folder.
  void expect_refused(const std::vector<std::string>& arguments,
                      std::initializer_list<const char*> parts) {
    const std::vector<std::string> before = listing();
    const RunOfCbq run = cbq(arguments);
    EXPECT_EQ(run.code, 1) << run.out << run.err;
    expect_in(run.err, {("cbq " + arguments[0] + ": ").c_str()});
    expect_in(run.err, parts);
    EXPECT_EQ(listing(), before) << "something was left behind";
  }
  /// Rewrites the model's weights with one of them changed.
  void change_weight(const std::string& name, const std::function<Tensor(const Tensor&)>& change) {
    const fs::path file = folder_ / "model/model.safetensors";
    std::map<std::string, Tensor> tensors;
    {
      const SafetensorsFile old = SafetensorsFile::open(file);
      for (const std::string& n : old.names()) tensors[n] = old.load(n);
    }
    tensors.at(name) = change(tensors.at(name));
    write_safetensors(file, tensors);
  }
  void change_config(const std::string& key, const nlohmann::json& value) {
    nlohmann::json config = json_of(folder_ / "model/config.json");
    config[key] = value;
    folder_.write("model/config.json", config.dump());
  }
  std::vector<std::string> evaluate(const std::string& tokens) const {
    return {"evaluate", model(), "--tokens", tokens};
  }
};

// ---- files --------------------------------------------------------------------------------------

TEST_F(BadInput, MissingModel) {
  fs::rename(folder_ / "model", folder_ / "elsewhere");
  expect_refused(evaluate(test_tokens()), {"model", "does not exist"});
  expect_refused(quantize("q"), {"model", "does not exist"});
}

TEST_F(BadInput, MissingWeights) {
  fs::remove(folder_ / "model/model.safetensors");
  expect_refused(quantize("q"), {"model", "model.safetensors"});
}

TEST_F(BadInput, MissingConfiguration) {
  fs::remove(folder_ / "model/config.json");
  expect_refused(quantize("q"), {"config.json"});
}

TEST_F(BadInput, MissingTokens) {
  expect_refused(evaluate(path("none.h5")), {"none.h5"});
  expect_refused(evaluate(path("none.json")), {"none.json", "No such file"});
  expect_refused(quantize("q", {"--evaluate", path("none.json")}), {"none.json", "No such file"});
}

TEST_F(BadInput, MissingTokenizer) {
  folder_.write("text.txt", "some text");
  expect_refused({"evaluate", model(), "--text", path("text.txt")},
                 {"no tokenizer in", "copy the model's tokenizer"});
}

TEST_F(BadInput, TruncatedWeights) {
  fs::resize_file(folder_ / "model/model.safetensors", 4000);
  expect_refused(quantize("q"), {"model.safetensors"});
}

TEST_F(BadInput, TruncatedTokenFile) {
  ASSERT_EQ(
      cbq({"sample", model(), "-o", path("t.h5"), "--segments", "2", "--segment-length", "4"}).code,
      0);
  ASSERT_EQ(cbq(evaluate(path("t.h5"))).code, 0);
  fs::resize_file(folder_ / "t.h5", fs::file_size(folder_ / "t.h5") / 2);
  expect_refused(evaluate(path("t.h5")), {"t.h5"});
}

TEST_F(BadInput, TruncatedJson) {
  folder_.write("cut.json", R"({"test": [[1, 2, 3], [4)");
  expect_refused(evaluate(path("cut.json") + ":test"), {"cut.json", "not valid JSON"});
}

TEST_F(BadInput, WrongDtype) {
  change_weight("model.norm.weight",
                [](const Tensor& t) { return Tensor::zeros(t.shape(), Dtype::i32); });
  expect_refused(quantize("q"), {"model.norm.weight", "i32"});
}

TEST_F(BadInput, WrongShape) {
  change_config("intermediate_size", 32);
  expect_refused(quantize("q"), {"wrong shape", "mlp", "[24, 16]", "[32, 16]"});
}

TEST_F(BadInput, AQuantizedModelIsNotQuantizedAgain) {
  ASSERT_EQ(cbq(quantize("q")).code, 0);
  expect_refused({"quantize", path("q"), "--output", path("q2")},
                 {"quantized already", "floating-point model"});
  expect_refused({"inspect", model(), "--original", path("q")}, {"not quantized"});
}

// ---- names --------------------------------------------------------------------------------------

TEST_F(BadInput, UnknownNames) {
  expect_refused(quantize("q", {"--rounding", "nonsense"}), {"nonsense", "known", "nearest"});
  expect_refused(quantize("q", {"--method", "nonsense"}), {"nonsense", "known", "cbq_iclr"});
  expect_refused(quantize("q", {"--method", path("no.json")}), {"no.json"});
  expect_refused(quantize("q", {"--method", "paper_v4"}), {"paper_v4", "cbq_v4"});
  expect_refused(quantize("q", {"--profile", "tuned"}), {"--profile tuned", "--method cbq"});
  expect_refused(quantize("q", {"--preprocess", "nonsense"}), {"nonsense", "known"});
  expect_refused(quantize("q", {"--dtype", "nonsense"}), {"nonsense", "bf16"});
  expect_refused(quantize("q", {"--export", "nonsense"}), {"nonsense", "dense"});
}

TEST_F(BadInput, UnknownDevice) {
  expect_refused({"evaluate", model(), "--tokens", test_tokens(), "--device", "tpu"},
                 {"tpu", "cuda", "cpu"});
}

TEST_F(BadInput, UnknownSettingInARecipe) {
  folder_.write("r.json", R"({"epoch": 3})");
  expect_refused(quantize("q", {"--recipe", path("r.json")}), {"r.json", "'epoch'", "epochs"});
  folder_.write("r.json", R"({"epochs": "3"})");
  expect_refused(quantize("q", {"--recipe", path("r.json")}), {"r.json", "epochs", "integer"});
}

TEST_F(BadInput, UnknownKeyOfAJsonFile) {
  expect_refused(evaluate(path("ids.json") + ":nonsense"), {"nonsense", "calibration", "test"});
}

TEST_F(BadInput, UnknownArchitecture) {
  change_config("architectures", {"MambaForCausalLM"});
  expect_refused(quantize("q"), {"MambaForCausalLM", "LlamaForCausalLM"});
}

// ---- impossible settings ------------------------------------------------------------------------

TEST_F(BadInput, OverlapThatLeavesNoStride) {
  expect_refused(quantize("q", {"--window", "2", "--overlap", "2"}), {"overlap", "window"});
}

TEST_F(BadInput, ScheduleThatLeavesABlockOut) {
  expect_refused(quantize("q", {"--schedule", "0,2,3"}), {"schedule", "0,2,3"});
}

TEST_F(BadInput, OneBitWithoutAGrid) {
  expect_refused(quantize("q", {"--symmetric", "--symmetric-form", "restricted", "--wbits", "1"}),
                 {"restricted", "1 bit", "full_range"});
}

TEST_F(BadInput, GroupSizeThatDoesNotDivide) {
  expect_refused(quantize("q", {"--granularity", "per_group", "--group-size", "5"}),
                 {"model.layers.0.", "5", "16"});
  expect_refused(quantize("q", {"--granularity", "per_group"}), {"group_size"});
}

TEST_F(BadInput, DenseExportCannotHoldActivationQuantizers) {
  expect_refused(quantize("q", {"--abits", "4", "--export", "dense"}), {"dense", "--abits 16"});
}

TEST_F(BadInput, OutputOverTheModelItself) {
  const std::string before = bytes_of(folder_ / "model/model.safetensors");
  expect_refused(quantize("model", {"--overwrite"}), {"the model's own folder"});
  EXPECT_EQ(bytes_of(folder_ / "model/model.safetensors"), before);
}

TEST_F(BadInput, BitsThatDoNotExist) {
  expect_refused(quantize("q", {"--wbits", "9"}), {"wbits", "9", "1 to 8"});
}

TEST_F(BadInput, SegmentsLongerThanTheContext) {
  expect_refused(quantize("q", {"--segment-length", "17"}), {"--segment-length", "17", "16"});
}

// ---- data ---------------------------------------------------------------------------------------

TEST_F(BadInput, TokenOutsideTheVocabulary) {
  folder_.write("far.json", "[[1, 2, 3], [4, 48, 5]]");
  expect_refused(evaluate(path("far.json")), {"48", "segment 1", "vocabulary of 48", "tokenizer"});
  folder_.write("negative.json", "[[1, -2, 3]]");
  expect_refused(evaluate(path("negative.json")), {"negative.json", "-2"});
  expect_refused(quantize("q", {"--calibration", path("far.json")}), {"48", "vocabulary of 48"});
}

TEST_F(BadInput, SegmentsOfDifferentLengths) {
  folder_.write("odd.json", "[[1, 2, 3], [4, 5]]");
  expect_refused(quantize("q", {"--calibration", path("odd.json")}), {"one length", "3", "2"});
}

TEST_F(BadInput, EmptyText) {
  const std::string tokenizer = std::string(CBQ_SOURCE_DIR) + "/models/embedded";
  folder_.write("empty.txt", "");
  folder_.write("blank.txt", " \n\n ");
  folder_.write("short.txt", "three little words");
  expect_refused({"tokenize", path("empty.txt"), "--tokenizer", tokenizer, "-o", path("t.h5")},
                 {"empty.txt", "no text"});
  expect_refused({"evaluate", model(), "--tokenizer", tokenizer, "--text", path("blank.txt")},
                 {"blank.txt", "no text"});
  expect_refused({"tokenize", path("short.txt"), "--tokenizer", tokenizer, "-o", path("t.h5"),
                  "--segment-length", "512"},
                 {"less than one segment of 512", "longer text"});
  expect_refused({"train", "--text", path("empty.txt"), "--tokenizer", tokenizer, "-o", path("m")},
                 {"empty.txt", "no text"});
  expect_refused({"train", "--text", path("short.txt"), "--tokenizer", tokenizer, "-o", path("m")},
                 {"too few for segments of 256", "more text"});
  folder_.write("none.json", R"({"test": []})");
  expect_refused(evaluate(path("none.json") + ":test"), {"none.json", "not empty"});
  expect_refused({"evaluate", model()}, {"nothing to score", "--tokens"});
}

TEST_F(BadInput, NanInAWeight) {
  const auto with_nan = [](const Tensor& t) {
    std::vector<double> values = t.to_vector<double>();
    values[3] = std::numeric_limits<double>::quiet_NaN();
    return Tensor::from(values, t.shape(), t.dtype());
  };
  change_weight("model.layers.2.mlp.up_proj.weight", with_nan);
  expect_refused(quantize("q"), {"model.layers.2.mlp.up_proj.weight", "NaN", "fetch or train"});
  expect_refused(evaluate(test_tokens()), {"no number"});
}

TEST_F(BadInput, InfinityInANorm) {
  change_weight("model.layers.1.input_layernorm.weight", [](const Tensor& t) {
    kernels::fill(t, std::numeric_limits<double>::infinity());
    return t;
  });
  expect_refused(quantize("q"), {"model.layers.1.input_layernorm.weight", "infinity"});
}

TEST(BadInputToTheLibrary, CalibrationDataThatMakesTheModelOverflow) {
  // Every weight is finite, yet the activations are not.
  const auto model = tiny_model();
  model->visit("model.embed_tokens", [](const std::string&, Var&) {});
  model->visit("", [](const std::string& path, Var& p) {
    if (path.ends_with("down_proj.weight")) kernels::fill(p.value(), 1e38);
  });
  Settings settings = method_settings("cbq_windows", 4, 16);
  settings.epochs = 1;
  expect_error<std::runtime_error>(
      [&] { quantize(*model, tiny_segments(2, 8), settings, nullptr, {}); }, {"block"});
}

TEST(BadInputToTheLibrary, NanInAWeightNamesTheLayer) {
  const auto model = tiny_model();
  Linear& linear = *model->blocks[1]->linears()[2].linear;
  linear.weight.value().data<float>()[5] = std::numeric_limits<float>::quiet_NaN();
  Settings settings = method_settings("cbq_windows", 4, 16);
  settings.reconstruct = "none";
  expect_error<std::invalid_argument>(
      [&] { quantize(*model, tiny_segments(2, 8), settings, nullptr, {}); },
      {"model.layers.1.", "NaN"});
}

// ---- output -------------------------------------------------------------------------------------

TEST_F(BadInput, OutputBelowAFile) {
  folder_.write("file", "x");
  expect_refused(quantize("file/q"), {"file", "--output"});
  expect_refused(quantize("file"), {"is a file"});
  expect_refused(
      {"sample", model(), "-o", path("file/t.h5"), "--segments", "1", "--segment-length", "4"},
      {"file/t.h5"});
  expect_refused({"evaluate", model(), "--tokens", test_tokens(), "--json", path("file/r.json")},
                 {"file/r.json"});
}

TEST_F(BadInput, OutputWhereNobodyMayWrite) {
  expect_refused(quantize("q", {"--output", "/proc/cbq/q"}), {"/proc/cbq", "--output"});
}

/// A file system without room is imitated by a limit on the size of files, which makes write()
/// fail.
class LimitedFileSize {
 public:
  explicit LimitedFileSize(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);  // inherited by the program: write() then returns an error
    ::getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limited = before_;
    limited.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limited);
  }
  ~LimitedFileSize() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, SIG_DFL);
  }

 private:
  rlimit before_{};
};

TEST_F(BadInput, DiskFullWhileTheResultIsWritten) {
  // Room for the state of a window, not for all of the weights.
  LimitedFileSize limit(16000);
  expect_refused(quantize("q", {"--reconstruct", "none"}), {"q.partial", "File too large"});
}

TEST_F(BadInput, DiskFullWhileTheStateIsWritten) {
  LimitedFileSize limit(1000);
  expect_refused(quantize("q"), {"q.resume", "File too large"});
}

TEST_F(BadInput, StandardOutputThatIsFull) {
  const RunOfCbq run = cbq({"inspect", model()}, {}, "/dev/full");
  EXPECT_EQ(run.code, 1);
  expect_in(run.err, {"standard output"});
}

}  // namespace
}  // namespace cbq::test::test_bad_input
