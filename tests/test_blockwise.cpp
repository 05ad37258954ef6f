// Blocks on demand: what is computed with one window of blocks in memory is, bit for bit, what the
// model in memory computes.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "cbq/exporters/exporter.h"
#include "cbq/job_identity.h"
#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "cbq/quantizers.h"
#include "nn/formats/json.h"
#include "nn/formats/sharded_writer.h"
#include "nn/perplexity.h"
#include "quant/transforms/local/statistics.h"
#include "tensor/runtime/device_memory.h"
#include "tensor/runtime/notice.h"
#include "tests/fixtures.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_blockwise {
namespace {

namespace fs = std::filesystem;

Device cpu() { return Device::cpu(); }

int64_t blocks_in_memory(const Transformer& model) {
  int64_t count = 0;
  for (int64_t b = 0; b < model.block_count(); ++b) count += model.is_loaded(b);
  return count;
}

/// Every tensor of a folder, of one file or many, as bytes; and its config.json.
std::map<std::string, std::string> contents_of(const fs::path& folder) {
  std::map<std::string, std::string> contents = {{"config", bytes_of(folder / "config.json")}};
  const Checkpoint checkpoint(folder);
  for (const std::string& name : checkpoint.names()) {
    const std::span<const std::byte> bytes = checkpoint.file_of(name).bytes(name);
    contents[name] = concat(checkpoint.info(name).dtype, to_string(checkpoint.info(name).shape)) +
                     std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return contents;
}

// ---- models -------------------------------------------------------------------------------------

class OnDemand : public ::testing::TestWithParam<std::string> {};

TEST_P(OnDemand, ComputesWhatTheModelInMemoryDoes) {
  const ExpectedResults expected(GetParam());
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const auto whole = load_model(fixture(GetParam()), dtype, cpu());
    const auto model = open_model(fixture(GetParam()), dtype, cpu());
    EXPECT_FALSE(whole->on_demand());
    EXPECT_TRUE(model->on_demand());
    NoGrad none;
    EXPECT_EQ(logits_of(*model, expected), logits_of(*whole, expected));
    EXPECT_EQ(blocks_in_memory(*model), 0);
    std::map<std::string, std::vector<double>> read, shown;
    read_parameters(*model, [&](const std::string& path, const Tensor& value) {
      read[path] = value.to_vector<double>();
      EXPECT_LE(blocks_in_memory(*model), 1);
    });
    int64_t bytes = 0;
    whole->visit("", [&](const std::string& path, Var& p) {
      shown[path] = p.value().to_vector<double>();
      bytes += p.value().bytes();
    });
    EXPECT_EQ(read, shown);
    EXPECT_EQ(parameter_bytes(*model), bytes);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, OnDemand, ::testing::ValuesIn(fixture_names()),
                         [](const auto& one) { return test_name(one.param); });

TEST(Blocks, WhatIsNotLoadedIsSaid) {
  const auto model = open_model(fixture("llama"), Dtype::f32, cpu());
  expect_error<std::invalid_argument>(
      [&] { model->block(1); }, {"block 1", "model.layers.1.", "not in memory", "load_block"});
  expect_error<std::invalid_argument>([&] { model->block(2); }, {"block 2", "2 blocks"});
  expect_error<std::invalid_argument>([&] { parameters_of(*model); }, {"block 0", "load_block"});
  model->load_block(1);
  EXPECT_TRUE(model->is_loaded(1));
  kernels::fill(model->block(1).linears()[0].linear->weight.value(), 7.0);
  {
    const LoadedBlock again(*model, 1);  // was there before, so it stays
  }
  EXPECT_EQ(model->block(1).linears()[0].linear->weight.value().to_vector<float>()[0], 7.0f);
  const auto fetched = model->fetch_block(1);  // as it is in the file
  EXPECT_NE(fetched->linears()[0].linear->weight.value().to_vector<float>()[0], 7.0f);
  model->release_block(1);
  EXPECT_FALSE(model->is_loaded(1));
  model->load_all_blocks();
  EXPECT_FALSE(model->on_demand());
  expect_error<std::invalid_argument>([&] { model->release_block(0); }, {"no file"});
}

/// As load_model says it, before any block is read.
TEST(Blocks, BrokenModelsAreRefusedWhenTheyAreOpened) {
  const TemporaryFolder folder;
  fs::copy(fixture("mistral"), folder.path(), fs::copy_options::recursive);
  const auto refused = [&](std::initializer_list<const char*> parts) {
    expect_error<std::runtime_error>([&] { open_model(folder.path(), Dtype::f32, cpu()); }, parts);
  };
  const fs::path middle = folder / "model-00002-of-00003.safetensors";
  fs::rename(middle, folder / "away");
  refused({"model-00002-of-00003.safetensors", "not there", "fetch the missing file"});
  fs::copy(folder / "away", middle);
  fs::resize_file(middle, fs::file_size(middle) - 1);
  refused({"model-00002-of-00003.safetensors", "MetadataIncompleteBuffer", "fetch it again"});
  fs::rename(folder / "away", middle);
  auto config = json_of(folder / "config.json");
  config["num_hidden_layers"] = 3;
  folder.write("config.json", config.dump());
  refused({"tensors are missing", "model.layers.2."});
  config["num_hidden_layers"] = 1;  // further layers are left alone, and said
  folder.write("config.json", config.dump());
  {
    const NoticeRecorder notices;
    EXPECT_EQ(open_model(folder.path(), Dtype::f32, cpu())->block_count(), 1);
    ASSERT_EQ(notices.lines().size(), 1u);
    EXPECT_NE(notices.lines()[0].find("model.layers.1."), std::string::npos) << notices.lines()[0];
  }
  config["num_hidden_layers"] = 2;
  config["intermediate_size"] = config["intermediate_size"].get<int>() + 1;
  folder.write("config.json", config.dump());
  refused({"wrong shape", "mlp.gate_proj"});
}

TEST(Blocks, IntegersAreNoWeights) {
  const TemporaryFolder folder;
  save_model(*tiny_model(), folder.path(), Dtype::f32);
  std::map<std::string, Tensor> tensors;
  {
    const SafetensorsFile file = SafetensorsFile::open(folder / "model.safetensors");
    for (const std::string& name : file.names()) tensors[name] = file.load(name);
  }
  Tensor& weight = tensors.at("model.layers.1.mlp.up_proj.weight");
  weight = Tensor::zeros(weight.shape(), Dtype::i32);
  write_safetensors(folder / "model.safetensors", tensors);
  expect_error<std::runtime_error>([&] { open_model(folder.path(), Dtype::f32, cpu()); },
                                   {"mlp.up_proj.weight", "i32", "quantized"});
}

TEST(Sharded, WritesWhatCheckpointsRead) {
  const TemporaryFolder folder;
  ShardedWriter writer(folder / "m", 2);
  writer.add({{"b", Tensor::from<float>({1, 2}, {2})}});
  EXPECT_THROW(writer.finish(), std::invalid_argument);
  EXPECT_THROW(writer.add({{"b", Tensor::from<float>({1}, {1})}}), std::invalid_argument);
  writer.add({{"a", Tensor::from<float>({3}, {1})}});
  EXPECT_THROW(writer.add({}), std::invalid_argument);
  EXPECT_FALSE(fs::exists(folder / "m/model.safetensors.index.json"));
  writer.finish();
  const Checkpoint checkpoint(folder / "m");
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(checkpoint.load("b").to_vector<float>(), (std::vector<float>{1, 2}));
  EXPECT_EQ(json_of(folder / "m/model.safetensors.index.json")["metadata"]["total_size"], 12);
  EXPECT_TRUE(fs::exists(folder / "m/model-00002-of-00002.safetensors"));
}

// ---- perplexity ---------------------------------------------------------------------------------

TEST(BlockwisePerplexity, EqualsTheModelInMemoryHoweverFewBatchesWait) {
  const TemporaryFolder folder;
  save_model(*tiny_model(tiny_config(5)), folder.path(), Dtype::f32);
  const auto whole = load_model(folder.path(), Dtype::f32, cpu());
  const auto model = open_model(folder.path(), Dtype::f32, cpu());
  std::vector<std::vector<int32_t>> segments = tiny_segments(9, 14);
  for (auto& segment : tiny_segments(4, 9, 3)) segments.push_back(segment);
  const PerplexityResult expected = perplexity(*whole, segments, 2);
  for (const int64_t waiting : {int64_t{0}, int64_t{1}, int64_t{4000}}) {
    int64_t calls = 0, most = 0, all = 0;
    PerplexityOptions options;
    options.waiting_bytes = waiting;
    options.progress = [&](int64_t done, int64_t total) {
      EXPECT_EQ(done, ++calls);
      all = total;
      most = std::max(most, blocks_in_memory(*model));
    };
    const PerplexityResult result = perplexity(*model, segments, 2, options);
    EXPECT_EQ(result.nll_sum, expected.nll_sum) << waiting;
    EXPECT_EQ(result.segment, expected.segment) << waiting;
    EXPECT_EQ(result.tokens, expected.tokens) << waiting;
    EXPECT_EQ(calls, all);
    EXPECT_EQ(most, 1);
    EXPECT_EQ(blocks_in_memory(*model), 0);
  }
}

TEST(BlockwiseStatistics, EqualThoseOfTheModelInMemory) {
  const auto whole = load_model(fixture("llama"), Dtype::f32, cpu());
  const auto model = open_model(fixture("llama"), Dtype::f32, cpu());
  std::vector<std::vector<int32_t>> segments = tiny_segments(4, 9);
  segments.push_back(tiny_segments(1, 5)[0]);
  for (auto& segment : segments) {
    for (int32_t& id : segment) id %= static_cast<int32_t>(model->config.vocab_size);
  }
  const CalibrationStatistics expected = collect_statistics(*whole, segments);
  const CalibrationStatistics statistics = collect_statistics(*model, segments);
  EXPECT_EQ(blocks_in_memory(*model), 0);
  for (int64_t b = 0; b < whole->block_count(); ++b) {
    for (const NamedLinear& l : whole->block(b).linears()) {
      const std::string path = whole->block_prefix(b) + l.name;
      EXPECT_EQ(statistics.of(path).abs_max, expected.of(path).abs_max) << path;
      EXPECT_EQ(statistics.of(path).sample.to_vector<float>(),
                expected.of(path).sample.to_vector<float>())
          << path;
    }
  }
}

// ---- quantization -------------------------------------------------------------------------------

Settings settings_of(const nlohmann::json& changes) {
  Settings s = method_settings("cbq_windows", 2, float_bits);
  s.epochs = 1;
  s.batch = 2;
  apply_json(s, changes);
  return s;
}

/// The quantized folder of the model in `from`, written block by block.
void quantize_blockwise(const fs::path& from, const fs::path& to, const Settings& settings,
                        const std::vector<std::vector<int32_t>>& segments, RunHooks hooks = {},
                        int64_t most_blocks = 0) {
  const auto model = open_model(from, Dtype::f32, cpu());
  const std::unique_ptr<Exporter> writer = exporters().make(packed_format);
  writer->begin(*model, {to, Dtype::f32, true});
  int64_t next = 0;
  hooks.keep_block = [&](int64_t b) {
    EXPECT_EQ(b, next++);
    if (most_blocks > 0) {
      EXPECT_LE(blocks_in_memory(*model), most_blocks);
    }
    writer->add_block(b);
  };
  quantize(*model, segments, settings, nullptr, hooks);
  writer->finish();
  EXPECT_EQ(next, model->block_count());
  EXPECT_EQ(blocks_in_memory(*model), 0);
}

void quantize_whole(const fs::path& from, const fs::path& to, const Settings& settings,
                    const std::vector<std::vector<int32_t>>& segments, const RunHooks& hooks = {}) {
  const auto model = load_model(from, Dtype::f32, cpu());
  quantize(*model, segments, settings, nullptr, hooks);
  save_quantized(*model, to);
}

class BlockwiseQuantization : public ::testing::TestWithParam<const char*> {};

TEST_P(BlockwiseQuantization, EndsInTheSameTensors) {
  const TemporaryFolder folder;
  save_model(*tiny_model(tiny_config(5)), folder / "m", Dtype::f32);
  const Settings settings = settings_of(nlohmann::json::parse(GetParam()));
  const auto segments = tiny_segments(5, 12);
  quantize_whole(folder / "m", folder / "whole", settings, segments);
  quantize_blockwise(folder / "m", folder / "q", settings, segments, {}, 3);
  EXPECT_EQ(contents_of(folder / "q"), contents_of(folder / "whole"));
  // The sharded folder is a model like any other.
  const auto model = open_any_model(folder / "q", Dtype::f32, cpu());
  const auto whole = load_any_model(folder / "whole", Dtype::f32, cpu());
  const auto test = tiny_segments(3, 14, 8);
  EXPECT_EQ(perplexity(*model, test).nll_sum, perplexity(*whole, test).nll_sum);
  save_quantized(*model, folder / "again");
  EXPECT_EQ(contents_of(folder / "again"), contents_of(folder / "whole"));
  EXPECT_EQ(bytes_of(folder / "again/model-00003-of-00006.safetensors"),
            bytes_of(folder / "q/model-00003-of-00006.safetensors"));
  save_dense(*model, folder / "dense", Dtype::bf16);
  save_dense(*whole, folder / "dense_whole", Dtype::bf16);
  EXPECT_EQ(contents_of(folder / "dense"), contents_of(folder / "dense_whole"));
}

INSTANTIATE_TEST_SUITE_P(
    Settings, BlockwiseQuantization,
    ::testing::Values(R"({})", R"({"window": 3, "overlap": 2, "rounding": "lora_rounding"})",
                      R"({"schedule": "0-2,1,1-2,3-4", "homologous": true})",
                      R"({"abits": 4, "quantize_attention": true})", R"({"reconstruct": "none"})",
                      R"({"abits": 8, "act_granularity": "per_tensor", "act_dynamic": false})",
                      R"({"abits": 8, "act_granularity": "per_tensor", "act_dynamic": false,
            "reconstruct": "none"})",
                      R"({"abits": 4, "preprocess": "cfp_weight_activation", "homologous": true})",
                      R"({"solver": "gptq", "reconstruct": "none"})",
                      R"({"solver": "gptaq", "reconstruct": "none"})",
                      R"({"solver": "gptaq", "window": 3, "overlap": 2})",
                      R"({"solver": "gptq", "homologous": true, "window": 3, "overlap": 2})",
                      R"({"abits": 6, "preprocess": "outliers:2x8+smoothquant+omse"})",
                      R"({"abits": 4, "preprocess": "outlier_suppression", "reconstruct": "none"})",
                      R"({"abits": 4, "preprocess": "percentile+outlier_suppression_plus",
            "layer_bits": "down_proj=16", "window": 1, "overlap": 0})",
                      R"({"abits": 8, "preprocess": "reorder:4,2", "act_granularity": "per_cluster",
            "homologous": true})",
                      R"({"abits": 4, "preprocess": "channel_assembly", "homologous": true})"));

