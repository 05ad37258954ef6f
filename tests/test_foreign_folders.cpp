// Model folders as other tools write them: what transformers reads is read, and what is left out is
// named. Values are those of transformers (tools/fixtures/score_folders.py, and the fixtures').
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "autograd/functions.h"
#include "nn/formats/json.h"
#include "nn/formats/safetensors.h"
#include "tensor/runtime/notice.h"
#include "tests/fixtures.h"
#include "tests/test_data.h"

namespace cbq::test::test_foreign_folders {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// Expects exactly one notice, with every one of `parts`.
void expect_notice(const NoticeRecorder& notices, std::initializer_list<const char*> parts) {
  const std::vector<std::string> lines = notices.lines();
  ASSERT_EQ(lines.size(), 1u) << (lines.empty() ? "" : lines.back());
  for (const char* part : parts) {
    EXPECT_NE(lines[0].find(part), std::string::npos) << part << "\n" << lines[0];
  }
}

void expect_no_notice(const NoticeRecorder& notices) {
  const std::vector<std::string> lines = notices.lines();
  EXPECT_TRUE(lines.empty()) << lines.front();
}

/// A copy of a fixture that a test changes before it is loaded.
class ForeignFolder : public ::testing::Test {
 protected:
  void use(const std::string& name) {
    name_ = name;
    config_ = read_json_file(fixture(name) / "config.json");
    const Checkpoint good(fixture(name));
    for (const std::string& tensor : good.names()) tensors_[tensor] = good.load(tensor);
  }
  void rename_all(const std::string& prefix) {
    std::map<std::string, Tensor> renamed;
    for (auto& [name, tensor] : tensors_) {
      renamed[name.starts_with(prefix) ? name.substr(prefix.size()) : name] = tensor;
    }
    tensors_ = renamed;
  }
  fs::path written() {
    fs::create_directories(folder_ / "m");
    folder_.write("m/config.json", config_.dump());
    write_safetensors(folder_ / "m/model.safetensors", tensors_);
    return folder_ / "m";
  }
  std::unique_ptr<Transformer> loaded() { return load_model(written(), Dtype::f32, Device::cpu()); }
  std::vector<double> logits() {
    const ExpectedResults expected(name_);
    return logits_of(*loaded(), expected);
  }
  void expect_logits_of_transformers() {
    const auto want = ExpectedResults(name_).file.load("logits_f32").to_vector<double>();
    EXPECT_LE(relative_distance(logits(), want), 1e-5);
  }

