// Rotation of whole models: the function stays, in every family that allows it, and the others are
// refused.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "cbq/global_transforms.h"
#include "cbq/job_identity.h"
#include "cbq/pipeline.h"
#include "nn/decoder.h"
#include "quant/transforms/global/global_transform.h"
#include "quant/transforms/global/rotation.h"
#include "quant/transforms/local/preprocessor.h"
#include "quant/transforms/local/sites.h"
#include "tests/fixtures.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_rotation {
namespace {

Settings rotated(const std::string& parts, uint64_t seed = 0) {
  Settings settings;
  settings.rotation = parts;
  settings.rotation_seed = seed;
  return settings;
}

/// As many parameters have values other than `before`.
size_t changed_parameters(Transformer& model,
                          const std::map<std::string, std::vector<double>>& before) {
  size_t changed = 0;
  for (const auto& [path, p] : parameters_of(model)) {
    const auto at = before.find(path);
    changed += at == before.end() || at->second != p.value().to_vector<double>();
  }
  return changed;
}

std::map<std::string, std::vector<double>> values_of(Transformer& model) {
  std::map<std::string, std::vector<double>> values;
  for (const auto& [path, p] : parameters_of(model)) values[path] = p.value().to_vector<double>();
  return values;
}

constexpr const char* all_parts[] = {"r1",    "r2",    "r3",       "r4",
                                     "r1_r2", "r1_r4", "r1_r2_r4", "r1_r2_r3_r4"};

class RotationOf : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Transformer> model(Dtype dtype) const {
    return load_model(fixture(GetParam()), dtype, Device::cpu());
  }
  ExpectedResults expected_{GetParam()};
};

TEST_P(RotationOf, KeepsTheFunction) {
  for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
    for (const char* parts : all_parts) {
      SCOPED_TRACE(concat(parts, " in ", dtype));
      const auto m = model(dtype);
      const std::vector<double> before = logits_of(*m, expected_);
      const auto values = values_of(*m);
      apply_global_transforms(*m, rotated(parts, 3));
      if (parts == std::string("r3")) {
        EXPECT_EQ(changed_parameters(*m, values), 0u);
        EXPECT_TRUE(m->block(0).attention_online);
      } else {
        EXPECT_GE(changed_parameters(*m, values), 2u);
      }
      EXPECT_LE(relative_distance(logits_of(*m, expected_), before),
                dtype == Dtype::f64 ? 1e-11 : 1e-5);
    }
  }
}

TEST_P(RotationOf, FoldsGainsAndUntiesTheHead) {
  const auto m = model(Dtype::f32);
  const auto before = values_of(*m);
  const bool tied = m->config.tie_word_embeddings;
  apply_global_transforms(*m, rotated("r1"));
  EXPECT_FALSE(m->config.tie_word_embeddings);
  const auto after = values_of(*m);
  EXPECT_EQ(after.size(), before.size() + (tied ? 1 : 0));
  EXPECT_TRUE(after.contains("lm_head.weight"));
  for (const auto& [path, values] : after) {
    if (path.find("norm.weight") == std::string::npos || path.find("q_norm") != std::string::npos ||
        path.find("k_norm") != std::string::npos) {
      continue;
    }
    for (const double gain : values) ASSERT_EQ(gain, 1.0) << path;
  }
  expect_error<std::invalid_argument>([&] { apply_global_transforms(*m, rotated("r1")); },
                                      {"transformed already"});
}

TEST_P(RotationOf, RotatesBlocksThatComeFromTheDiskInTheSameWay) {
  const auto whole = model(Dtype::f32);
  const auto opened = open_model(fixture(GetParam()), Dtype::f32, Device::cpu());
  opened->load_block(1);  // one that is in memory already
  for (Transformer* m : {whole.get(), opened.get()}) {
    apply_global_transforms(*m, rotated("r1_r2_r3_r4", 2));
  }
  EXPECT_EQ(logits_of(*opened, expected_), logits_of(*whole, expected_));
  EXPECT_EQ(digest_of(*opened), digest_of(*whole));
  opened->release_block(1);
  EXPECT_EQ(logits_of(*opened, expected_), logits_of(*whole, expected_));
  opened->load_all_blocks();
  EXPECT_EQ(logits_of(*opened, expected_), logits_of(*whole, expected_));
}