class BlockwiseFamilies : public ::testing::TestWithParam<std::string> {};

TEST_P(BlockwiseFamilies, EndInTheSameTensors) {
  const TemporaryFolder folder;
  const Settings settings = settings_of({{"window", 1},
                                         {"overlap", 0},
                                         {"abits", 8},
                                         {"preprocess", "cfp_weight_activation+smoothquant"}});
  const auto segments = tiny_segments(4, 10);
  quantize_whole(fixture(GetParam()), folder / "whole", settings, segments);
  quantize_blockwise(fixture(GetParam()), folder / "q", settings, segments, {}, 1);
  EXPECT_EQ(contents_of(folder / "q"), contents_of(folder / "whole"));
}

INSTANTIATE_TEST_SUITE_P(Families, BlockwiseFamilies, ::testing::ValuesIn(fixture_names()),
                         [](const auto& one) { return test_name(one.param); });

TEST(Blockwise, AnInterruptedRunGoesOnEitherWay) {
  const TemporaryFolder folder;
  save_model(*tiny_model(tiny_config(5)), folder / "m", Dtype::f32);
  const auto segments = tiny_segments(6, 12);
  for (const char* changes :
       {R"({})", R"({"abits": 4, "preprocess": "smoothquant", "homologous": true})",
        R"({"solver": "gptq", "rounding": "adaround"})"}) {
    const Settings settings = settings_of(nlohmann::json::parse(changes));
    quantize_whole(folder / "m", folder / "expected", settings, segments);
    for (const bool starts_whole : {false, true}) {
      for (const bool ends_whole : {false, true}) {
        SCOPED_TRACE(concat(changes, starts_whole, ends_whole));
        RunHooks hooks;
        hooks.resume_folder = folder / "state";
        bool stop = false;  // in the third of four windows
        hooks.progress = [&](int64_t done, int64_t, const std::string&) { stop = done >= 8; };
        hooks.interrupted = [&] { return stop; };
        const auto run = [&](bool whole, const fs::path& to) {
          if (whole) return quantize_whole(folder / "m", to, settings, segments, hooks);
          quantize_blockwise(folder / "m", to, settings, segments, hooks);
        };
        EXPECT_THROW(run(starts_whole, folder / "no"), Interrupted);
        hooks.interrupted = nullptr;
        hooks.progress = nullptr;
        int resumed = 0;
        hooks.say = [&](const std::string& line) { resumed += line.starts_with("resumed after"); };
        run(ends_whole, folder / "q");
        EXPECT_EQ(resumed, 1);
        EXPECT_EQ(contents_of(folder / "q"), contents_of(folder / "expected"));
        fs::remove_all(folder / "state");
        fs::remove_all(folder / "no");
        fs::remove_all(folder / "q");
      }
    }
    fs::remove_all(folder / "expected");
  }
}