  TemporaryFolder folder_;
  std::string name_;
  json config_;
  std::map<std::string, Tensor> tensors_;
};

TEST_F(ForeignFolder, TensorsWithoutThePrefixOfTheBody) {
  for (const char* name :
       {"llama", "mistral", "qwen2", "qwen3", "opt", "bloom-6-heads", "granite", "phi3", "olmo2"}) {
    SCOPED_TRACE(name);
    tensors_.clear();
    use(name);
    rename_all(config_["architectures"][0] == "BloomForCausalLM" ? "transformer." : "model.");
    const NoticeRecorder notices;
    expect_logits_of_transformers();
    expect_no_notice(notices);
  }
}

TEST_F(ForeignFolder, ATiedHeadThatDiffersIsUsed) {
  use("llama");  // with a head of its own, whatever config.json says
  config_["tie_word_embeddings"] = true;
  const NoticeRecorder notices;
  const auto model = loaded();
  EXPECT_FALSE(model->config.tie_word_embeddings);
  EXPECT_EQ(model->config.to_json().at("tie_word_embeddings"), false);
  expect_notice(notices, {"m: ", "lm_head.weight", "differs from model.embed_tokens.weight",
                          "\"tie_word_embeddings\": false"});
  const NoticeRecorder others;
  expect_logits_of_transformers();
}

TEST_F(ForeignFolder, ATiedHeadThatDiffersIsUsedInEveryFamily) {
  const std::map<std::string, std::string> embeddings = {
      {"gpt-neox", "gpt_neox.embed_in.weight"},
      {"opt", "model.decoder.embed_tokens.weight"},
      {"opt-post-norm", "decoder.embed_tokens.weight"},
      {"bloom", "word_embeddings.weight"},
      {"qwen2", "model.embed_tokens.weight"}};
  for (const auto& [name, embedding] : embeddings) {
    SCOPED_TRACE(name);
    tensors_.clear();
    use(name);
    std::vector<float> head = tensors_.at(embedding).to_vector<float>();
    for (size_t i = 0; i < head.size(); ++i) head[i] += static_cast<float>(i % 7) / 8.0f;
    const std::string own = name == "gpt-neox" ? "embed_out.weight" : "lm_head.weight";
    tensors_[own] = Tensor::from(head, tensors_.at(embedding).shape(), Dtype::f16);
    const NoticeRecorder notices;
    config_["tie_word_embeddings"] = true;
    const std::vector<double> tied = logits();
    expect_notice(notices, {(own + " differs from").c_str()});
    config_["tie_word_embeddings"] = false;
    EXPECT_EQ(tied, logits());
    EXPECT_EQ(notices.lines().size(), 1u);
  }
}

TEST_F(ForeignFolder, ATiedHeadThatIsTheEmbeddingIsNoNews) {
  use("qwen2");
  tensors_["lm_head.weight"] = tensors_.at("model.embed_tokens.weight");
  const NoticeRecorder notices;
  expect_logits_of_transformers();
  // The same values in another dtype are the same head.
  const Tensor embedding = tensors_.at("model.embed_tokens.weight");
  tensors_["lm_head.weight"] =
      Tensor::from(embedding.to_vector<float>(), embedding.shape(), Dtype::f32);
  EXPECT_TRUE(loaded()->config.tie_word_embeddings);
  expect_no_notice(notices);
}

TEST_F(ForeignFolder, ATiedModelOfWhichOnlyTheHeadIsStored) {
  for (const auto& [name, embedding] :
       std::map<std::string, std::string>{{"qwen2", "model.embed_tokens.weight"},
                                          {"opt", "model.decoder.embed_tokens.weight"},
                                          {"bloom", "word_embeddings.weight"}}) {
    SCOPED_TRACE(name);
    tensors_.clear();
    use(name);
    auto node = tensors_.extract(embedding);
    ASSERT_FALSE(node.empty());
    node.key() = "lm_head.weight";
    tensors_.insert(std::move(node));
    const NoticeRecorder notices;
    expect_logits_of_transformers();
    expect_no_notice(notices);
    config_["tie_word_embeddings"] = false;
    expect_error<std::runtime_error>([&] { loaded(); }, {"missing", "embed"});
  }
}

TEST_F(ForeignFolder, AHeadThatIsMissingIsNotTheEmbeddingUnasked) {
  use("qwen2");
  config_["tie_word_embeddings"] = false;
  expect_error<std::runtime_error>([&] { loaded(); },
                                   {"missing: lm_head.weight", "\"tie_word_embeddings\": true"});
}

TEST_F(ForeignFolder, TensorsThatTheModelDoesNotHaveAreNamed) {
  use("llama");
  const Tensor some = Tensor::zeros({3}, Dtype::i32);
  for (const char* name :
       {"v_head.summary.weight", "model.layers.0.self_attn.rotary_emb.cos_cached",
        "model.layers.0.self_attn.masked_bias"}) {
    tensors_[name] = some;
  }
  {
    const NoticeRecorder notices;
    expect_logits_of_transformers();
    expect_notice(
        notices, {"m: ", "LlamaForCausalLM", "v_head.summary.weight", "cos_cached", "masked_bias"});
  }
  for (int i = 2; i < 40; ++i) {  // more layers than config.json says
    tensors_[concat("model.layers.", i, ".input_layernorm.weight")] = some;
  }
  tensors_["mtp.fc.weight"] = some;
  const NoticeRecorder notices;
  expect_logits_of_transformers();
  expect_notice(notices, {"model.layers.10.input_layernorm.weight", "(42 in all)"});
  EXPECT_LT(notices.lines()[0].size(), 600u);
}

TEST_F(ForeignFolder, CachedFrequenciesAreNoNews) {
  use("llama");
  tensors_["model.layers.0.self_attn.rotary_emb.inv_freq"] = Tensor::zeros({4}, Dtype::f32);
  const NoticeRecorder notices;
  expect_logits_of_transformers();
  expect_no_notice(notices);
}

TEST_F(ForeignFolder, RopeScalingCountsBesideRopeParameters) {
  use("llama-linear-rope");
  config_["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  ASSERT_TRUE(config_["rope_scaling"].is_object());
  const NoticeRecorder notices;
  const auto model = loaded();
  expect_notice(notices, {"config.json", "rope_scaling", "rope_parameters", "linear"});
  // What is written says it once, so that every reader takes the same.
  const json written = model->config.to_json();
  EXPECT_FALSE(written.contains("rope_scaling"));
  EXPECT_EQ(written.at("rope_parameters").at("rope_type"), "linear");
  EXPECT_EQ(written.at("rope_parameters").at("factor"), 2.0);
  EXPECT_EQ(written.at("rope_parameters").at("rope_theta"), 10000.0);
  const NoticeRecorder later;
  expect_logits_of_transformers();
  config_ = written;
  expect_logits_of_transformers();
}

TEST_F(ForeignFolder, LiteralsDuplicatesAndSeveralArchitectures) {
  use("llama");
  config_["architectures"] = {"SomethingForCausalLM", "LlamaForCausalLM", "LlamaModel"};
  written();
  std::string text = config_.dump();
  text.back() = ',';
  text += R"("num_hidden_layers": 2, "initializer_range": NaN, "x": [-Infinity, {"y": Infinity}],)"
          R"("hidden_size": 99, "dtype": "auto", "hidden_size": 32})";
  folder_.write("m/config.json", text);
  const NoticeRecorder notices;
  const auto model = load_model(folder_ / "m", Dtype::f32, Device::cpu());
  const auto want = ExpectedResults(name_).file.load("logits_f32").to_vector<double>();
  EXPECT_LE(relative_distance(logits_of(*model, ExpectedResults(name_)), want), 1e-5);
  EXPECT_EQ(model->config.dtype, "f16") << "auto: what the tensors are";
  EXPECT_FALSE(model->config.to_json().contains("initializer_range"));
  const std::vector<std::string> lines = notices.lines();
  EXPECT_EQ(std::count_if(lines.begin(), lines.end(),
                          [](const auto& l) { return l.find("hidden_size") != l.npos; }),
            2)
      << "32 -> 99 -> 32";
}

TEST_F(ForeignFolder, AForeignQuantizationSectionIsNamed) {
  use("llama");
  config_["quantization_config"] = {{"quant_method", "bitsandbytes"}, {"load_in_8bit", true}};
  const NoticeRecorder notices;
  expect_logits_of_transformers();
  expect_notice(notices, {"quantization_config", "bitsandbytes", "ignored"});
}

// ---- sizes that only config.json claims ---------------------------------------------------------

TEST_F(ForeignFolder, NothingIsAllocatedForSizesThatTheFileDenies) {
  const int64_t huge = int64_t{1} << 26;
  const std::vector<std::pair<std::string, json>> sizes = {
      {"llama", {{"vocab_size", huge}}},
      {"llama", {{"hidden_size", huge}}},
      {"llama", {{"intermediate_size", huge}}},
      {"llama", {{"head_dim", huge}}},
      {"mistral", {{"num_attention_heads", huge}}},
      {"opt", {{"vocab_size", huge}}},
      {"opt", {{"max_position_embeddings", huge}}},
      {"opt", {{"ffn_dim", huge}}},
      {"bloom", {{"vocab_size", huge}}},
      {"bloom", {{"n_embed", huge}, {"num_attention_heads", huge}}},
      {"phi3", {{"intermediate_size", huge}}},
      {"phi3", {{"head_dim", huge}}},
      {"olmo2", {{"head_dim", huge}}},
      {"gemma3", {{"num_attention_heads", huge}}},
      {"gemma2", {{"head_dim", huge}}},
      {"qwen3-moe", {{"moe_intermediate_size", huge}}},
      {"gpt2", {{"n_inner", huge}}},
      {"gpt2", {{"n_positions", huge}}},
      {"gpt-neox", {{"vocab_size", huge}}},
      {"gpt-neox", {{"intermediate_size", huge}}}};
  for (const auto& [name, changes] : sizes) {
    SCOPED_TRACE(name + " " + changes.dump());
    tensors_.clear();
    use(name);
    config_.update(changes);
    written();
    reset_peak(Device::cpu());
    const int64_t before = memory_statistics(Device::cpu()).peak_bytes;
    const std::string message = error_of([&] { loaded(); });
    EXPECT_NE(message.find("wrong shape"), std::string::npos) << message;
    EXPECT_LT(memory_statistics(Device::cpu()).peak_bytes - before, 1 << 20);
  }
}

TEST_F(ForeignFolder, RotaryTablesAreMadeForTheLengthInUse) {
  use("llama");
  config_["max_position_embeddings"] = int64_t{1} << 26;
  reset_peak(Device::cpu());
  const int64_t before = memory_statistics(Device::cpu()).peak_bytes;
  expect_logits_of_transformers();
  EXPECT_LT(memory_statistics(Device::cpu()).peak_bytes - before, 8 << 20);
}

// ---- shards -------------------------------------------------------------------------------------

class ForeignShards : public ForeignFolder {
 protected:
  void SetUp() override {
    use("llama");
    written();
    fs::remove(folder_ / "m/model.safetensors");
    std::map<std::string, Tensor> parts[2];
    for (const auto& [name, tensor] : tensors_) {
      const size_t i = name.find(".1.") == std::string::npos ? 0 : 1;
      parts[i][name] = tensor;
      map_[name] = concat("part-", i, ".safetensors");
    }
    write_safetensors(folder_ / "m/part-0.safetensors", parts[0]);
    write_safetensors(folder_ / "m/part-1.safetensors", parts[1]);
  }
  void write_index() {
    folder_.write("m/model.safetensors.index.json", json{{"weight_map", map_}}.dump());
  }
  void expect_loads() {
    write_index();
    const ExpectedResults expected(name_);
    const auto model = load_model(folder_ / "m", Dtype::f32, Device::cpu());
    EXPECT_LE(relative_distance(logits_of(*model, expected),
                                expected.file.load("logits_f32").to_vector<double>()),
              1e-5);
  }
  std::map<std::string, std::string> map_;
  const std::string norm_ = "model.layers.1.input_layernorm.weight";
};

TEST_F(ForeignShards, ATensorThatTheIndexForgotIsFound) {
  map_.erase(norm_);
  const NoticeRecorder notices;
  expect_loads();
  expect_no_notice(notices);
}

TEST_F(ForeignShards, ATensorInAnotherShardThanTheIndexSaysIsFound) {
  map_[norm_] = "part-0.safetensors";
  const NoticeRecorder notices;
  expect_loads();
  expect_no_notice(notices);
}

TEST_F(ForeignShards, AnEntryOfTheIndexThatNoModelNeedsIsNoFault) {
  map_["model.layers.0.self_attn.rotary_emb.inv_freq"] = "part-0.safetensors";
  expect_loads();
}

TEST_F(ForeignShards, AMissingTensorThatTheIndexListsIsExplained) {
  auto without = SafetensorsFile::open(folder_ / "m/part-1.safetensors");
  std::map<std::string, Tensor> kept;
  for (const std::string& name : without.names()) {
    if (name != norm_) kept[name] = without.load(name);
  }
  write_safetensors(folder_ / "m/part-1.safetensors", kept);
  write_index();
  expect_error<std::runtime_error>(
      [&] { load_model(folder_ / "m", Dtype::f32, Device::cpu()); },
      {"missing", norm_.c_str(), "index says", "part-1.safetensors", "does not have it"});
}

TEST_F(ForeignShards, OfATensorInTwoShardsTheOneOfTheIndexCounts) {
  const auto first = SafetensorsFile::open(folder_ / "m/part-0.safetensors");
  std::map<std::string, Tensor> more;
  for (const std::string& name : first.names()) more[name] = first.load(name);
  more[norm_] = tensors_.at(norm_);
  write_safetensors(folder_ / "m/part-0.safetensors", more);
  {
    const NoticeRecorder notices;
    expect_loads();
    expect_no_notice(notices);  // the same bytes
  }
  more[norm_] = Tensor::zeros(tensors_.at(norm_).shape(), Dtype::f16);
  write_safetensors(folder_ / "m/part-0.safetensors", more);
  const NoticeRecorder notices;
  expect_loads();
  expect_notice(notices,
                {norm_.c_str(), "two files", "part-0", "part-1.safetensors, which is used"});
  map_.erase(norm_);
  write_index();
  expect_error<std::runtime_error>([&] { load_model(folder_ / "m", Dtype::f32, Device::cpu()); },
                                   {norm_.c_str(), "two files", "part-0", "part-1"});
}

TEST_F(ForeignShards, OfATensorInThreeShardsTheOneOfTheIndexCounts) {
  const std::map<std::string, Tensor> zeros = {
      {norm_, Tensor::zeros(tensors_.at(norm_).shape(), Dtype::f16)}};
  const std::vector<float> twos(static_cast<size_t>(tensors_.at(norm_).count()), 2.0f);
  const std::map<std::string, Tensor> others = {
      {norm_, Tensor::from(twos, tensors_.at(norm_).shape(), Dtype::f16)}};
  write_safetensors(folder_ / "m/part-2.safetensors", zeros);
  write_safetensors(folder_ / "m/part-3.safetensors", others);
  write_safetensors(folder_ / "m/part-4.safetensors", {{norm_, tensors_.at(norm_)}});
  for (const char* name : {"part-2", "part-3", "part-4"}) {
    map_[std::string("unknown.") + name] = std::string(name) + ".safetensors";
  }
  const auto in_shard = [&](const char* listed) {
    map_[norm_] = listed;
    write_index();
    const NoticeRecorder notices;
    const Tensor found = Checkpoint(folder_ / "m").load(norm_);
    EXPECT_FALSE(notices.lines().empty());
    for (const std::string& line : notices.lines()) {
      EXPECT_NE(line.find(std::string(listed) + ", which is used"), std::string::npos) << line;
    }
    return found.to_vector<double>();
  };
  const std::vector<double> right = in_shard("part-1.safetensors");
  EXPECT_EQ(right, tensors_.at(norm_).to_vector<double>());
  EXPECT_EQ(in_shard("part-2.safetensors"), zeros.at(norm_).to_vector<double>());
  EXPECT_EQ(in_shard("part-3.safetensors"), others.at(norm_).to_vector<double>());
  EXPECT_EQ(in_shard("part-4.safetensors"), right);
  map_.erase(norm_);
  write_index();
  expect_error<std::runtime_error>([&] { Checkpoint checkpoint(folder_ / "m"); },
                                   {norm_.c_str(), "does not say which counts"});
}

TEST_F(ForeignShards, SingleFileIsPreferredToIndexWithANotice) {
  write_index();
  write_safetensors(folder_ / "m/model.safetensors", tensors_);
  const NoticeRecorder notices;
  expect_loads();
  expect_notice(notices, {"has both", "model.safetensors is used"});
}

// ---- folders that once failed -------------------------------------------------------------------

struct Case {
  const char* name;
  double nll;                  // of transformers
  std::array<double, 3> last;  // logits of the last position
  std::vector<const char*> notice;
};

class Cases : public ::testing::TestWithParam<Case> {};

TEST_P(Cases, AreReadAsTransformersReadsThem) {
  SKIP_WITHOUT_TEST_DATA();
  const Case& one = GetParam();
  const fs::path folder = test_data() / "cases" / one.name;
  if (!fs::exists(folder)) GTEST_SKIP() << "no " << folder.string();
  const NoticeRecorder notices;
  const auto model = load_model(folder, Dtype::f32, Device::cpu());
  std::vector<int32_t> in, out;
  for (int64_t i = 0; i < 24; ++i) {
    in.push_back(static_cast<int32_t>((7 * i + 3) % model->config.vocab_size));
    out.push_back(static_cast<int32_t>((7 * i + 10) % model->config.vocab_size));
  }
  const Var logits = model->forward(Tensor::from(in, {24}), {1, 24});
  EXPECT_NEAR(ag::cross_entropy(logits, Tensor::from(out, {24})).value().item(), one.nll,
              1e-5 * one.nll);
  const std::vector<double> all = logits.value().to_vector<double>();
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(all[all.size() - static_cast<size_t>(model->config.vocab_size) + i], one.last[i],
                1e-4);
  }
  const std::vector<std::string> lines = notices.lines();
  ASSERT_EQ(lines.size(), one.notice.empty() ? 0u : 1u);
  for (const char* part : one.notice) {
    EXPECT_NE(lines[0].find(part), std::string::npos) << part << "\n" << lines[0];
  }
}

INSTANTIATE_TEST_SUITE_P(
    ForeignFolders, Cases,
    ::testing::ValuesIn(std::vector<Case>{
        {"rope-scaling-beside-rope-parameters",
         15.696584988,
         {3.360992, -2.610907, 1.19268},
         {"rope_scaling", "rope_parameters"}},
        {"tied-but-head-differs",
         14.100805281,
         {-3.302094, 2.881385, -5.748024},
         {"lm_head.weight differs"}},
        {"tied-but-head-differs-opt",
         10.897037312,
         {-6.682678, -1.989547, -3.41138},
         {"lm_head.weight differs"}},
        {"tied-only-head-stored", 12.30982703, {-6.812526, 2.199028, -2.256901}, {}},
        {"no-model-prefix", 16.184797323, {-1.668998, -2.267113, 2.825645}, {}},
        {"extra-value-head",
         16.184797323,
         {-1.668998, -2.267113, 2.825645},
         {"v_head.summary.bias, v_head.summary.weight"}},
        {"index-lacks-entry", 16.184797323, {-1.668998, -2.267113, 2.825645}, {}},
        {"two-architectures", 16.184797323, {-1.668998, -2.267113, 2.825645}, {}},
    }),
    [](const auto& one) { return test_name(one.param.name); });

}  // namespace
}  // namespace cbq::test::test_foreign_folders
