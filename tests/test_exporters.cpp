// Every registered format: what is written depends on the result alone, not on the way to it.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "cbq/exporters/exporter.h"
#include "cbq/exporters/layer_parts.h"
#include "cbq/global_transforms.h"
#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "kernels/ops.h"
#include "nn/perplexity.h"
#include "tests/fixtures.h"
#include "tests/folder_tensors.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_exporters {
namespace {

namespace fs = std::filesystem;

/// A model of a family and how it is quantized.
struct Result {
  const char* family;
  const char* settings;
};

Settings settings_of(const Result& result) {
  Settings settings = method_settings("cbq_windows", 3, float_bits);
  settings.epochs = 1;
  apply_json(settings, nlohmann::json::parse(result.settings));
  return settings;
}

std::vector<std::vector<int32_t>> small_segments() {
  auto segments = tiny_segments(3, 8);
  for (auto& segment : segments) {
    for (int32_t& id : segment) id %= 32;
  }
  return segments;
}

std::unique_ptr<Transformer> quantized(const Result& result) {
  auto model = load_model(fixture(result.family), Dtype::f32, Device::cpu());
  const Settings settings = settings_of(result);
  apply_global_transforms(*model, settings);
  quantize(*model, small_segments(), settings, nullptr, {});
  return model;
}

std::map<std::string, std::string> files_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    files[entry.path().filename().string()] = bytes_of(entry.path());
  }
  return files;
}

class Exporters : public ::testing::TestWithParam<Result> {};

TEST_P(Exporters, WriteTheSameFromTheRunAndFromItsFolder) {
  const TemporaryFolder folder;
  const auto model = quantized(GetParam());
  const auto write = [&](const char* format, Transformer& from, const char* to, Dtype dtype,
                         bool sharded) {
    export_model(*exporters().make(format), from, {folder / to, dtype, sharded});
    return files_in(folder / to);
  };
  write(packed_format, *model, "whole", Dtype::f32, false);
  write(packed_format, *model, "shards", Dtype::f32, true);
  const ExportPlan plan = export_plan_of(folder / "whole");
  size_t written = 0;
  for (const std::string& name : exporters().names()) {
    const auto exporter = exporters().make(name);
    if (!exporter->obstacle(plan).empty()) continue;
    std::vector<Dtype> dtypes = exporter->dtypes();
    if (dtypes.empty()) dtypes.push_back(Dtype::f32);
    for (const Dtype dtype : dtypes) {
      SCOPED_TRACE(concat(name, " ", dtype));
      const auto loaded = load_quantized(folder / "whole", Dtype::f32, Device::cpu());
      const auto opened = open_quantized(folder / "shards", Dtype::f32, Device::cpu());
      const auto whole = write(name.c_str(), *model, "a", dtype, false);
      EXPECT_TRUE(write(name.c_str(), *loaded, "b", dtype, false) == whole);
      EXPECT_TRUE(write(name.c_str(), *opened, "c", dtype, false) == whole);
      const auto shards = write(name.c_str(), *model, "d", dtype, true);
      EXPECT_TRUE(write(name.c_str(), *opened, "e", dtype, true) == shards);
      EXPECT_FALSE(opened->is_loaded(0)) << "blocks stay in memory";
      if (shards.contains("model.gguf")) {  // one file in any case
        EXPECT_TRUE(shards == whole);
      } else {
        EXPECT_EQ(tensors_of(folder / "d"), tensors_of(folder / "a"));
      }
      EXPECT_EQ(shards.at("config.json"), whole.at("config.json"));
      for (const char* to : {"a", "b", "c", "d", "e"}) fs::remove_all(folder / to);
      ++written;
    }
  }
  EXPECT_GE(written, 1u);
}