TEST(Blockwise, CachedActivationsOfEitherServeTheOther) {
  const TemporaryFolder folder;
  save_model(*tiny_model(tiny_config(3)), folder / "m", Dtype::f32);
  const auto whole = load_model(folder / "m", Dtype::f32, cpu());
  const auto model = open_model(folder / "m", Dtype::f32, cpu());
  const auto segments = tiny_segments(4, 12);
  EXPECT_EQ(digest_of(*model), digest_of(*whole));
  const auto a = cache_in_memory(*whole, segments), b = cache_in_memory(*model, segments);
  const auto rolling = cache_on_the_way(*model, segments, {3, 1, 3, 0});
  EXPECT_EQ(rolling->boundaries(), 4);
  for (const int64_t boundary : {3, 1, 3, 0}) {
    const auto expected = a->get(boundary, 1, 4).to_vector<float>();
    EXPECT_EQ(b->get(boundary, 1, 4).to_vector<float>(), expected);
    EXPECT_EQ(rolling->get(boundary, 1, 4).to_vector<float>(), expected) << boundary;
  }
  EXPECT_THROW(rolling->get(2, 0, 1), std::out_of_range);
}

TEST(Blockwise, BlocksThatNobodyWritesAreRefused) {
  const auto model = open_model(fixture("llama"), Dtype::f32, cpu());
  expect_error<std::invalid_argument>(
      [&] {
        quantize(*model, tiny_segments(4, 10), settings_of(nlohmann::json::object()), nullptr, {});
      },
      {"keep_block"});
}