TEST_P(RotationOf, LeavesPreprocessingItsFunction) {
  for (const char* names : {"outliers:3x20+cfp_activation", "smoothquant"}) {
    const auto m = model(Dtype::f64);
    const std::vector<double> before = logits_of(*m, expected_);
    apply_global_transforms(*m, rotated("r1_r2_r4"));
    PreprocessContext context;
    context.weight.bits = context.activation.bits = 4;
    const auto notes = apply_preprocess(
        names, *m, {{1, 5, 9, 30, 2, 7, 11, 3}, {4, 4, 8, 12, 40, 41, 3, 9}}, context);
    EXPECT_LE(relative_distance(logits_of(*m, expected_), before), 1e-10) << names;
    std::string all;
    for (const std::string& note : notes) all += note + "\n";
    EXPECT_NE(all.find("online transform"), std::string::npos) << all;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, RotationOf,
                         ::testing::Values("llama", "llama-linear-rope", "mistral",
                                           "mistral-free-head-dim", "qwen2", "qwen2-yarn", "qwen3",
                                           "opt", "granite", "smollm3"),
                         [](const auto& one) { return test_name(one.param); });

TEST(Rotation, KeepsTheFunctionOfAGatedBlockWithBiasesEverywhere) {
  ModelConfig config = tiny_config(3);
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.attention_bias = config.attention_output_bias = config.mlp_bias = true;
  config.tie_word_embeddings = true;
  const auto ids = Tensor::from(tiny_segments(1, 14)[0], {14});
  const auto random_model = [&] {
    auto m = make_model(config, Dtype::f64, Device::cpu());
    uint64_t stream = 0;
    m->visit("", [&](const std::string&, Var& p) {
      kernels::fill_normal(p.value(), 0.0, 0.4, 2, stream++);
    });
    return m;
  };
  for (const char* parts : all_parts) {
    const auto m = random_model();
    const auto before = m->forward(ids, {1, 14}).value().to_vector<double>();
    apply_global_transforms(*m, rotated(parts));
    EXPECT_LE(relative_distance(m->forward(ids, {1, 14}).value().to_vector<double>(), before),
              1e-11)
        << parts;
  }
}

TEST(Rotation, KeepsTheFunctionOfTheEmbeddedModel) {
  const std::filesystem::path folder = std::filesystem::path(CBQ_SOURCE_DIR) / "models/embedded";
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 48; ++i) ids.push_back(i == 0 ? 1 : 7 + (i * i * 13) % 2000);
  const Tensor input = Tensor::from(ids, {48});
  NoGrad none;
  const auto m = load_model(folder, Dtype::f32, Device::cpu());
  const auto before = m->forward(input, {1, 48}).value().to_vector<double>();
  apply_global_transforms(*m, rotated("r1_r2_r4", 1));
  EXPECT_LE(relative_distance(m->forward(input, {1, 48}).value().to_vector<double>(), before),
            1e-4);
}

TEST(Rotation, GeneratesTheSameWithKeptKeysAndValues) {
  const auto m = tiny_model();
  apply_global_transforms(*m, rotated("r1_r2_r3_r4"));
  const std::vector<int32_t> ids = tiny_segments(1, 10)[0];
  NoGrad none;
  const auto whole = m->forward(Tensor::from(ids, {10}), {1, 10}).value().to_vector<double>();
  Decoder decoder(*m, 1, 10);
  std::vector<double> last;
  for (const int32_t id : ids)
    last = decoder.next(Tensor::from(std::vector<int32_t>{id}, {1})).to_vector<double>();
  EXPECT_LE(relative_distance(last, {whole.end() - static_cast<long>(last.size()), whole.end()}),
            1e-5);
}

