// Models and tokenizers in GGUF files, and `cbq convert`, which makes model folders of them.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "nn/formats/checkpoint_writer.h"
#include "nn/formats/json.h"
#include "nn/formats/safetensors.h"
#include "nn/gguf/gguf_model.h"
#include "nn/gguf/gguf_tokenizer.h"
#include "nn/text/tokenizer.h"
#include "tests/gguf_writer.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_gguf_convert {
namespace {

using nlohmann::json;

std::filesystem::path fixture_of(const std::string& name) {
  return std::filesystem::path(CBQ_SOURCE_DIR) / "tests/fixtures/gguf" / name;
}

void expect_same_tensors(const Checkpoint& ours, const Checkpoint& expected) {
  ASSERT_EQ(ours.names(), expected.names());
  for (const std::string& name : expected.names()) {
    const Tensor a = ours.load(name), b = expected.load(name);
    ASSERT_EQ(a.shape(), b.shape()) << name;
    ASSERT_EQ(a.dtype(), b.dtype()) << name;
    EXPECT_EQ(std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())), 0) << name;
  }
}

// ---- the command --------------------------------------------------------------------------------

class GgufConvert : public ::testing::TestWithParam<const char*> {};

TEST_P(GgufConvert, WritesTheFolderThatTheFileWasMadeFrom) {
  const std::string name = GetParam();
  const TemporaryFolder folder;
  const std::string output = (folder / "model").string();
  const RunOfCbq run = cbq({"convert", fixture_of(name + ".gguf").string(), "-o", output});
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.out, {"2 blocks", "1 file(s)"});
  expect_same_tensors(Checkpoint(output), Checkpoint(fixture_of(name + ".safetensors")));
  const ModelConfig c = ModelConfig::load(output);
  EXPECT_EQ(c.head_dim, name == "llama" ? 8 : 16);
  EXPECT_EQ(c.tie_word_embeddings, name == "llama");
  EXPECT_EQ(c.attention_bias, name == "llama");
  EXPECT_EQ(c.mlp_bias, name == "llama");
  EXPECT_EQ(c.qk_norm, name == "qwen3");
  EXPECT_EQ(c.rope.theta, 5000.0);
  EXPECT_EQ(c.norm_eps, 1e-5);
  EXPECT_EQ(c.max_position_embeddings, 64);
  EXPECT_EQ(c.bos_token_id, 1);
  EXPECT_EQ(c.eos_token_ids, std::vector<int64_t>{2});
  load_model(output, Dtype::f32, Device::cpu());

  const auto tokenizer = load_tokenizer(output);
  const json vectors = read_json_file(fixture_of("vectors.json"))[name];
  ASSERT_GT(vectors.size(), 10u);
  for (const json& vector : vectors) {
    const std::string text = vector["text"];
    EXPECT_EQ(tokenizer->encode(text), vector["ids"].get<std::vector<int32_t>>()) << text;
    if (!text.starts_with(' ')) {
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
    }
  }
  EXPECT_EQ(tokenizer->prefix().size(), name == "llama" ? 0u : 1u);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  // tokenizer.json cannot express user-defined tokens together with one space at the start of the
  // text.
  EXPECT_EQ(std::filesystem::exists(folder / "model/tokenizer.json"), name == "llama");
  if (name == "llama") {
    const json other = json_of(folder / "model/tokenizer.json");
    EXPECT_EQ(other["model"]["vocab"].size(), 460u);
    EXPECT_FALSE(other["model"]["byte_fallback"].get<bool>());
  }
  EXPECT_EQ(json_of(folder / "model/generation_config.json")["eos_token_id"], 2);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, GgufConvert, ::testing::Values("llama", "qwen3"),
                         [](const auto& name) { return std::string(name.param); });

