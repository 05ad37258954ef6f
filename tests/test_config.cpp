#include "nn/config.h"
#include "nn/formats/json.h"
#include "tensor/runtime/notice.h"
#include "tests/test_data.h"

namespace cbq::test_config {
namespace {

using nlohmann::json;

json small() {
  return json::parse(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5,
    "num_attention_heads": 8})");
}

json with(json config, const json& changes) {
  for (const auto& [key, value] : changes.items()) config[key] = value;
  return config;
}

ModelConfig parsed(const json& changes) {
  return ModelConfig::from_json(with(small(), changes), "config.json");
}

void expect_refused(const json& changes, std::initializer_list<const char*> parts) {
  expect_error<std::runtime_error>([&] { parsed(changes); }, parts);
}

TEST(Config, DefaultsOfTheFamily) {
  const ModelConfig c = parsed(json::object());
  EXPECT_EQ(c.architecture, "LlamaForCausalLM");
  EXPECT_EQ(c.num_layers, 5);
  EXPECT_EQ(c.num_kv_heads, 8);
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_EQ(c.max_position_embeddings, 2048);
  EXPECT_EQ(c.norm_eps, 1e-6);
  EXPECT_EQ(c.rope.theta, 10000.0);
  EXPECT_EQ(c.rope.type, "default");
  EXPECT_FALSE(c.attention_bias || c.mlp_bias || c.tie_word_embeddings);
  EXPECT_EQ(c.bos_token_id, 1);
  EXPECT_EQ(c.eos_token_ids, (std::vector<int64_t>{2}));
  EXPECT_EQ(c.dtype, "f32");
}

TEST(Config, NullMeansTheDefault) {
  const ModelConfig c = parsed({{"num_key_value_heads", nullptr},
                                {"head_dim", nullptr},
                                {"rope_scaling", nullptr},
                                {"torch_dtype", nullptr},
                                {"rms_norm_eps", nullptr},
                                {"tie_word_embeddings", nullptr}});
  EXPECT_EQ(c.num_kv_heads, 8);
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_EQ(c.rope.type, "default");
  EXPECT_EQ(c.dtype, "f32");
  EXPECT_EQ(c.norm_eps, 1e-6);
}

TEST(Config, SpecialTokens) {
  EXPECT_EQ(parsed({{"eos_token_id", {128001, 128009}}}).eos_token_ids,
            (std::vector<int64_t>{128001, 128009}));
  EXPECT_TRUE(parsed({{"eos_token_id", nullptr}}).eos_token_ids.empty());
  EXPECT_EQ(parsed({{"bos_token_id", nullptr}}).bos_token_id, -1);
  EXPECT_EQ(parsed({{"bos_token_id", 0}}).bos_token_id, 0);
  EXPECT_TRUE(parsed({{"eos_token_id", -1}}).eos_token_ids.empty());
  EXPECT_EQ(parsed({{"bos_token_id", -1}}).bos_token_id, -1);
  expect_refused({{"eos_token_id", "</s>"}}, {"eos_token_id", "integer"});
}

const json llama3_scaling = {{"rope_type", "llama3"},
                             {"factor", 32.0},
                             {"low_freq_factor", 1.0},
                             {"high_freq_factor", 4.0},
                             {"original_max_position_embeddings", 4096}};

TEST(Config, RopeInBothSpellings) {
  const ModelConfig old_style = parsed({{"rope_theta", 5e5}, {"rope_scaling", llama3_scaling}});
  const ModelConfig new_style =
      parsed({{"rope_parameters", with(llama3_scaling, {{"rope_theta", 5e5}})}});
  for (const ModelConfig& c : {old_style, new_style}) {
    EXPECT_EQ(c.rope.theta, 5e5);
    EXPECT_EQ(c.rope.type, "llama3");
    EXPECT_EQ(c.rope.factor, 32.0);
    EXPECT_EQ(c.rope.original_max_position_embeddings, 4096);
  }
  const ModelConfig legacy = parsed({{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}});
  EXPECT_EQ(legacy.rope.type, "linear");
  EXPECT_EQ(legacy.rope.factor, 2.0);
  EXPECT_EQ(
      parsed({{"rope_parameters", {{"rope_theta", 7.0}, {"rope_type", "default"}}}}).rope.theta,
      7.0);
}

TEST(Config, WeightDtypeInBothSpellings) {
  EXPECT_EQ(parsed({{"torch_dtype", "bfloat16"}}).dtype, "bf16");
  EXPECT_EQ(parsed({{"dtype", "float16"}}).dtype, "f16");
  EXPECT_EQ(parsed({{"dtype", "torch.float64"}}).dtype, "f64");
  expect_refused({{"torch_dtype", "float8_e4m3fn"}}, {"float8_e4m3fn", "known: float32"});
}

TEST(Config, ContradictoryDtypeFieldsGiveANotice) {
  const NoticeRecorder notices;
  EXPECT_EQ(parsed({{"torch_dtype", "bfloat16"}, {"dtype", "bfloat16"}}).dtype, "bf16");
  EXPECT_EQ(parsed({{"torch_dtype", "bfloat16"}, {"dtype", "auto"}}).dtype, "bf16");
  EXPECT_TRUE(parsed({{"torch_dtype", "bfloat16"}}).states_dtype());
  EXPECT_FALSE(parsed({{"torch_dtype", "auto"}}).states_dtype());
  EXPECT_FALSE(parsed(json::object()).states_dtype());
  EXPECT_TRUE(notices.lines().empty());
  const ModelConfig c = parsed({{"torch_dtype", "bfloat16"}, {"dtype", "float16"}});
  EXPECT_EQ(c.dtype, "f16") << "as transformers 5";
  ASSERT_EQ(notices.lines().size(), 1u);
  for (const char* part : {"config.json", "\"dtype\"", "float16", "\"torch_dtype\"", "bfloat16"}) {
    EXPECT_NE(notices.lines()[0].find(part), std::string::npos) << part;
  }
  EXPECT_EQ(c.to_json().at("dtype"), "float16");
  EXPECT_EQ(c.to_json().at("torch_dtype"), "float16");
}

TEST(Config, WrittenAsReadWithUnknownFieldsKept) {
  const json extra = {{"my_field", {{"deep", {1, 2, "x"}}}}, {"transformers_version", "4.48.0"}};
  for (const json& spelling :
       {json{{"rope_theta", 5e5}, {"rope_scaling", llama3_scaling}, {"torch_dtype", "float16"}},
        json{{"rope_parameters", with(llama3_scaling, {{"rope_theta", 5e5}})},
             {"dtype", "float16"}},
        json{{"rope_theta", 5e5}, {"rope_scaling", nullptr}, {"eos_token_id", {1, 2}}}}) {
    const json before = with(with(small(), spelling), extra);
    const ModelConfig c = ModelConfig::from_json(before, "config.json");
    const json after = c.to_json();
    for (const auto& [key, value] : before.items()) EXPECT_EQ(after.at(key), value) << key;
    const ModelConfig again = ModelConfig::from_json(after, "again");
    EXPECT_EQ(again.to_json(), after);
    EXPECT_EQ(again.rope.type, c.rope.type);
    EXPECT_EQ(again.rope.theta, c.rope.theta);
    EXPECT_EQ(again.dtype, c.dtype);
  }
  ModelConfig changed = parsed({{"rope_theta", 5e5}, {"rope_scaling", llama3_scaling}});
  changed.dtype = "bf16";
  changed.rope = RopeConfig{};
  changed.tie_word_embeddings = true;
  changed.eos_token_ids = {};
  const ModelConfig back = ModelConfig::from_json(changed.to_json(), "changed");
  EXPECT_EQ(back.dtype, "bf16");
  EXPECT_EQ(back.rope.type, "default");
  EXPECT_EQ(back.rope.theta, 10000.0);
  EXPECT_TRUE(back.tie_word_embeddings);
  EXPECT_TRUE(back.eos_token_ids.empty());
}

TEST(Config, ChangedDtypeIsWrittenInTheSpellingOfTheSource) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    ModelConfig c = parsed({{key, "float16"}});
    c.dtype = "bf16";
    EXPECT_EQ(c.to_json().at(key), "bfloat16");
    EXPECT_EQ(ModelConfig::from_json(c.to_json(), "changed").dtype, "bf16");
  }
}

