// What `cbq quantize` chooses where nothing is chosen, and what it says before it begins.
#include "tests/test_cli_support.h"

namespace cbq::test::test_quantize_plan {
namespace {

class QuantizePlan : public CliTest {
 protected:
  /// A model whose linear layers read `width` and twice that.
  std::string model_of(int64_t width) const {
    ModelConfig config = tiny_config();
    config.hidden_size = width;
    config.intermediate_size = 2 * width;
    config.head_dim = width / 2;
    const std::string folder = path("model" + std::to_string(width));
    save_model(*tiny_model(config), folder, Dtype::f32);
    return folder;
  }
  RunOfCbq bare(const std::string& folder, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = {"quantize",         folder,        "-o",         path("q"),
                                    "--calibration",    calibration(), "--segments", "6",
                                    "--segment-length", "12",          "--overwrite"};
    all.insert(all.end(), more.begin(), more.end());
    return cbq(all);
  }
  int64_t group() const {
    return json_of(path("q/recipe.json")).at("settings").at("group_size").get<int64_t>();
  }
};

TEST_F(QuantizePlan, GroupsAreChosenByTheShapeOnlyWhereNothingElseIs) {
  for (const auto& [width, group_size] : {std::pair{128, 128}, {64, 64}, {16, 0}}) {
    const RunOfCbq run = bare(model_of(width));
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_EQ(group(), group_size) << width;
    expect_in(run.err, {group_size == 0 ? "W4A16 per_channel" : "W4A16 per_group of"});
  }
  const RunOfCbq seeded = bare(path("model128"), {"--seed", "3", "--epochs", "1"});
  ASSERT_EQ(seeded.code, 0) << seeded.err;
  EXPECT_EQ(group(), 128) << "neither a seed nor passes choose a grid";
  for (const auto& more : std::vector<std::vector<std::string>>{{"--bits", "W4A16"},
                                                                {"--method", "nearest"},
                                                                {"--granularity", "per_channel"},
                                                                {"--symmetric"}}) {
    const RunOfCbq run = bare(path("model128"), more);
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_EQ(group(), 0) << more.front();
  }
}

TEST_F(QuantizePlan, SaysWindowsStepsAndBytes) {
  const RunOfCbq run = bare(model_of(64), {"--bits", "W2A16", "--group-size", "32", "--epochs", "3",
                                           "--batch", "4", "--window", "1", "--overlap", "0"});
  ASSERT_EQ(run.code, 0) << run.err;
  // 2 windows of 3 epochs of two steps; 4 x 64 x 64 rows of attention less half of k and v, and 3 x
  // 64 x 128 of the feed-forward part, in two blocks: 73,728 weights of 2 bits and 5 bytes for 32.
  expect_in(run.err,
            {"plan: 2 windows, 12 steps of 4 segments, 6 calibration segments of 12 tokens",
             "linear layers of 0.3 MB become 0.0 MB (3.25 bits a weight)",
             "after 10 steps: ", " of memory so far"});
  // What is said of the bytes, beside the file: codes, scales and zero points of one layer.
  const std::string weights = bytes_of(path("q/model.safetensors"));
  const auto header = static_cast<size_t>(*reinterpret_cast<const uint64_t*>(weights.data()));
  const nlohmann::json tensors = nlohmann::json::parse(weights.substr(8, header));
  int64_t bytes = 0;
  for (const auto& [name, tensor] : tensors.items()) {
    const bool of_codes =
        name.ends_with(".codes") || name.ends_with(".scale") || name.ends_with(".zero_point");
    if (!of_codes) continue;
    const nlohmann::json& range = tensor.at("data_offsets");
    bytes += range.at(1).get<int64_t>() - range.at(0).get<int64_t>();
  }
  EXPECT_EQ(8 * bytes * 100, 325 * 73728);
}

}  // namespace
}  // namespace cbq::test::test_quantize_plan