// Scores of a run are those of its folder only where both compute the same.
TEST_P(Exporters, SayWhereTheFolderHasOtherDigits) {
  const TemporaryFolder folder;
  const auto model = quantized(GetParam());
  const ExportPlan plan =
      export_plan(ModelConfig::load(fixture(GetParam().family)), settings_of(GetParam()));
  const auto score = [](Transformer& m) { return perplexity(m, small_segments()).nll_sum; };
  // x T times W has other last digits than x times W T, though a model this small may hide them.
  const bool folds = plan.first_layer([](const PlannedLayer& l) { return l.online != ""; });
  EXPECT_EQ(exporters().make("dense")->rounds(plan, Dtype::f32, Dtype::f32), folds);
  for (const std::string& name : exporters().names()) {
    const auto exporter = exporters().make(name);
    if (!exporter->obstacle(plan).empty() || !exporter->is_read_here()) continue;
    SCOPED_TRACE(name);
    export_model(*exporter, *model, {folder / name, Dtype::f32, false});
    const auto read = load_any_model(folder / name, Dtype::f32, Device::cpu());
    if (!exporter->rounds(plan, Dtype::f32, Dtype::f32)) {
      EXPECT_EQ(score(*read), score(*model));
    } else {
      EXPECT_NEAR(score(*read), score(*model), 1e-3 * score(*model));
    }
  }
}

void expect_same(const ExportPlan& before, const ExportPlan& after) {
  ASSERT_EQ(before.layers.size(), after.layers.size());
  for (size_t i = 0; i < before.layers.size(); ++i) {
    const PlannedLayer &a = before.layers[i], &b = after.layers[i];
    SCOPED_TRACE(a.path);
    EXPECT_EQ(a.path, b.path);
    EXPECT_EQ(a.out, b.out);
    EXPECT_EQ(a.in, b.in);
    EXPECT_EQ(a.online, b.online);
    EXPECT_EQ(a.weight.quantizes(), b.weight.quantizes());
    if (a.weight.quantizes()) {
      EXPECT_EQ(a.weight.bits, b.weight.bits);
      EXPECT_EQ(a.weight.symmetric, b.weight.symmetric);
      EXPECT_EQ(a.weight.granularity, b.weight.granularity);
      EXPECT_EQ(a.weight.group_size, b.weight.group_size);
      EXPECT_EQ(a.weight.scale_type, b.weight.scale_type);
    }
    EXPECT_EQ(a.input.quantizes(), b.input.quantizes());
    if (a.input.quantizes()) {
      EXPECT_EQ(a.input.bits, b.input.bits);
      EXPECT_EQ(a.input.granularity, b.input.granularity);
      EXPECT_EQ(a.input.symmetric, b.input.symmetric);
      EXPECT_EQ(a.input.dynamic, b.input.dynamic);
      EXPECT_EQ(a.input.form, b.input.form);
      EXPECT_TRUE(a.clipped || !b.clipped);  // what is learned may end where it began
    }
  }
  EXPECT_EQ(before.attention.has_value(), after.attention.has_value());
  EXPECT_EQ(before.attention_online, after.attention_online);
  EXPECT_EQ(before.quantizes_activations(), after.quantizes_activations());
  EXPECT_EQ(before.model.architecture, after.model.architecture);
}

// What a format is asked before a run is what it would be asked after it.
TEST_P(Exporters, APlanBeforeTheRunIsThatOfItsFolder) {
  const TemporaryFolder folder;
  const auto model = quantized(GetParam());
  save_quantized(*model, folder / "q");
  expect_same(export_plan(ModelConfig::load(fixture(GetParam().family)), settings_of(GetParam())),
              export_plan_of(folder / "q"));
}

