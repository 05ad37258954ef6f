// Quantized, rotated models: saved and read back, block by block, resumed; runs with other
// rotations do not mix.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cbq/activation_cache.h"
#include "cbq/global_transforms.h"
#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "kernels/launch/tuned_switch.h"
#include "nn/formats/safetensors.h"
#include "tests/fixtures.h"
#include "tests/folder_tensors.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_rotation_runs {
namespace {

namespace fs = std::filesystem;

std::vector<double> logits_of(Transformer& model) {
  NoGrad none;
  const std::vector<int32_t> ids = tiny_segments(1, 14, 99)[0];
  return model.forward(Tensor::from(ids, {14}), {1, 14}).value().to_vector<double>();
}

std::unique_ptr<Transformer> quantized(const nlohmann::json& overrides) {
  Settings settings = method_settings("cbq_windows", 4, 4);
  settings.epochs = 1;
  apply_json(settings, overrides);
  auto model = tiny_model();
  apply_global_transforms(*model, settings);
  quantize(*model, tiny_segments(4, 12), settings, nullptr, {});
  return model;
}

class RotatedFolder : public ::testing::TestWithParam<const char*> {};

TEST_P(RotatedFolder, ALoadedModelComputesTheSameBits) {
  const TemporaryFolder folder;
  const auto model = quantized(nlohmann::json::parse(GetParam()));
  save_quantized(*model, folder / "q");
  const auto loaded = load_any_model(folder / "q", Dtype::f32, Device::cpu());
  EXPECT_EQ(logits_of(*loaded), logits_of(*model));
  EXPECT_EQ(loaded->transforms, model->transforms);
  save_quantized(*loaded, folder / "again");
  for (const char* file : {"model.safetensors", "config.json"}) {
    EXPECT_EQ(bytes_of(folder / "again" / file), bytes_of(folder / "q" / file)) << file;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Rotation, RotatedFolder,
    ::testing::Values(
        R"({"rotation": "r1_r2"})", R"({"rotation": "r1_r2_r4"})",
        R"({"rotation": "r1_r2_r4", "reconstruct": "none"})",
        R"({"rotation": "r1_r2_r4", "quantize_attention": true, "preprocess": "cfp_weight_activation"})",
        R"({"rotation": "r3", "quantize_attention": true, "reconstruct": "none"})",
        R"({"rotation": "r1_r2_r3_r4", "quantize_attention": true})",
        R"({"rotation": "r4", "abits": 16})",
        R"({"rotation": "r4", "wbits": 2, "abits": 16, "layer_bits": "down_proj=16"})",
        R"({"rotation": "r1_r4", "abits": 8, "act_granularity": "per_tensor"})"));

TEST(RotatedFolder, SaysWhatWasDoneAndOlderProgramsRefuseIt) {
  const TemporaryFolder folder;
  const auto section_with = [&](const char* rotation) {
    save_quantized(*quantized({{"rotation", rotation}, {"reconstruct", "none"}}),
                   folder / rotation);
    return json_of(folder / rotation / "config.json").at("quantization_config");
  };
  const nlohmann::json plain = section_with("none"), folded = section_with("r1_r2"),
                       online = section_with("r1_r2_r4");
  EXPECT_EQ(plain.at("format_version"), 1);
  EXPECT_FALSE(plain.contains("transforms"));
  EXPECT_EQ(folded.at("format_version"), 1);
  EXPECT_EQ(folded.at("transforms"), nlohmann::json::array({"rotation r1_r2, seed 0"}));
  EXPECT_EQ(online.at("format_version"), 2);
  const auto& layer = online.at("layers").at("model.layers.1.mlp.down_proj");
  EXPECT_EQ(layer.at("online"),
            (nlohmann::json{{"kind", "hadamard"}, {"block", 24}, {"order", 12}}));
  EXPECT_FALSE(online.at("layers").at("model.layers.1.mlp.up_proj").contains("online"));
}

TEST(RotatedFolder, HoldsTheOnlinePartOfAttention) {
  const TemporaryFolder folder;
  const nlohmann::json with_r3 = {
      {"rotation", "r3_r4"}, {"quantize_attention", true}, {"reconstruct", "none"}};
  const auto model = quantized(with_r3);
  save_quantized(*model, folder / "q");
  const nlohmann::json good = json_of(folder / "q/config.json");
  const nlohmann::json& section = good.at("quantization_config");
  EXPECT_EQ(section.at("format_version"), 3);
  const nlohmann::json record = {{"kind", "hadamard"}, {"block", 8}, {"order", 1}};
  EXPECT_EQ(section.at("attention_online").at("model.layers.1.attention"), record);
  EXPECT_EQ(section.at("attention_online").size(), 2u);
  // It is in the function that was quantized: without it other numbers come out.
  nlohmann::json without = good;
  without["quantization_config"].erase("attention_online");
  folder.write("q/config.json", without.dump());
  EXPECT_NE(logits_of(*load_any_model(folder / "q", Dtype::f32, Device::cpu())), logits_of(*model));
  const auto refused = [&](const std::string& at, const nlohmann::json& value,
                           std::initializer_list<const char*> parts) {
    nlohmann::json config = good;
    config["quantization_config"][nlohmann::json::json_pointer(at)] = value;
    folder.write("q/config.json", config.dump());
    expect_error<std::runtime_error>(
        [&] { load_any_model(folder / "q", Dtype::f32, Device::cpu()); }, parts);
  };
  const std::string at = "/attention_online/model.layers.0.attention";
  refused(at + "/kind", "magic", {"model.layers.0.attention", "magic", "hadamard"});
  refused(at + "/block", 3, {"model.layers.0.attention", "blocks of 3", "rows of 8"});
  refused(at + "/order", 2, {"model.layers.0.attention.online_matrix", "[2, 2]"});
  refused("/attention_online/model.layers.7.attention", record, {"model.layers.7.attention"});
  refused("/attention_online", 3, {"attention_online", "object"});
  refused("/format_version", 5, {"format version 5", "1 to 4"});
}

TEST(RotatedRuns, R3ChangesWhatIsQuantizedAndNothingElse) {
  const auto run = [](const char* rotation, int abits) {
    return logits_of(*quantized({{"rotation", rotation},
                                 {"quantize_attention", true},
                                 {"abits", abits},
                                 {"wbits", 16},
                                 {"reconstruct", "none"}}));
  };
  const std::vector<double> original = logits_of(*tiny_model());
  EXPECT_NE(run("r3", 4), run("none", 4));
  EXPECT_LE(relative_distance(run("r3", 8), original), 0.2);
}

TEST(RotatedFolder, RefusesABrokenOnlinePart) {
  const TemporaryFolder folder;
  save_quantized(*quantized({{"rotation", "r4"}, {"reconstruct", "none"}}), folder / "q");
  const nlohmann::json good = json_of(folder / "q/config.json");
  const auto refused = [&](const char* key, const nlohmann::json& value,
                           std::initializer_list<const char*> parts) {
    nlohmann::json config = good;
    auto& record =
        config["quantization_config"]["layers"]["model.layers.0.mlp.down_proj"]["online"];
    value.is_null() ? (void)record.erase(key) : (void)(record[key] = value);
    folder.write("q/config.json", config.dump());
    expect_error<std::runtime_error>(
        [&] { load_any_model(folder / "q", Dtype::f32, Device::cpu()); }, parts);
  };
  refused("kind", "magic", {"model.layers.0.mlp.down_proj", "magic", "hadamard"});
  refused("kind", nullptr, {"kind"});
  refused("block", 16, {"down_proj", "16", "24"});
  refused("block", 0, {"block"});
  refused("block", 1 << 30, {"block"});
  refused("order", 6, {"online_matrix", "[6, 6]"});
  refused("order", nullptr, {"order"});
  folder.write("q/config.json", good.dump());
  std::map<std::string, Tensor> tensors;
  {
    const SafetensorsFile file = SafetensorsFile::open(folder / "q/model.safetensors");
    for (const std::string& name : file.names()) tensors[name] = file.load(name).clone();
  }
  tensors["model.layers.1.mlp.down_proj.online_matrix"].data<float>()[13] *= -1.0f;
  write_safetensors(folder / "q/model.safetensors", tensors, {{"format", "pt"}});
  expect_error<std::runtime_error>([&] { load_any_model(folder / "q", Dtype::f32, Device::cpu()); },
                                   {"model.layers.1.mlp.down_proj", "Hadamard", "damaged"});
}

TEST(RotatedFolder, ADenseFolderHoldsTheOnlinePartInItsWeights) {
  for (const char* rotation : {"r1_r2", "r1_r2_r4"}) {
    const TemporaryFolder folder;
    const auto model = quantized({{"rotation", rotation}, {"abits", 16}, {"wbits", 3}});
    save_dense(*model, folder / "dense", Dtype::f32);
    const auto dense = load_model(folder / "dense", Dtype::f32, Device::cpu());
    EXPECT_LE(relative_distance(logits_of(*dense), logits_of(*model)), 1e-5) << rotation;
    EXPECT_GT(relative_distance(logits_of(*dense), logits_of(*tiny_model())), 1e-3);
  }
  const TemporaryFolder folder;
  const auto model = tiny_model();
  Settings settings;
  settings.rotation = "r4";
  apply_global_transforms(*model, settings);
  expect_error<std::invalid_argument>([&] { save_model(*model, folder / "m", Dtype::f32); },
                                      {"down_proj", "online"});
}

/// The fused quantizers of a norm or of SwiGLU must not pass the online part by.
TEST(RotatedRuns, InputsPassTheOnlinePartBeforeTheyAreQuantized) {
  const nlohmann::json settings = {
      {"rotation", "r1_r2_r4"}, {"reconstruct", "none"}, {"wbits", 16}, {"abits", 8}};
  const std::vector<double> before = logits_of(*tiny_model());
  const auto model = quantized(settings);
  EXPECT_LE(relative_distance(logits_of(*model), before), 0.2);
  EXPECT_GT(relative_distance(logits_of(*model), before), 1e-4);
  const std::vector<double> fused = logits_of(*model);
  const tuned::ReferenceKernels step_by_step;
  EXPECT_LE(relative_distance(logits_of(*model), fused), 1e-6);
}

TEST(RotatedRuns, ActivationsAreCachedByRotationAndSeed) {
  const TemporaryFolder folder;
  const auto targets = [&](const char* rotation, uint64_t seed) {
    Settings settings;
    settings.rotation = rotation;
    settings.rotation_seed = seed;
    const auto model = tiny_model();
    apply_global_transforms(*model, settings);
    return cache_on_disk(*model, tiny_segments(2, 8), folder.path(), {})
        ->get(1, 0, 2)
        .to_vector<double>();
  };
  const auto plain = targets("none", 0), r1 = targets("r1", 0), other = targets("r1", 1);
  EXPECT_NE(plain, r1);
  EXPECT_NE(r1, other);
  EXPECT_EQ(targets("r1", 0), r1);
  EXPECT_EQ(targets("none", 7), plain);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 3);
}

TEST(RotatedRuns, StateOfAnotherRotationIsNotGoneOnWith) {
  const TemporaryFolder folder;
  RunHooks hooks;
  hooks.resume_folder = folder / "state";
  const auto run = [&](const char* rotation, uint64_t seed, int64_t steps) {
    Settings settings = method_settings("cbq_windows", 4, 4);
    settings.epochs = 1;
    settings.rotation = rotation;
    settings.rotation_seed = seed;
    int64_t left = steps;
    hooks.interrupted = [&left] { return left-- == 0; };
    const auto model = tiny_model(tiny_config(3));
    apply_global_transforms(*model, settings);
    quantize(*model, tiny_segments(4, 12), settings, nullptr, hooks);
    return logits_of(*model);
  };
  const TemporaryFolder other;
  hooks.resume_folder = other / "state";
  const std::vector<double> expected = run("r1_r2_r4", 0, -1);
  hooks.resume_folder = folder / "state";
  bool stopped = false;
  for (int64_t steps = 1; !fs::exists(folder / "state/state.safetensors"); steps += 3) {
    try {
      run("r1_r2_r4", 0, steps);
    } catch (const Interrupted&) {
      stopped = true;
    }
  }
  EXPECT_TRUE(stopped);
  expect_error<std::runtime_error>([&] { run("r1_r2_r4", 1, -1); },
                                   {"the model", "rotation_seed (0 there, 1 here)"});
  expect_error<std::runtime_error>([&] { run("r1_r2", 0, -1); },
                                   {"the model", "rotation (r1_r2_r4 there, r1_r2 here)"});
  expect_error<std::runtime_error>([&] { run("none", 0, -1); },
                                   {"rotation (r1_r2_r4 there, none here)"});
  EXPECT_EQ(run("r1_r2_r4", 0, -1), expected);
}

TEST_F(CliTest, RotatedBlockwiseEndsInTheSameTensorsAndScores) {
  const std::vector<std::string> more = {
      "--abits",    "8",           "--rotation",   "r1_r2_r3_r4", "--rotation-seed",     "2",
      "--evaluate", test_tokens(), "--preprocess", "smoothquant", "--quantize-attention"};
  const auto with = [&](std::vector<std::string> extra) {
    extra.insert(extra.end(), more.begin(), more.end());
    return extra;
  };
  const RunOfCbq whole = cbq(quantize("whole", with({"--load", "whole"})));
  ASSERT_EQ(whole.code, 0) << whole.err;
  const RunOfCbq run = cbq(quantize("q", with({"--load", "blockwise"})));
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.err, {"blocks are loaded when they are needed", "rotation r1_r2_r3_r4"});
  EXPECT_EQ(tensors_of(path("q")), tensors_of(path("whole")));
  EXPECT_EQ(bytes_of(path("q/config.json")), bytes_of(path("whole/config.json")));
  const auto report = json_of(path("q/report.json")), other = json_of(path("whole/report.json"));
  for (const char* key : {"original", "quantized", "notes"}) EXPECT_EQ(report[key], other[key]);
  EXPECT_EQ(json_of(path("q/recipe.json"))["identity"],
            json_of(path("whole/recipe.json"))["identity"]);
  const RunOfCbq inspected = cbq({"inspect", path("q")});
  ASSERT_EQ(inspected.code, 0) << inspected.err;
  expect_in(inspected.out, {"rotation r1_r2_r3_r4, seed 2", "behind an online transform: hadamard",
                            "queries and keys behind an online transform: hadamard"});
  const RunOfCbq compared = cbq({"inspect", path("q"), "--original", model()});
  EXPECT_NE(compared.code, 0);
  expect_in(compared.err, {"transformed", "cannot be compared"});
  const RunOfCbq again = cbq({"evaluate", path("q"), "--tokens", test_tokens(), "--load",
                              "blockwise", "--json", path("result.json")});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(json_of(path("result.json"))["results"], report["quantized"]["results"]);
}