TEST(GgufCommand, WritesSeveralFilesAndOtherTypes) {
  const TemporaryFolder folder;
  const std::string file = fixture_of("qwen3.gguf").string(), output = (folder / "model").string();
  RunOfCbq run = cbq({"convert", file, "-o", output, "--max-file-size", "0.00005"});
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_FALSE(std::filesystem::exists(folder / "model/model.safetensors"));
  EXPECT_TRUE(std::filesystem::exists(folder / "model/model.safetensors.index.json"));
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "model")) {
    files += entry.path().filename().string().starts_with("model-0000") ? 1 : 0;
  }
  EXPECT_GT(files, 2);
  const Checkpoint expected(fixture_of("qwen3.safetensors"));
  expect_same_tensors(Checkpoint(output), expected);

  // A folder that is there is not replaced by a slip of the hand.
  run = cbq({"convert", file, "-o", output, "--dtype", "bf16"});
  EXPECT_EQ(run.code, 1);
  expect_in(run.err, {"is there and not empty", "--overwrite"});
  run = cbq({"convert", file, "-o", output, "--dtype", "bf16", "--overwrite"});
  ASSERT_EQ(run.code, 0) << run.err;
  const Checkpoint narrow(output);
  EXPECT_EQ(ModelConfig::load(output).dtype, "bf16");
  for (const std::string& name : expected.names()) {
    const Tensor ours = narrow.load(name), whole = expected.load(name);
    ASSERT_EQ(ours.dtype(), Dtype::bf16);
    for (int64_t i = 0; i < whole.count(); ++i) {
      ASSERT_EQ(ours.data<bf16>()[i].bits, bf16(whole.data<float>()[i]).bits) << name;
    }
  }
  EXPECT_EQ(cbq({"convert", file, "-o", output, "--dtype", "u8"}).code, 1);
}

// ---- files made here ----------------------------------------------------------------------------

/// A LLaMA of one block: width 4, one head of 4, feed-forward 2, five tokens.
struct TinyFile {
  std::vector<std::string> tokens = {"<unk>", "a", "b", "ab", "<|end|>"};
  std::string architecture = "llama";
  GgufBytes bytes() const {
    GgufBytes b;
    const std::string p = architecture + ".";
    b.text("general.architecture", architecture).number(p + "block_count", 1);
    b.number(p + "context_length", 32).number(p + "embedding_length", 4);
    b.number(p + "feed_forward_length", 2).number(p + "attention.head_count", 1);
    b.real(p + "attention.layer_norm_rms_epsilon", 1e-6f);
    b.text("tokenizer.ggml.model", "gpt2").texts("tokenizer.ggml.tokens", tokens);
    b.integers("tokenizer.ggml.token_type", {2, 1, 1, 1, 3});
    return b;
  }
  /// With merges and rule.
  GgufBytes whole() const {
    GgufBytes b = bytes();
    b.texts("tokenizer.ggml.merges", {"a b"}).text("tokenizer.ggml.pre", "gpt-2");
    return b;
  }
  static GgufBytes& weights(GgufBytes& b) {
    const auto values = [&](const char* name, const std::vector<uint64_t>& extents) {
      uint64_t count = 1;
      for (const uint64_t extent : extents) count *= extent;
      std::vector<float> numbers;
      for (uint64_t i = 0; i < count; ++i) numbers.push_back(static_cast<float>(i));
      b.values(name, extents, numbers);
    };
    values("token_embd.weight", {4, 5});
    values("output_norm.weight", {4});
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
      values(concat("blk.0.", name, ".weight").c_str(), {4, 4});
    }
    values("blk.0.ffn_gate.weight", {4, 2});
    values("blk.0.ffn_up.weight", {4, 2});
    values("blk.0.ffn_down.weight", {2, 4});
    values("blk.0.attn_norm.weight", {4});
    values("blk.0.ffn_norm.weight", {4});
    return b;
  }
};

GgufModel model_of(GgufBytes bytes) {
  const TemporaryFolder folder;
  return GgufModel(GgufFile::open(folder.write("m.gguf", bytes.bytes())));
}

void expect_model_error(GgufBytes bytes, std::initializer_list<const char*> parts) {
  expect_error<std::runtime_error>([&] { model_of(bytes); }, parts);
}

GgufBytes tiny_model_bytes() {
  GgufBytes b = TinyFile().whole();
  return TinyFile::weights(b);
}