constexpr Result results[] = {
    {"llama", R"({})"},
    {"opt", R"({"wbits": 4, "granularity": "per_group", "group_size": 8, "symmetric": true})"},
    {"bloom", R"({"wbits": 2})"},
    {"qwen3", R"({"wbits": 8, "granularity": "per_tensor", "reconstruct": "none"})"},
    {"llama", R"({"rotation": "r1_r2_r4", "reconstruct": "none"})"},
    {"llama", R"({"rotation": "r4", "wbits": 2, "reconstruct": "none"})"},
    {"llama", R"({"rotation": "r4", "abits": 8, "quantize_attention": true,
                  "reconstruct": "none"})"},
    {"llama", R"({"rotation": "r3_r4", "abits": 8, "quantize_attention": true,
                  "reconstruct": "none"})"},
    {"llama", R"({"layer_bits": "down_proj=16,*.0.self_attn.*=5", "reconstruct": "none"})"},
    {"opt", R"({"abits": 8, "act_granularity": "per_tensor", "reconstruct": "none"})"},
    {"llama", R"({"wbits": 16, "abits": 8, "reconstruct": "none"})"},
    {"llama", R"({"wbits": 8, "symmetric": true, "abits": 8, "act_symmetric": true,
                  "act_symmetric_form": "full_range", "learn_activation": false})"},
    {"qwen2", R"({"wbits": 4, "abits": 8})"},
    {"llama", R"({"abits": 8, "preprocess": "omse", "reconstruct": "none"})"},
    {"llama", R"({"wbits": 4, "scale_type": "f16", "layer_bits": "down_proj=16"})"},
    {"mistral", R"({"wbits": 4, "scale_type": "e5m6", "symmetric": true,
                    "layer_bits": "mlp=16,k_proj=16,v_proj=16"})"},
    {"granite", R"({"wbits": 4, "reconstruct": "none"})"},
    {"smollm3", R"({"wbits": 3, "reconstruct": "none"})"},
    {"phi3", R"({"wbits": 4, "scale_type": "f16", "reconstruct": "none"})"},
    {"olmo2", R"({"wbits": 2, "reconstruct": "none"})"},
    {"gemma3", R"({"wbits": 4, "symmetric": true, "reconstruct": "none"})"},
    {"gemma2", R"({"wbits": 4, "reconstruct": "none"})"},
    {"gpt2", R"({"wbits": 4, "scale_type": "f16", "reconstruct": "none"})"},
    {"qwen3-moe", R"({"wbits": 4, "reconstruct": "none"})"},
    {"qwen3-moe-mixed", R"({"wbits": 4, "layer_bits": "mlp=16", "scale_type": "f16",
                            "reconstruct": "none"})"},
    {"stablelm-parallel", R"({"wbits": 8, "reconstruct": "none"})"},
    {"gpt-neox", R"({"wbits": 4, "granularity": "per_group", "group_size": 8,
                     "reconstruct": "none"})"}};

INSTANTIATE_TEST_SUITE_P(Results, Exporters, ::testing::ValuesIn(results));

TEST(ExporterNames, EveryFormatSaysWhatItIs) {
  for (const std::string& name : exporters().names()) {
    const auto exporter = exporters().make(name);
    EXPECT_EQ(exporter->name(), name);
    EXPECT_NE(formats_help().find(name + ": " + exporter->help()), std::string::npos);
    const std::vector<Dtype> dtypes = exporter->dtypes();
    EXPECT_EQ(std::set<Dtype>(dtypes.begin(), dtypes.end()).size(), dtypes.size());
  }
  for (const char* name : {"dense", "gguf", "gguf-dense", "gptq", "gptq_v2", "packed", "unpacked"})
    EXPECT_TRUE(exporters().has(name));
}

/// The matrices of a Conv1D are no linear layers to the programs that read codes.
TEST(ExporterNames, CodesOfGpt2AreRefusedBeforeTheRun) {
  Settings settings;
  settings.wbits = 4;
  settings.symmetric = true;
  settings.scale_type = "f16";
  const ExportPlan plan = export_plan(ModelConfig::load(fixture("gpt2")), settings);
  for (const char* format : {"compressed-tensors", "gptq", "gptq_v2", "auto_round", "awq"}) {
    expect_error<std::invalid_argument>(
        [&] { check_exportable(*exporters().make(format), plan, "--export"); },
        {format, "GPT2LMHeadModel", "attn.c_attn", "transposed", "dense"});
  }
  EXPECT_EQ(exporters().make("dense")->obstacle(plan), "");
}