TEST(Rotation, RefusesFamiliesThatItCannotRotate) {
  const auto refused = [](const char* name, const char* parts,
                          std::initializer_list<const char*> words) {
    const auto m = load_model(fixture(name), Dtype::f32, Device::cpu());
    const auto before = values_of(*m);
    expect_error<std::invalid_argument>([&] { apply_global_transforms(*m, rotated(parts)); },
                                        words);
    EXPECT_EQ(values_of(*m), before) << name;
    EXPECT_TRUE(m->transforms.empty());
  };
  refused("bloom", "r1", {"BloomForCausalLM", "r1", "norm of the embedding"});
  refused("opt-post-norm", "r1_r2", {"OPTForCausalLM", "r1", "residual stream"});
  refused("opt-bare", "r1", {"OPTForCausalLM", "no weights"});
  refused("olmo2", "r1", {"Olmo2ForCausalLM", "r1", "behind attention and feed-forward part"});
  refused("gemma3", "r1", {"Gemma3ForCausalLM", "r1", "behind attention and feed-forward part"});
  refused("gemma2", "r1", {"Gemma2ForCausalLM", "r1", "behind attention and feed-forward part"});
  refused("gpt2", "r2", {"GPT2LMHeadModel", "r2", "fused"});
  refused("phi3", "r2", {"Phi3ForCausalLM", "r2", "fused"});
  refused("stablelm", "r1", {"StableLmForCausalLM", "mlp.", "has no bias"});
  refused("gpt-neox-sequential", "r1", {"query_key_value", "has no bias"});
}

/// Queries, keys and values are one projection, head by head; r2 rotates the rows of the values.
TEST(Rotation, KeepsTheFunctionOfAFusedProjection) {
  for (const char* name : {"bloom", "gpt-neox"}) {
    const ExpectedResults expected(name);
    for (const char* parts : {"r2", "r3_r4", "r2_r3_r4"}) {
      const auto m = load_model(fixture(name), Dtype::f32, Device::cpu());
      const auto before = logits_of(*m, expected);
      apply_global_transforms(*m, rotated(parts, 3));
      EXPECT_LE(relative_distance(logits_of(*m, expected), before), 1e-5) << name << " " << parts;
    }
  }
}

TEST(Rotation, LeavesQueriesAndKeysOfAFusedProjectionAlone) {
  const auto bloom = load_model(fixture("bloom"), Dtype::f64, Device::cpu());
  const int64_t dim = bloom->config.head_dim, in = bloom->config.hidden_size;
  const auto before = values_of(*bloom);
  apply_global_transforms(*bloom, rotated("r2", 3));
  const auto after = values_of(*bloom);
  for (const char* name : {"weight", "bias"}) {
    const std::string path = concat("transformer.h.0.self_attention.query_key_value.", name);
    const std::vector<double>&a = before.at(path), &b = after.at(path);
    const int64_t width = name == std::string("weight") ? in : 1;
    for (size_t i = 0; i < a.size(); ++i) {
      const int64_t part = static_cast<int64_t>(i) / width / dim % 3;
      if (part == 2) {
        ASSERT_NE(a[i], b[i]) << path << " " << i;
      } else {
        ASSERT_EQ(a[i], b[i]) << path << " " << i;
      }
    }
  }
}

TEST(Rotation, KeepsTheFunctionOfFusedProjections) {
  for (const char* name : {"phi3", "phi3-partial-longrope", "gpt-neox", "gpt2", "gpt2-by-layer",
                           "qwen3-moe", "qwen3-moe-mixed"}) {
    const auto m = load_model(fixture(name), Dtype::f64, Device::cpu());
    const ExpectedResults expected(name);
    const std::vector<double> before = logits_of(*m, expected);
    apply_global_transforms(*m, rotated("r1_r3_r4"));
    EXPECT_LE(relative_distance(logits_of(*m, expected), before), 1e-10) << name;
  }
}

/// R1 turns the router and every expert, R4 stands before every expert's down.
TEST(Rotation, KeepsTheFunctionOfExperts) {
  const ExpectedResults expected("qwen3-moe-mixed");
  for (const char* parts : {"r1", "r1_r2", "r4", "r1_r2_r3_r4"}) {
    const auto m = load_model(fixture("qwen3-moe-mixed"), Dtype::f64, Device::cpu());
    const std::vector<double> before = logits_of(*m, expected);
    const auto router = values_of(*m).at("model.layers.0.mlp.gate.weight");
    apply_global_transforms(*m, rotated(parts, 2));
    EXPECT_LE(relative_distance(logits_of(*m, expected), before), 1e-10) << parts;
    const bool turns = std::string(parts).starts_with("r1");
    EXPECT_EQ(values_of(*m).at("model.layers.0.mlp.gate.weight") != router, turns) << parts;
    size_t online = 0;
    for (const NamedLinear& l : m->block(0).linears()) online += l.linear->online != nullptr;
    EXPECT_EQ(online, std::string(parts).ends_with("r4") ? 5u : 0u) << parts;
  }
}