TEST(Config, MadeHereIsReadBack) {
  ModelConfig c;
  c.vocab_size = 100;
  c.hidden_size = 32;
  c.intermediate_size = 64;
  c.num_layers = 2;
  c.num_heads = c.num_kv_heads = 4;
  c.head_dim = 8;
  const ModelConfig back = ModelConfig::from_json(c.to_json(), "made");
  EXPECT_EQ(back.to_json(), c.to_json());
  EXPECT_EQ(back.hidden_size, 32);
}

TEST(Config, RefusesMissingAndContradictoryFields) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads"}) {
    expect_refused({{key, nullptr}}, {"config.json", key, "missing"});
  }
  expect_refused({{"hidden_size", 66}}, {"config.json", "\"hidden_size\" (66)", "multiple", "(8)"});
  expect_refused({{"hidden_size", 4}}, {"\"hidden_size\" (4)", "multiple"});
  expect_refused({{"num_key_value_heads", 3}}, {"\"num_key_value_heads\" (3)", "multiple"});
  expect_refused({{"head_dim", 7}}, {"head_dim", "even"});
  expect_refused({{"hidden_size", 0}}, {"hidden_size", "[1, "});
  expect_refused({{"hidden_size", -64}}, {"hidden_size", "-64"});
  expect_refused({{"hidden_size", 64.0}}, {"hidden_size", "integer"});
  expect_refused({{"hidden_size", int64_t{1} << 40}}, {"hidden_size", "1099511627776"});
  expect_refused({{"tie_word_embeddings", "yes"}}, {"tie_word_embeddings", "true or false"});
  expect_refused({{"rms_norm_eps", -1.0}}, {"rms_norm_eps", "negative"});
  expect_error<std::runtime_error>([] { ModelConfig::from_json(json::array(), "config.json"); },
                                   {"config.json", "object"});
}