// ---- memory -------------------------------------------------------------------------------------

TEST(Memory, WhatIsFreeAndWhatWasTaken) {
  const DeviceMemory memory = device_memory(cpu());
  EXPECT_GT(memory.free, int64_t{1} << 20);
  EXPECT_LE(memory.free, memory.total);
  EXPECT_LT(memory.total, int64_t{1} << 50);
  const int64_t before = peak_resident_bytes();
  EXPECT_GT(before, int64_t{1} << 20);
  const int64_t size = before + (int64_t{32} << 20);
  {
    const Tensor large({size}, Dtype::u8);
    large.fill_zero();
  }
  release_cached(cpu());
  EXPECT_GE(peak_resident_bytes(), size);
}

/// Resident pages of files (also of those that are in memory themselves), of this process.
int64_t resident_file_bytes() {
  std::ifstream status("/proc/self/status");
  int64_t bytes = 0;
  for (std::string line; std::getline(status, line);) {
    for (const char* key : {"RssFile:", "RssShmem:"}) {
      if (line.starts_with(key)) bytes += std::stoll(line.substr(std::strlen(key))) * 1024;
    }
  }
  return bytes;
}

TEST(Memory, PagesOfACheckpointAreGivenBackOnceRead) {
  const TemporaryFolder folder;
  constexpr int64_t mib = int64_t{1} << 20;
  const Tensor tensor = Tensor::zeros({40 * mib}, Dtype::u8);
  write_safetensors(folder / "model.safetensors", {{"a", tensor}, {"b", tensor}});
  const Checkpoint checkpoint(folder.path());
  const int64_t before = resident_file_bytes();
  for (const char* name : {"a", "b"}) {
    checkpoint.load(name);
    EXPECT_LT(resident_file_bytes() - before, 2 * mib) << name;
  }
  // The measure sees pages that stay.
  const auto bytes = checkpoint.file_of("a").bytes("a");
  int64_t sum = 0;
  for (size_t at = 0; at < bytes.size(); at += 4096) sum += static_cast<int64_t>(bytes[at]);
  EXPECT_EQ(sum, 0);
  EXPECT_GT(resident_file_bytes() - before, 30 * mib);
}

}  // namespace
}  // namespace cbq::test::test_blockwise