TEST(GgufModel, UndoesTheOrderOfRowsOfQueriesAndKeys) {
  const GgufModel model = model_of(tiny_model_bytes());
  std::map<std::string, std::vector<float>> values;
  for (const GgufWeight& weight : model.weights()) {
    model.read(weight, [&](std::span<const float> piece) {
      values[weight.name].insert(values[weight.name].end(), piece.begin(), piece.end());
    });
  }
  // The rows 0, 1, 2, 3 of the file are 0, 2, 1, 3 of the head.
  const std::vector<float> rows = {0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15};
  EXPECT_EQ(values.at("model.layers.0.self_attn.q_proj.weight"), rows);
  EXPECT_EQ(values.at("model.layers.0.self_attn.k_proj.weight"), rows);
  EXPECT_EQ(values.at("model.layers.0.self_attn.v_proj.weight")[4], 4.0f);
  EXPECT_EQ(model.config().num_kv_heads, 1);
  EXPECT_EQ(model.config().norm_eps, 1e-6);
  EXPECT_EQ(model.config().vocab_size, 5);
  EXPECT_EQ(model.config().bos_token_id, -1);
}

TEST(GgufModel, BiasesThatTheFileLeavesOutAreZero) {
  GgufBytes b = tiny_model_bytes();
  b.values("blk.0.attn_q.bias", {4}, {0, 1, 2, 3});
  const GgufModel model = model_of(b);
  EXPECT_TRUE(model.config().attention_bias && model.config().attention_output_bias);
  EXPECT_FALSE(model.config().mlp_bias);
  std::map<std::string, std::vector<float>> values;
  for (const GgufWeight& weight : model.weights()) {
    model.read(weight, [&](std::span<const float> piece) {
      values[weight.name] = {piece.begin(), piece.end()};
    });
  }
  EXPECT_EQ(values.at("model.layers.0.self_attn.q_proj.bias"), (std::vector<float>{0, 2, 1, 3}));
  EXPECT_EQ(values.at("model.layers.0.self_attn.o_proj.bias"), std::vector<float>(4, 0.0f));
}

TEST(GgufModel, ReadsTheScalingOfRotaryFrequencies) {
  GgufBytes linear = tiny_model_bytes();
  linear.text("llama.rope.scaling.type", "linear").real("llama.rope.scaling.factor", 4.0f);
  linear.real("llama.rope.freq_base", 5e5f);
  const RopeConfig scaled = model_of(linear).config().rope;
  EXPECT_EQ(scaled.type, "linear");
  EXPECT_EQ(scaled.factor, 4.0);
  EXPECT_EQ(scaled.theta, 5e5);

  GgufBytes old = tiny_model_bytes();
  EXPECT_EQ(model_of(old.real("llama.rope.scale_linear", 2.0f)).config().rope.factor, 2.0);

  // Where no type is given, llama.cpp takes the scaling for linear.
  for (const char* key : {"llama.rope.scaling.factor", "llama.rope.scale_linear"}) {
    for (const float factor : {0.0f, 1.0f, 4.0f}) {
      GgufBytes untyped = tiny_model_bytes();
      const RopeConfig found = model_of(untyped.real(key, factor)).config().rope;
      EXPECT_EQ(found.type, factor == 4.0f ? "linear" : "default") << key << " " << factor;
      EXPECT_EQ(found.factor, factor == 4.0f ? 4.0 : 1.0) << key << " " << factor;
    }
  }
  GgufBytes none = tiny_model_bytes();
  none.text("llama.rope.scaling.type", "none").real("llama.rope.scaling.factor", 4.0f);
  EXPECT_EQ(model_of(none).config().rope.type, "default");
  GgufBytes negative = tiny_model_bytes();
  expect_model_error(negative.real("llama.rope.scaling.factor", -2.0f), {"m.gguf", "\"factor\""});

  // LLaMA 3.1's: wavelengths 6.3 and 44,429 at theta 5e7, a context of 8,192.
  GgufBytes llama3 = tiny_model_bytes();
  llama3.real("llama.rope.freq_base", 5e7f).values("rope_freqs.weight", {2}, {1.0f, 8.0f});
  const RopeConfig rope = model_of(llama3).config().rope;
  EXPECT_EQ(rope.type, "llama3");
  EXPECT_EQ(rope.factor, 8.0);
  EXPECT_EQ(rope.low_freq_factor, 1.0);
  EXPECT_EQ(rope.high_freq_factor, 4.0);
  EXPECT_EQ(rope.original_max_position_embeddings, 8192);
  // Between the two bounds: wavelength 4,443 at theta 5e5 turns 1.8437 times.
  GgufBytes between = tiny_model_bytes();
  const double smooth = (8192.0 / (2.0 * M_PI * std::sqrt(5e5)) - 1.0) / 3.0;
  const double divisor = 1.0 / ((1.0 - smooth) / 8.0 + smooth);
  between.real("llama.rope.freq_base", 5e5f);
  between.values("rope_freqs.weight", {2}, {1.0f, static_cast<float>(divisor)});
  // The factor is the last divisor, so that a model whose slowest frequency is blended is refused.
  expect_model_error(between, {"rope_freqs.weight", "LLaMA 3.1's rule"});
  GgufBytes ones = tiny_model_bytes();
  EXPECT_EQ(model_of(ones.values("rope_freqs.weight", {2}, {1, 1})).config().rope.type, "default");

  GgufBytes other = tiny_model_bytes();
  other.text("llama.rope.scaling.type", "longrope").real("llama.rope.scaling.factor", 4.0f);
  expect_model_error(other, {"longrope", "linear"});
  GgufBytes part = tiny_model_bytes();
  expect_model_error(part.number("llama.rope.dimension_count", 2), {"dimension_count", "part"});
}