TEST(Rotation, PartsAreNamedInOrder) {
  EXPECT_FALSE(rotation_parts("none").any());
  const RotationParts some = rotation_parts("r1_r4");
  EXPECT_TRUE(some.r1 && !some.r2 && some.r4);
  const RotationParts blocks = rotation_parts("block64_r3");
  EXPECT_TRUE(blocks.r1 && blocks.block64 && !blocks.r2 && blocks.r3 && !blocks.r4);
  EXPECT_FALSE(some.block64);
  for (const char* text : {"", "r1_", "_r1", "r2_r1", "r1_r1", "R1", "r5", "r1+r2", "none_r1",
                           "r1_block64", "block64_r1", "block32", "r4_r3"}) {
    expect_error<std::invalid_argument>([&] { rotation_parts(text); }, {"rotation", "r1_r2"});
  }
  Settings settings = rotated("r7");
  expect_error<std::invalid_argument>([&] { validate(settings, 2); }, {"rotation", "r7"});
  EXPECT_TRUE(global_transforms().has("rotation"));
}

TEST(Rotation, EverySeedAndPartIsAnotherModel) {
  std::set<std::string> digests;
  const auto digest_with = [](const Settings& settings) {
    const auto m = tiny_model();
    apply_global_transforms(*m, settings);
    return digest_of(*m);
  };
  EXPECT_EQ(digest_with(rotated("none", 4)), digest_of(*tiny_model()));
  digests.insert(digest_with(rotated("none")));
  for (const char* parts : all_parts) digests.insert(digest_with(rotated(parts)));
  digests.insert(digest_with(rotated("r1", 1)));
  digests.insert(digest_with(rotated("r2", 1)));
  EXPECT_EQ(digests.size(), 11u);
  EXPECT_EQ(digest_with(rotated("r1_r2_r4")), digest_with(rotated("r1_r2_r4")));
}

/// Models whose width is a multiple of 64, which those of the fixtures are not.
std::unique_ptr<Transformer> wide_model(const char* family, Dtype dtype) {
  ModelConfig config = ModelConfig::load(fixture(family));
  config.hidden_size = 128;
  if (config.embedding_size > 0) config.embedding_size = 128;
  config.num_heads = config.num_kv_heads = 4;
  config.head_dim = 32;
  auto m = make_model(config, dtype, Device::cpu());
  uint64_t stream = 0;
  m->visit("", [&](const std::string&, Var& p) {
    if (p.value().rank() == 2) {
      kernels::fill_normal(p.value(), 0.0, 0.2, 5, stream++);
    } else {
      kernels::fill_uniform(p.value(), 0.5, 1.5, 5, stream++);
    }
  });
  return m;
}

TEST(Rotation, InBlocksOf64KeepsTheFunction) {
  const Tensor ids = Tensor::from(tiny_segments(1, 10)[0], {10});
  NoGrad none;
  for (const char* family : {"llama", "qwen3", "opt"}) {
    for (const char* parts : {"block64", "block64_r2_r3_r4"}) {
      for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
        SCOPED_TRACE(concat(family, " ", parts, " ", dtype));
        const auto m = wide_model(family, dtype);
        const auto before = m->forward(ids, {1, 10}).value().to_vector<double>();
        EXPECT_EQ(apply_global_transforms(*m, rotated(parts, 3)).size(), 0u) << "notes";
        EXPECT_LE(relative_distance(m->forward(ids, {1, 10}).value().to_vector<double>(), before),
                  dtype == Dtype::f64 ? 1e-11 : 1e-5);
      }
    }
  }
}