TEST(ExporterNames, CodesOfExpertsAreRefusedBeforeTheRun) {
  Settings settings;
  settings.wbits = 4;
  settings.symmetric = true;
  settings.scale_type = "f16";
  const ExportPlan plan = export_plan(ModelConfig::load(fixture("qwen3-moe-mixed")), settings);
  EXPECT_EQ(plan.layers.size(), 4u + 3 * 5 + 7);
  for (const char* format : {"compressed-tensors", "gptq", "gptq_v2", "auto_round", "awq"}) {
    expect_error<std::invalid_argument>(
        [&] { check_exportable(*exporters().make(format), plan, "--export"); },
        {format, "Qwen3MoeForCausalLM", "experts", "fused", "dense"});
  }
  EXPECT_EQ(exporters().make("dense")->obstacle(plan), "");
}

/// "dense" writes GPT-2's matrices as transformers does, [in, out], whole and block by block.
TEST(DenseExport, TurnsTheMatricesOfGpt2) {
  const TemporaryFolder folder;
  const auto model = quantized({"gpt2", R"({"wbits": 4, "reconstruct": "none"})"});
  for (const bool sharded : {false, true}) {
    const fs::path to = folder / (sharded ? "shards" : "whole");
    export_model(*exporters().make("dense"), *model, {to, Dtype::f32, sharded});
    EXPECT_EQ(Checkpoint(to).info("transformer.h.0.attn.c_attn.weight").shape, (Shape{32, 96}));
    const auto again = load_model(to, Dtype::f32, Device::cpu());
    const ExpectedResults expected("gpt2");
    EXPECT_EQ(logits_of(*again, expected), logits_of(*model, expected));
  }
}

TEST(ExporterNames, AnObstacleNamesTheFormatsThatCanHoldTheResult) {
  Settings settings;
  settings.wbits = settings.abits = 4;
  const ExportPlan plan = export_plan(ModelConfig::load(fixture("llama")), settings);
  expect_error<std::invalid_argument>(
      [&] { check_exportable(*exporters().make("dense"), plan, "--export"); },
      {"--export dense", "activations would be lost", "fits into --export packed"});
  EXPECT_NO_THROW(check_exportable(*exporters().make(packed_format), plan, "--export"));
}

TEST(ExporterNames, OnlyTypesOfTheFormatAreTaken) {
  const auto dense = exporters().make("dense");
  EXPECT_EQ(export_dtype(*dense, "--dtype", ""), Dtype::f32);
  EXPECT_EQ(export_dtype(*dense, "--dtype", "bf16"), Dtype::bf16);
  for (const char* wrong : {"i32", "f64", "nonsense"}) {
    expect_error<std::invalid_argument>([&] { export_dtype(*dense, "--dtype", wrong); },
                                        {"--dtype", wrong, "f32, bf16 or f16"});
  }
}

// ---- docs/add-a-format.md ----------------------------------------------------------------------

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(FormatTutorial, WhatIsCompiledIsWhatThePageShows) {
  const std::string code = text_of(build_folder() / "tutorial/unpacked.cpp");
  ASSERT_NE(code.find("register_exporter"), std::string::npos);
  const std::string page = text_of(CBQ_SOURCE_DIR "/docs/add-a-format.md");
  EXPECT_NE(page.find(code), std::string::npos);
  EXPECT_LE(std::count(page.begin(), page.end(), '\n'), 90) << "a page";
}

/// The program cbq and that one file.
class FormatTutorialProgram : public CliTest {
 protected:
  static RunOfCbq run(const std::vector<std::string>& arguments) {
    return run_program("cbq_with_format", arguments);
  }
};

