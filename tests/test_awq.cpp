// AWQ: scales and clips against an implementation that shares nothing with it
// (tools/fixtures/make_awq_fixture.py), and where it leaves something out.
#include <algorithm>
#include <cmath>

#include "autograd/worst_error.h"
#include "nn/formats/safetensors.h"
#include "quant/transforms/local/tools.h"
#include "tests/fixtures.h"
#include "tests/test_data.h"
#include "tests/test_preprocess_model.h"
#include "tests/tiny_model.h"

namespace cbq::test_awq {
namespace {

using Segments = std::vector<std::vector<int32_t>>;

SafetensorsFile fixture_file() {
  return SafetensorsFile::open(CBQ_SOURCE_DIR "/tests/fixtures/awq.safetensors");
}

struct Case {
  const char* name;
  int bits;
  int64_t group;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

/// The cases of make_awq_fixture.py.
constexpr Case cases[] = {{"w3", 3, 0}, {"w2", 2, 0}, {"w4_group16", 4, 16}, {"w2_group8", 2, 8}};

/// The model of make_awq_fixture.py in f64.
std::unique_ptr<Transformer> fixture_model() {
  ModelConfig c;
  c.vocab_size = 40;
  c.hidden_size = 32;
  c.intermediate_size = 48;
  c.num_layers = 2;
  c.num_heads = c.num_kv_heads = 4;
  c.head_dim = 8;
  c.max_position_embeddings = 32;
  c.norm_eps = 1e-6;
  c.tie_word_embeddings = true;
  auto model = make_model(c, Dtype::f64, Device::cpu());
  const SafetensorsFile file = fixture_file();
  model->visit("", [&](const std::string& path, Var& p) {
    if (path == "model.norm.weight") {
      kernels::fill(p.value(), 1.0);
    } else {
      p.value().copy_from(kernels::cast(file.load(path), Dtype::f64));
    }
  });
  return model;
}

Segments fixture_segments() {
  const Tensor ids = fixture_file().load("ids");
  const auto all = ids.to_vector<int32_t>();
  Segments segments;
  for (auto at = all.begin(); at != all.end(); at += ids.size(1)) {
    segments.emplace_back(at, at + ids.size(1));
  }
  return segments;
}

PreprocessContext context_of(const Case& c) {
  PreprocessContext context;
  context.weight.bits = c.bits;
  if (c.group > 0) {
    context.weight.granularity = Granularity::per_group;
    context.weight.group_size = c.group;
  }
  return context;
}

/// max|w| of runs of `group` values.
std::vector<double> magnitudes(const std::vector<double>& w, size_t group) {
  std::vector<double> largest;
  for (size_t at = 0; at < w.size(); at += group) {
    double most = 0.0;
    for (size_t i = at; i < at + group; ++i) most = std::max(most, std::abs(w[i]));
    largest.push_back(most);
  }
  return largest;
}

/// The rotary embedding's tables and the calibration sample are f32; neighbouring candidates differ
/// by 5 % of a clip, and of the exponent of a scale.
constexpr double tolerance = 1e-6;

class Awq : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Cases, Awq, ::testing::ValuesIn(cases),
                         [](const auto& one) { return std::string(one.param.name); });

/// By what the norms, and the rows of the linears that produce an activation, were divided.
TEST_P(Awq, ScalesAreThoseOfAnIndependentImplementation) {
  const auto model = fixture_model();
  auto before = test::values_of(*model);
  PreprocessContext context = context_of(GetParam());
  apply_preprocess("awq_scale", *model, fixture_segments(), context);
  auto after = test::values_of(*model);
  for (int block = 0; block < 2; ++block) {
    const std::string of_block = concat(GetParam().name, ".", block, ".");
    const std::string prefix = concat("model.layers.", block, ".");
    const auto expected = [&](const char* site) {
      return fixture_file().load(concat(of_block, site, ".scale")).to_vector<double>();
    };
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
      const auto s = expected(norm);
      for (size_t c = 0; c < s.size(); ++c) {
        const std::string path = prefix + norm + ".weight";
        EXPECT_NEAR(before[path][c] / after[path][c], s[c], tolerance * s[c]) << path << " " << c;
      }
    }
    // Its columns were multiplied with the factors of what it reads.
    const auto read = std::map<std::string, std::vector<double>>{
        {"self_attn.v_proj", expected("input_layernorm")},
        {"mlp.up_proj", expected("post_attention_layernorm")}};
    for (const auto& [producer, columns] : read) {
      const auto s = expected(producer.c_str());
      const std::string path = prefix + producer + ".weight";
      for (size_t i = 0; i < before[path].size(); ++i) {
        const double factor = columns[i % columns.size()] / s[i / columns.size()];
        EXPECT_NEAR(after[path][i], before[path][i] * factor, tolerance * std::abs(after[path][i]));
      }
    }
  }
}

TEST_P(Awq, ClipsAreThoseOfAnIndependentImplementation) {
  const auto scaled = fixture_model(), clipped = fixture_model();
  PreprocessContext one = context_of(GetParam()), both = context_of(GetParam());
  apply_preprocess("awq_scale", *scaled, fixture_segments(), one);
  const auto notes = apply_preprocess("awq_scale+awq_clip", *clipped, fixture_segments(), both);
  auto before = test::values_of(*scaled), after = test::values_of(*clipped);
  size_t layers = 0, changed = 0, groups = 0, compared = 0, equal = 0;
  for (int block = 0; block < 2; ++block) {
    for (const auto& [name, linear] : clipped->blocks[static_cast<size_t>(block)]->linears()) {
      const std::string path = concat("model.layers.", block, ".", name, ".weight");
      if (name == "self_attn.q_proj" || name == "self_attn.k_proj") {
        EXPECT_EQ(after[path], before[path]) << path;
        continue;
      }
      const auto in = static_cast<size_t>(linear->in_features());
      const size_t group = GetParam().group > 0 ? static_cast<size_t>(GetParam().group) : in;
      const std::string entry = concat(GetParam().name, ".", block, ".", name);
      const auto expected = fixture_file().load(entry + ".clip").to_vector<double>();
      const auto stable = fixture_file().load(entry + ".stable").to_vector<uint8_t>();
      const auto largest = magnitudes(after[path], group);
      ASSERT_EQ(largest.size(), expected.size()) << path;
      for (size_t i = 0; i < largest.size(); ++i) {
        const bool same = std::abs(largest[i] - expected[i]) <= tolerance * expected[i];
        EXPECT_TRUE(same || stable[i] == 0) << path << " " << i;
        equal += same ? 1 : 0;
        compared += stable[i];
      }
      groups += largest.size();
      changed += after[path] != before[path] ? 1 : 0;
      ++layers;
    }
  }
  EXPECT_EQ(layers, 10u);
  EXPECT_EQ(changed, 10u);
  // Of those that last bits decide (make_awq_fixture.py) few differ.
  EXPECT_GE(2 * compared, groups);
  EXPECT_GE(static_cast<double>(equal), 0.97 * static_cast<double>(groups));
  EXPECT_NE(test::joined(notes).find("left 4 projections of queries and keys"), std::string::npos)
      << test::joined(notes);
}

TEST(AwqScale, KeepsTheFunctionOfEveryFamily) {
  for (const char* name : {"llama", "qwen3", "opt", "bloom"}) {
    SCOPED_TRACE(name);
    for (const char* stage : {"awq_scale", "awq_scale:all_sites"}) {
      const auto model = load_model(test::fixture(name), Dtype::f64, Device::cpu());
      const Segments segments = tiny_segments(4, 10);
      const auto logits = [&] {
        NoGrad none;
        std::vector<double> all;
        for (const auto& ids : segments) {
          const auto n = static_cast<int64_t>(ids.size());
          const Var y = model->forward(Tensor::from(ids, {n}), Sequence{1, n});
          for (const double v : y.value().to_vector<double>()) all.push_back(v);
        }
        return all;
      };
      const std::vector<double> before = logits();
      const auto values = test::values_of(*model);
      PreprocessContext context = context_of(cases[0]);
      apply_preprocess(stage, *model, segments, context);
      EXPECT_NE(test::values_of(*model), values);
      double size = 0.0;
      for (const double v : before) size = std::max(size, std::abs(v));
      EXPECT_LT(largest_difference(logits(), before), 1e-9 * size);
    }
  }
}

std::string notes_of(const char* family, const char* stage) {
  const auto model = load_model(test::fixture(family), Dtype::f32, Device::cpu());
  PreprocessContext context = context_of(cases[0]);
  return test::joined(apply_preprocess(stage, *model, tiny_segments(4, 10), context));
}

TEST(AwqScale, NamesTheSitesThatItLeavesOut) {
  const auto expect_notes = [](const char* family, const char* stage,
                               std::initializer_list<const char*> parts) {
    const std::string notes = notes_of(family, stage);
    for (const char* part : parts) {
      EXPECT_NE(notes.find(part), std::string::npos) << family << ": " << part << "\n" << notes;
    }
  };
  expect_notes("llama", "awq_scale",
               {"self_attn.v_proj: query heads share a key-value head", "of 6 places"});
  expect_notes("llama", "awq_scale:all_sites", {"of 8 places"});
  expect_notes("opt", "awq_scale", {"of 8 places"});
  expect_notes(
      "bloom", "awq_scale",
      {"no factor passes GELU", "query_key_value: the projection is fused", "of 4 places"});
  expect_notes("bloom", "awq_scale:all_sites", {"no factor passes GELU", "of 6 places"});
  // Of its fused feed-forward projection, the rows of "up" take the factors of down_proj.
  expect_notes("phi3", "awq_scale", {"self_attn.qkv_proj: the projection is fused", "of 6 places"});
  expect_notes("opt-post-norm", "awq_scale", {"are the residual stream, too", "of 4 places"});
}

TEST(AwqClip, LeavesQueriesAndKeysOfEveryFamily) {
  for (const auto& [family, count] : {std::pair{"llama", 4},
                                      {"opt", 4},
                                      {"bloom", 2},
                                      {"opt-post-norm", 4},
                                      {"stablelm-parallel", 4},
                                      {"phi3", 2},
                                      {"gpt-neox", 2}}) {
    const std::string part = concat("left ", count, " projections of queries and keys");
    EXPECT_NE(notes_of(family, "awq_clip").find(part), std::string::npos)
        << notes_of(family, "awq_clip");
  }
}

TEST(AwqClip, AWholeTensorGetsOneRange) {
  const auto model = fixture_model();
  const auto before = test::values_of(*model);
  PreprocessContext context = context_of(cases[1]);
  context.weight.granularity = Granularity::per_tensor;
  apply_preprocess("awq_clip", *model, fixture_segments(), context);
  const std::string path = "model.layers.0.mlp.down_proj.weight";
  const auto w = before.at(path), clipped = test::values_of(*model).at(path);
  const double most = magnitudes(w, w.size())[0], kept = magnitudes(clipped, w.size())[0];
  const double steps = (1.0 - kept / most) / 0.05;
  EXPECT_NEAR(steps, std::round(steps), 1e-9);
  EXPECT_GT(steps, 0.5);
  for (size_t i = 0; i < w.size(); ++i) {
    EXPECT_EQ(clipped[i], std::clamp(w[i], -kept, kept));
  }
}

TEST(AwqStages, ArgumentsThatItDoesNotKnowAreRefused) {
  expect_error<std::invalid_argument>([] { parse_preprocessors("awq_scale:sites"); },
                                      {"awq_scale", "sites", "all_sites"});
  EXPECT_THROW(parse_preprocessors("awq_clip:0.5"), std::invalid_argument);
}

/// What the stage is for: with the weights' errors weighed by what they multiply, the model's
/// answer is closer.
TEST(AwqStages, BringsAQuantizedBlockCloserToTheOriginal) {
  const auto error_with = [](const std::string& stages) {
    const auto model = fixture_model(), original = fixture_model();
    PreprocessContext context = context_of(cases[0]);
    apply_preprocess(stages, *model, fixture_segments(), context);
    for (const NamedLinear& l : layers_of(*model, 0)) {
      l.linear->weight.set_value(quantize_nearest(l.linear->weight.value(), context, l.name));
    }
    NoGrad none;
    double error = 0.0;
    for (const auto& ids : fixture_segments()) {
      const auto n = static_cast<int64_t>(ids.size());
      const Var x = original->embed(Tensor::from(ids, {n}), {1, n});
      error += squared_distance(model->block(0).forward(x, {1, n}).value(),
                                original->block(0).forward(x, {1, n}).value());
    }
    return error;
  };
  const double nearest = error_with("none");
  EXPECT_LT(error_with("awq_scale"), 0.9 * nearest);
  EXPECT_LT(error_with("awq_scale+awq_clip"), error_with("awq_scale"));
}

}  // namespace
}  // namespace cbq::test_awq