// Channels of the stream mix within their blocks of 64 and nowhere else.
TEST(Rotation, InBlocksOf64LeavesOtherBlocksAlone) {
  const auto embedded = [](const char* parts, uint64_t seed) {
    const auto m = wide_model("llama", Dtype::f64);
    const Tensor ids = Tensor::from(std::vector<int32_t>{3}, {1});
    NoGrad none;
    Tensor table = m->residual_ends().embeddings.front()->value();
    for (int64_t c = 0; c < 128; ++c) table.data<double>()[3 * 128 + c] = c == 70 ? 8.0 : 0.0;
    apply_global_transforms(*m, rotated(parts, seed));
    return m->embed(ids, {1, 1}).value().to_vector<double>();
  };
  const std::vector<double> blocks = embedded("block64", 0), whole = embedded("r1", 0);
  for (size_t c = 0; c < 128; ++c) {
    EXPECT_NEAR(std::abs(blocks[c]), c < 64 ? 0.0 : 1.0, 1e-12) << c;
    EXPECT_GT(std::abs(whole[c]), 0.1) << c;
  }
  std::set<std::vector<double>> seeds;
  for (uint64_t seed = 0; seed < 8; ++seed) seeds.insert(embedded("block64", seed));
  EXPECT_EQ(seeds.size(), 2u) << "one input channel: one sign";
}

TEST(Rotation, InBlocksOf64RefusesOtherWidths) {
  ModelConfig config = tiny_config();
  config.hidden_size = 96;
  const auto m = tiny_model(config);
  expect_error<std::invalid_argument>(
      [&] { apply_global_transforms(*m, rotated("block64_r2")); },
      {"block64_r2", "LlamaForCausalLM", "96", "multiple of 64", "r1"});
  EXPECT_TRUE(m->transforms.empty());
}

/// What reaches the products of attention.
class SeenOperands : public AttentionTransform {
 public:
  Var operand(const Var& x, int64_t, AttentionOperand) override {
    seen.push_back(x.value().to_vector<double>());
    return x;
  }
  std::vector<std::vector<double>> seen;  // queries, keys, values
};

TEST(Rotation, R3SpreadsQueriesAndKeysOfEveryHeadBeforeTheyAreQuantized) {
  const auto operands = [](const char* parts) {
    const auto m = load_model(fixture("qwen3"), Dtype::f64, Device::cpu());
    apply_global_transforms(*m, rotated(parts));
    const auto seen = std::make_shared<SeenOperands>();
    m->block(0).attention_transform = seen;
    NoGrad none;
    m->forward(Tensor::from(tiny_segments(1, 6)[0], {6}), {1, 6});
    return seen->seen;
  };
  const auto plain = operands("none"), rotated_operands = operands("r3");
  ASSERT_EQ(plain.size(), 3u);
  ASSERT_EQ(rotated_operands.size(), 3u);
  constexpr size_t head_dim = 16;
  for (const size_t which : {0u, 1u}) {
    for (size_t i = 0; i < plain[which].size(); i += head_dim) {  // a head of a token
      std::vector<double> expected(head_dim, 0.0);
      for (size_t r = 0; r < head_dim; ++r) {
        for (size_t c = 0; c < head_dim; ++c) {  // Sylvester's matrix
          const double sign = std::popcount(r & c) % 2 == 0 ? 0.25 : -0.25;
          expected[r] += sign * plain[which][i + c];
        }
        EXPECT_NEAR(rotated_operands[which][i + r], expected[r], 1e-10);
      }
    }
  }
  EXPECT_EQ(rotated_operands[2], plain[2]) << "values";
}

TEST(Rotation, R3IsRefusedWhereAttentionIsNotQuantized) {
  Settings settings = rotated("r1_r3");
  settings.abits = 4;
  expect_error<std::invalid_argument>(
      [&] { validate(settings, 2); },
      {"rotation", "r1_r3", "queries and keys", "quantize_attention"});
  settings.quantize_attention = true;
  validate(settings, 2);
}

TEST(Rotation, QuantizeWantsTheModelThatTheSettingsDescribe) {
  const auto m = tiny_model();
  Settings settings = rotated("r1");
  settings.reconstruct = "none";
  expect_error<std::invalid_argument>(
      [&] { quantize(*m, tiny_segments(2, 8), settings, nullptr, {}); },
      {"rotation r1, seed 0", "none", "apply_global_transforms"});
  apply_global_transforms(*m, settings);
  quantize(*m, tiny_segments(2, 8), settings, nullptr, {});
  expect_error<std::invalid_argument>(
      [&] { quantize(*m, tiny_segments(2, 8), Settings(), nullptr, {}); }, {"rotation r1, seed 0"});
}

}  // namespace
}  // namespace cbq::test::test_rotation