TEST_F(FormatTutorialProgram, OneFileIsAllThatBothCommandsNeed) {
  for (const char* command : {"quantize", "export"}) {
    const RunOfCbq help = run({command, "--help"});
    std::string words;  // whatever the lines' ends are
    std::istringstream in(help.out);
    for (std::string word; in >> word;) words += word + " ";
    expect_in(words, {"unpacked: one byte per code, for a look at the integers"});
  }
  const RunOfCbq direct = run(quantize("direct", {"--export", "unpacked"}));
  ASSERT_EQ(direct.code, 0) << direct.err;
  ASSERT_EQ(run(quantize("q")).code, 0);
  const RunOfCbq later =
      run({"export", path("q"), "--format", "unpacked", "--output", path("later")});
  ASSERT_EQ(later.code, 0) << later.err;
  for (const char* file : {"model.safetensors", "config.json", "recipe.json"}) {
    EXPECT_EQ(bytes_of(path(std::string("later/") + file)),
              bytes_of(path(std::string("direct/") + file)))
        << file;
  }
  // The codes are those of the run: s (q - z), in plain loops.
  const auto model = load_quantized(path("q"), Dtype::f32, Device::cpu());
  const SafetensorsFile file = SafetensorsFile::open(path("later/model.safetensors"));
  const std::string layer = "model.layers.1.mlp.down_proj";
  const auto weight = model->blocks[1]->linears().back().linear->weight.value().to_vector<float>();
  const auto q = file.load(layer + ".q").to_vector<float>();
  const auto s = file.load(layer + ".s").to_vector<float>();
  const auto z = file.load(layer + ".z").to_vector<float>();
  ASSERT_EQ(q.size(), weight.size());
  for (size_t i = 0; i < q.size(); ++i) {
    const size_t row = i / (q.size() / s.size());
    EXPECT_EQ(s[row] * (q[i] - z[row]), weight[i]) << i;
  }
}

TEST_F(FormatTutorialProgram, ItsObstacleIsFoundBeforeTheWork) {
  const auto before = listing();
  const RunOfCbq run_refused =
      run(quantize("q", {"--export", "unpacked", "--layer-bits", "down_proj=16"}));
  EXPECT_EQ(run_refused.code, 1);
  expect_in(run_refused.err,
            {"--export unpacked", "model.layers.0.mlp.down_proj has no codes", "dense or packed"});
  EXPECT_EQ(run_refused.err.find("calibration:"), std::string::npos) << run_refused.err;
  EXPECT_EQ(listing(), before);
  ASSERT_EQ(run(quantize("q", {"--layer-bits", "down_proj=16"})).code, 0);
  const auto with_result = listing();
  const RunOfCbq refused = run({"export", path("q"), "-f", "unpacked", "-o", path("o")});
  EXPECT_EQ(refused.code, 1);
  expect_in(refused.err,
            {"--format unpacked", "model.layers.0.mlp.down_proj has no codes", "dense or packed"});
  EXPECT_EQ(listing(), with_result);
}

TEST_F(FormatTutorialProgram, AFormatThatIsNotReadBackIsNotScoredAgain) {
  ASSERT_EQ(run(quantize("q", {"--export", "unpacked"})).code, 0);
  const RunOfCbq scored =
      run(quantize("q", {"--export", "unpacked", "--resume", "--evaluate", test_tokens()}));
  EXPECT_EQ(scored.code, 1);
  expect_in(scored.err, {"unpacked", "not read back", "packed"});
  EXPECT_EQ(run(quantize("q", {"--export", "unpacked", "--resume"})).code, 0);
  const RunOfCbq again = run({"export", path("q"), "-f", "dense", "-o", path("o")});
  EXPECT_EQ(again.code, 1);
  expect_in(again.err, {"format of \"unpacked\"", "--export packed"});
}

}  // namespace
}  // namespace cbq::test::test_exporters