TEST(GgufModel, ChecksTheShapeOfFrequenciesBeforeItReadsThem) {
  constexpr size_t count = size_t{4} << 20;
  GgufBytes b = tiny_model_bytes();
  b.values("rope_freqs.weight", {count}, std::vector<float>(count, 1.0f));
  const int64_t before = memory_statistics(Device::cpu()).current_bytes;
  reset_peak(Device::cpu());
  expect_model_error(b, {"rope_freqs.weight", "2 values", "4194304"});
  EXPECT_LT(memory_statistics(Device::cpu()).peak_bytes - before, int64_t{1} << 20);
}

TEST(GgufModel, RefusesWhatItCannotCompute) {
  TinyFile phi;
  phi.architecture = "phi3";
  expect_model_error(phi.bytes(), {"m.gguf", "\"phi3\"", "llama", "qwen2", "qwen3"});
  GgufBytes b = TinyFile().whole();
  expect_model_error(b, {"token_embd.weight"});
  expect_model_error(GgufBytes(), {"general.architecture\" is missing"});
  b = tiny_model_bytes();
  expect_model_error(b.number("llama.expert_count", 8), {"mixture of experts"});
  b = tiny_model_bytes();
  expect_model_error(b.number("split.count", 2), {"llama-gguf-split"});
  b = tiny_model_bytes();
  expect_model_error(b.values("blk.0.ffn_gate_inp.weight", {4}, {1, 2, 3, 4}),
                     {"blk.0.ffn_gate_inp.weight", "no part of"});
  b = tiny_model_bytes();
  expect_model_error(b.values("blk.1.attn_norm.weight", {4}, {1, 2, 3, 4}), {"blk.1.attn_norm"});
  b = tiny_model_bytes();
  expect_model_error(b.values("output.weight", {4, 6}, std::vector<float>(24)),
                     {"output.weight", "[6, 4]", "[5, 4]"});
  b = tiny_model_bytes();
  expect_model_error(b.number("llama.attention.value_length", 2), {"value_length"});
  b = tiny_model_bytes();
  expect_model_error(b.number("llama.attention.key_length", 3), {"head_dim"});
  b = tiny_model_bytes();
  expect_model_error(b.number("llama.attention.head_count_kv", 0), {"head_count_kv", "0"});
  b = tiny_model_bytes();
  expect_model_error(b.integers("llama.attention.head_count_kv", {1, 2}), {"differs between"});
  EXPECT_EQ(model_of(tiny_model_bytes().number("llama.attention.sliding_window", 8))
                .config()
                .architecture,
            "MistralForCausalLM");
}

// ---- tokenizers ---------------------------------------------------------------------------------