TEST(Config, TheFirstKnownArchitectureCounts) {
  EXPECT_EQ(parsed({{"architectures", {"A", "Qwen2ForCausalLM", "LlamaForCausalLM"}},
                    {"num_key_value_heads", 8}})
                .architecture,
            "Qwen2ForCausalLM");
}

TEST(Config, HeadsOfTheirOwnSize) {
  // transformers refuses uneven heads for LLaMA alone.
  const json odd = {{"hidden_size", 66}, {"head_dim", 8}};
  expect_refused(odd, {"\"hidden_size\" (66)", "multiple", "(8)"});
  for (const char* name : {"MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}) {
    const json family = {{"architectures", {name}}, {"num_key_value_heads", 2}};
    EXPECT_EQ(parsed(with(odd, family)).head_dim, 8) << name;
    expect_refused(with(family, {{"hidden_size", 66}, {"head_dim", nullptr}}),
                   {"\"hidden_size\" (66)", "multiple"});
  }
}

TEST(Config, RefusesUnknownNamesWithTheKnownOnes) {
  expect_refused({{"architectures", {"MambaForCausalLM"}}},
                 {"MambaForCausalLM", "known:", "LlamaForCausalLM"});
  expect_refused({{"architectures", nullptr}, {"model_type", "t5"}}, {"no architecture", "known:"});
  expect_refused({{"architectures", {"A", "B"}}}, {"unknown architecture \"A\", \"B\"", "known:"});
  expect_refused({{"architectures", json::array()}}, {"architectures", "list of names"});
  expect_refused({{"architectures", "LlamaForCausalLM"}}, {"architectures", "list of names"});
  expect_refused({{"hidden_act", "gelu_new"}}, {"hidden_act", "gelu_new", "known: silu"});
  expect_refused({{"rope_scaling", {{"type", "mrope"}, {"factor", 2}}}},
                 {"mrope", "known: default, linear, llama3, yarn, dynamic, longrope"});
  EXPECT_EQ(parsed({{"architectures", nullptr}}).architecture, "LlamaForCausalLM");
}

TEST(Config, RefusesBrokenRope) {
  expect_refused({{"rope_scaling", {{"type", "linear"}}}}, {"rope_scaling", "factor", "missing"});
  expect_refused({{"rope_scaling", {{"type", "linear"}, {"factor", 0}}}}, {"factor", "positive"});
  expect_refused({{"rope_theta", 0}}, {"rope_theta", "positive"});
  expect_refused({{"rope_scaling", "linear"}}, {"rope_scaling", "object"});
  expect_refused({{"rope_scaling", with(llama3_scaling, {{"high_freq_factor", 1.0}})}},
                 {"high_freq_factor"});
  expect_refused({{"rope_scaling", with(llama3_scaling, {{"low_freq_factor", nullptr}})}},
                 {"low_freq_factor", "missing"});
}

TEST(Config, LoadsARealModel) {
  SKIP_WITHOUT_TEST_DATA();
  const ModelConfig c = ModelConfig::load(test_data() / "models/stories260K_hf");
  EXPECT_EQ(c.vocab_size, 512);
  EXPECT_EQ(c.num_kv_heads, 4);
  EXPECT_EQ(c.norm_eps, 1e-5);
  EXPECT_TRUE(c.tie_word_embeddings);
}

TEST(Config, MissingAndBrokenFiles) {
  const TemporaryFolder folder;
  expect_error<std::runtime_error>([&] { ModelConfig::load(folder.path()); },
                                   {"config.json", "No such file"});
  folder.write("config.json", "{\"vocab_size\": 5,\n \"hidden_size\" 3}");
  expect_error<std::runtime_error>([&] { ModelConfig::load(folder.path()); },
                                   {"config.json", "line 2"});
}

}  // namespace
}  // namespace cbq::test_config