TEST_F(CliTest, RotatedRunsAreGoneOnWithByThemselvesOnly) {
  const auto rotated = [&](const std::string& output, std::vector<std::string> more) {
    more.insert(more.end(), {"--rotation", "r1_r2"});
    return quantize(output, more);
  };
  const RunOfCbq first = cbq(rotated("q", {}));
  ASSERT_EQ(first.code, 0) << first.err;
  const std::string codes = bytes_of(path("q/model.safetensors"));
  const RunOfCbq same = cbq(rotated("q", {"--resume"}));
  ASSERT_EQ(same.code, 0) << same.err;
  expect_in(same.out, {"finished already"});
  const RunOfCbq seed = cbq(rotated("q", {"--resume", "--rotation-seed", "1"}));
  EXPECT_NE(seed.code, 0);
  expect_in(seed.err, {"another run", "the model", "rotation_seed (0 there, 1 here)"});
  const RunOfCbq none = cbq(quantize("q", {"--resume"}));
  EXPECT_NE(none.code, 0);
  expect_in(none.err, {"another run", "rotation (r1_r2 there, none here)"});
  EXPECT_EQ(bytes_of(path("q/model.safetensors")), codes);
}

TEST_F(CliTest, AnAxisOfRotationsHasACellAndActivationsForEach) {
  const auto run = [&](const std::string& values) {
    return run_program("run_ablation", {"--model",
                                        model(),
                                        "--calibration",
                                        calibration(),
                                        "--texts",
                                        "a=" + test_tokens(),
                                        "b=" + test_tokens(),
                                        "--axis",
                                        values,
                                        "--segments",
                                        "6",
                                        "--segment-length",
                                        "12",
                                        "--epochs",
                                        "1",
                                        "--bits",
                                        "W4A4",
                                        "--method",
                                        "cbq_windows",
                                        "--device",
                                        "cpu",
                                        "--output",
                                        path("out")});
  };
  const RunOfCbq first = run("rotation=none,r1,r1_r2_r4");
  ASSERT_EQ(first.code, 0) << first.err;
  int64_t caches = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path("out")))
    caches += entry.path().extension() == ".h5";
  // Of each rotation: activations of the calibration, and the last residual stream of the text.
  EXPECT_EQ(caches, 6);
  const RunOfCbq again = run("rotation=none,r1,r1_r2_r4");
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(again.out, first.out);
  const RunOfCbq seeds = run("rotation_seed=0,1");
  ASSERT_EQ(seeds.code, 0) << seeds.err;
  expect_in(seeds.out, {"the same settings on this model"});  // nothing is rotated
  const RunOfCbq wrong = run("rotation=r9");
  EXPECT_NE(wrong.code, 0);
  expect_in(wrong.err, {"rotation", "r9"});
}

}  // namespace
}  // namespace cbq::test::test_rotation_runs