std::unique_ptr<Tokenizer> tokenizer_of(GgufBytes bytes, const std::string& rule = "") {
  const TemporaryFolder folder;
  const GgufFile file = GgufFile::open(folder.write("m.gguf", bytes.bytes()));
  for (const auto& [name, text] : gguf_tokenizer_files(file, rule)) folder.write(name, text);
  return load_tokenizer(folder.path());
}

/// The vocabulary and merges of a tokenizer.json as a GGUF file has them.
GgufBytes bytes_of_tokenizer_json(const json& root) {
  std::map<int32_t, std::pair<std::string, int32_t>> by_id;
  for (const auto& [token, id] : root["model"]["vocab"].items()) by_id[id] = {token, 1};
  for (const json& added : root["added_tokens"]) {
    by_id[added["id"]] = {added["content"], added["special"] ? 3 : 4};
  }
  std::vector<std::string> tokens, merges;
  std::vector<int32_t> types;
  for (const auto& [id, entry] : by_id) {
    EXPECT_EQ(id, static_cast<int32_t>(tokens.size()));
    tokens.push_back(entry.first);
    types.push_back(entry.second);
  }
  for (const json& merge : root["model"]["merges"]) {
    merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  GgufBytes b;
  b.text("general.architecture", "llama").text("tokenizer.ggml.model", "gpt2");
  b.texts("tokenizer.ggml.tokens", tokens).integers("tokenizer.ggml.token_type", types);
  b.texts("tokenizer.ggml.merges", merges);
  return b;
}

TEST(GgufTokenizer, GivesTheIdsOfTheTokenizerItCameFrom) {
  const auto folder = std::filesystem::path(CBQ_SOURCE_DIR) / "tests/fixtures/tokenizers";
  const json vectors = read_json_file(folder / "vectors.json");
  for (const auto& [family, rule] : {std::pair{"llama3", "llama-bpe"}, {"qwen", "qwen2"}}) {
    GgufBytes b = bytes_of_tokenizer_json(read_json_file(folder / (std::string(family) + ".json")));
    b.text("tokenizer.ggml.pre", rule).number("tokenizer.ggml.bos_token_id", 460);
    const auto tokenizer = tokenizer_of(b);
    int compared = 0;
    for (const json& vector : vectors[family]) {
      const std::string text = vector["text"];
      if (text.find("<caf") != std::string::npos)
        continue;  // found in normalized text: not in GGUF
      EXPECT_EQ(tokenizer->encode(text), vector["ids"].get<std::vector<int32_t>>()) << text;
      EXPECT_EQ(tokenizer->prefix(), vector["prefix"].get<std::vector<int32_t>>());
      ++compared;
    }
    EXPECT_GT(compared, 50) << family;
  }
}

TEST(GgufTokenizer, RefusesUnknownRulesWithTheListOfKnownOnes) {
  const TinyFile tiny;
  GgufBytes b = tiny.bytes();
  b.texts("tokenizer.ggml.merges", {"a b"});
  expect_error<std::runtime_error>(
      [&] { tokenizer_of(b); }, {"tokenizer.ggml.pre\" is missing", "--pre-tokenizer", "smollm"});
  EXPECT_EQ(tokenizer_of(b, "gpt-2")->encode("ab"), std::vector<int32_t>{3});
  b.text("tokenizer.ggml.pre", "falcon");
  expect_error<std::runtime_error>([&] { tokenizer_of(b); }, {"\"falcon\"", "llama-bpe", "qwen2"});
  EXPECT_EQ(tokenizer_of(b, "gpt-2")->encode("b<|end|>"), (std::vector<int32_t>{2, 4}));
}

TEST(GgufTokenizer, RefusesMalformedVocabularies) {
  const TinyFile tiny;
  const auto expect = [&](GgufBytes b, std::initializer_list<const char*> parts) {
    expect_error<std::runtime_error>([&] { tokenizer_of(b, ""); }, parts);
  };
  const auto merged = [&](const std::vector<std::string>& merges) {
    return tiny.bytes().text("tokenizer.ggml.pre", "gpt-2").texts("tokenizer.ggml.merges", merges);
  };
  EXPECT_EQ(tokenizer_of(merged({"a b"}))->vocab_size(), 5);
  for (const char* merge : {"ab", "a ", " a", "a c", "b a", "", "a b c", "\xff b"}) {
    expect(merged({"a b", merge}), {"m.gguf", "element 1", "merges"});
  }
  TinyFile twice;
  twice.tokens[2] = "a";
  expect(twice.whole(), {"\"a\" twice", "token 2"});
  twice.tokens[2] = "\xff";
  expect(twice.whole(), {"token 2", "not UTF-8"});
  twice.tokens.push_back("c");
  twice.tokens[2] = "b";
  expect(twice.whole(), {"token_type\" has 5 elements for 6"});
  expect(tiny.whole().number("tokenizer.ggml.eos_token_id", 5), {"eos_token_id\" is 5", "only 5"});
  expect(tiny.whole().flag("tokenizer.ggml.add_eos_token", true), {"add_eos_token"});
  expect(tiny.whole().flag("tokenizer.ggml.add_bos_token", true), {"bos_token_id\" is missing"});
  expect(GgufBytes().text("tokenizer.ggml.model", "bert"), {"\"bert\"", "gpt2", "llama"});
  expect(GgufBytes(), {"tokenizer.ggml.model\" is missing"});
  const auto pieces = [&] {
    GgufBytes b;
    b.text("general.architecture", "llama").text("tokenizer.ggml.model", "llama");
    b.texts("tokenizer.ggml.tokens", {"<unk>", "a"});
    return b;
  };
  const auto scores = gguf_type(GgufType::f32) + little_endian<uint64_t>(1) + little_endian(0.5f);
  expect(pieces(), {"tokenizer.ggml.scores\" is missing"});
  expect(pieces().field("tokenizer.ggml.scores", GgufType::array, scores),
         {"has 1 elements for 2"});
  expect(pieces().integers("tokenizer.ggml.scores", {0, 0}), {"0 tokens are of the type unknown"});
}

// ---- the writer ---------------------------------------------------------------------------------

TEST(CheckpointWriter, TakesPiecesOfAnySizeAndRefusesWrongOnes) {
  const TemporaryFolder folder;
  const std::vector<float> numbers = {1, 2, 3, 4, 5, 6};
  CheckpointWriter writer(
      folder.path(),
      {{"a", Dtype::f32, {2, 2}}, {"empty", Dtype::f32, {0}}, {"b", Dtype::f32, {2}}}, 16);
  EXPECT_EQ(writer.files(), 2);
  writer.append(numbers.data(), 4);
  writer.append(numbers.data() + 1, 8);
  EXPECT_THROW(writer.append(numbers.data(), 8), std::invalid_argument);  // beyond the tensor
  EXPECT_THROW(writer.finish(), std::invalid_argument);
  writer.append(numbers.data() + 3, 4);
  writer.append(numbers.data() + 4, 8);
  writer.finish();
  EXPECT_THROW(writer.append(numbers.data(), 4), std::invalid_argument);
  const Checkpoint checkpoint(folder.path());
  EXPECT_EQ(checkpoint.load("a").to_vector<float>(), (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(checkpoint.load("b").to_vector<float>(), (std::vector<float>{5, 6}));
  EXPECT_EQ(checkpoint.load("empty").count(), 0);
  EXPECT_THROW(CheckpointWriter(folder.path(), {}, 1), std::invalid_argument);
  // The second file's header would be too large for readers, which is known before the first is
  // written.
  const std::string long_name(100'000'000, 'a');
  expect_error<std::invalid_argument>(
      [&] {
        CheckpointWriter(folder / "new", {{"a", Dtype::f32, {1}}, {long_name, Dtype::f32, {1}}}, 4);
      },
      {"model-00002-of-00002.safetensors", "header", "100000000"});
  EXPECT_FALSE(std::filesystem::exists(folder / "new"));
  EXPECT_THROW(CheckpointWriter(folder.path(), {{"a", Dtype::f32, {1}}, {"a", Dtype::f32, {1}}}, 1),
               std::invalid_argument);
}

}  // namespace
}  // namespace cbq::test::test_gguf_convert
