// Reading a model token by token with kept keys and values, and what is sampled that way.
#include <gtest/gtest.h>

#include <cmath>

#include "cbq/pipeline.h"
#include "cbq/sampling.h"
#include "kernels/attention/cached_attention.h"
#include "kernels/formulas/philox.h"
#include "kernels/ops.h"
#include "nn/decoder.h"
#include "nn/perplexity.h"
#include "nn/rope.h"
#include "tests/fixtures.h"
#include "tests/test_data.h"

namespace cbq::test::test_decoder {
namespace {

// ---- attention ----------------------------------------------------------------------------------

struct AttentionCase {
  int64_t batch, past, tokens, capacity, heads, kv_heads, dim;
  bool alibi;
  double cap = 0.0;
};

Tensor normal(const Shape& shape, Dtype dtype, uint64_t stream) {
  const Tensor t(shape, dtype);
  kernels::fill_normal(t, 0.0, 1.0, 3, stream);
  return t;
}

/// The equation of kernels/attention/cached_attention.h, one number at a time, in double.
std::vector<double> expected_attention(const AttentionCase& c, const std::vector<double>& q,
                                       const std::vector<double>& k, const std::vector<double>& v,
                                       const std::vector<double>& slopes) {
  std::vector<double> y(q.size());
  const auto at = [](int64_t i) { return static_cast<size_t>(i); };
  for (int64_t s = 0; s < c.batch; ++s) {
    for (int64_t t = 0; t < c.tokens; ++t) {
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t g = h / (c.heads / c.kv_heads), row = s * c.tokens + t;
        const int64_t count = c.past + t + 1;
        std::vector<double> weights(at(count));
        double total = 0.0;
        const auto key = [&](int64_t j, int64_t i) {
          return at(((s * c.capacity + j) * c.kv_heads + g) * c.dim + i);
        };
        for (int64_t j = 0; j < count; ++j) {
          double dot = 0.0;
          for (int64_t i = 0; i < c.dim; ++i) {
            dot += q[at((row * c.heads + h) * c.dim + i)] * k[key(j, i)];
          }
          dot /= std::sqrt(static_cast<double>(c.dim));
          if (c.cap > 0.0) dot = c.cap * std::tanh(dot / c.cap);
          if (c.alibi) dot += slopes[at(h)] * static_cast<double>(j);
          weights[at(j)] = std::exp(dot);
          total += weights[at(j)];
        }
        for (int64_t i = 0; i < c.dim; ++i) {
          double o = 0.0;
          for (int64_t j = 0; j < count; ++j) o += weights[at(j)] / total * v[key(j, i)];
          y[at((row * c.heads + h) * c.dim + i)] = o;
        }
      }
    }
  }
  return y;
}

TEST(CachedAttention, EqualsItsEquation) {
  for (const AttentionCase& c :
       {AttentionCase{3, 0, 1, 4, 2, 2, 8, false}, AttentionCase{2, 5, 1, 9, 4, 2, 64, false},
        AttentionCase{2, 7, 3, 10, 6, 2, 96, true}, AttentionCase{1, 40, 4, 64, 3, 1, 130, true},
        AttentionCase{5, 2, 2, 4, 4, 4, 5, true}, AttentionCase{2, 5, 1, 9, 4, 2, 64, false, 0.5},
        AttentionCase{1, 0, 3, 6, 2, 1, 7, true, 2.0}}) {
    for (const auto& [dtype, bound] : {std::pair{Dtype::f64, 1e-12}, std::pair{Dtype::f32, 2e-6},
                                       std::pair{Dtype::bf16, 2e-2}, std::pair{Dtype::f16, 3e-3}}) {
      SCOPED_TRACE(concat(dtype, " dim ", c.dim, " past ", c.past, " cap ", c.cap));
      const Tensor q = normal({c.batch * c.tokens, c.heads * c.dim}, dtype, 1);
      const Tensor k = normal({c.batch * c.capacity, c.kv_heads * c.dim}, dtype, 2);
      const Tensor v = normal({c.batch * c.capacity, c.kv_heads * c.dim}, dtype, 3);
      Tensor slopes;
      std::vector<double> slope_values;
      if (c.alibi) {
        for (int64_t h = 0; h < c.heads; ++h)
          slope_values.push_back(0.25 / static_cast<double>(1 + h));
        slopes = Tensor::from(slope_values, {c.heads}, Dtype::f32);
        slope_values = slopes.to_vector<double>();
      }
      const auto got =
          kernels::cached_attention(q, k, v, c.batch, c.past, c.heads, c.kv_heads, {slopes, c.cap})
              .to_vector<double>();
      const auto want = expected_attention(c, q.to_vector<double>(), k.to_vector<double>(),
                                           v.to_vector<double>(), slope_values);
      ASSERT_EQ(got.size(), want.size());
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_LE(std::abs(got[i] - want[i]), bound * (1.0 + std::abs(want[i]))) << i;
      }
    }
  }
}

TEST(CachedAttention, ASequenceDoesNotDependOnTheOthers) {
  const int64_t batch = 7, capacity = 12, width = 4 * 16;
  const Tensor q = normal({batch, width}, Dtype::f32, 1);
  const Tensor k = normal({batch * capacity, width}, Dtype::f32, 2),
               v = normal({batch * capacity, width}, Dtype::f32, 3);
  const auto all = kernels::cached_attention(q, k, v, batch, 9, 4, 4).to_vector<float>();
  for (int64_t s = 0; s < batch; ++s) {
    const auto rows = [&](const Tensor& t) { return t.slice(s * capacity, (s + 1) * capacity); };
    const auto one = kernels::cached_attention(q.slice(s, s + 1), rows(k), rows(v), 1, 9, 4, 4)
                         .to_vector<float>();
    EXPECT_EQ(one, std::vector<float>(all.begin() + s * width, all.begin() + (s + 1) * width));
  }
}

TEST(CachedAttention, AppendedRowsLieBehindThoseOfTheirSequence) {
  const Tensor cache = Tensor::zeros({2 * 3, 2}, Dtype::f32);
  kernels::append_rows(cache, Tensor::from<float>({1, 2, 3, 4}, {2, 2}), 2, 0);
  kernels::append_rows(cache, Tensor::from<float>({5, 6, 7, 8, 9, 10, 11, 12}, {4, 2}), 2, 1);
  EXPECT_EQ(cache.to_vector<float>(), (std::vector<float>{1, 2, 5, 6, 7, 8, 3, 4, 9, 10, 11, 12}));
}

TEST(CachedAttention, RefusesWhatDoesNotFit) {
  const Tensor cache = Tensor::zeros({6, 8}, Dtype::f32), q = Tensor::zeros({2, 16}, Dtype::f32);
  const auto attend = [&](const Tensor& query, int64_t past, int64_t heads, const Tensor& slopes) {
    return kernels::cached_attention(query, cache, cache, 2, past, heads, 2, slopes);
  };
  EXPECT_NO_THROW(attend(q, 2, 4, {}));
  expect_error<std::invalid_argument>([&] { attend(q, 3, 4, {}); }, {"capacity of 3"});
  expect_error<std::invalid_argument>([&] { attend(q, 0, 3, {}); }, {"3 query heads"});
  expect_error<std::invalid_argument>([&] { attend(q, 0, 2, {}); }, {"[2, 16]", "2 heads"});
  expect_error<std::invalid_argument>(
      [&] {
        attend(Tensor::zeros({2, 16}, Dtype::bf16), 0, 4, {});
      },
      {"bf16", "f32"});
  expect_error<std::invalid_argument>([&] { attend(q, 0, 4, Tensor::zeros({2}, Dtype::f32)); },
                                      {"slopes"});
  expect_error<std::invalid_argument>(
      [&] {
        kernels::cached_attention(q, cache, cache, 2, 0, 4, 2, {Tensor(), -2.0});
      },
      {"cached_attention", "soft cap of -2"});
  expect_error<std::invalid_argument>(
      [&] {
        kernels::append_rows(cache, Tensor::zeros({4, 8}, Dtype::f32), 2, 2);
      },
      {"capacity of 3"});
}

// ---- families -----------------------------------------------------------------------------------

class DecodedFamily : public ::testing::TestWithParam<std::string> {};

/// Logits of all positions, read in steps of these many tokens (the last one repeats).
std::vector<double> decoded(Transformer& model, const Tensor& ids, const Sequence& s,
                            const std::vector<int64_t>& steps) {
  const auto all = ids.to_vector<int32_t>();
  const int64_t vocabulary = model.config.vocab_size;
  std::vector<double> logits(static_cast<size_t>(s.batch * s.tokens * vocabulary));
  Decoder decoder(model, s.batch, s.tokens);
  for (size_t i = 0; decoder.length() < s.tokens; ++i) {
    const int64_t begin = decoder.length();
    const int64_t step = std::min(steps[std::min(i, steps.size() - 1)], s.tokens - begin);
    std::vector<int32_t> next;
    for (int64_t b = 0; b < s.batch; ++b) {
      const auto at = all.begin() + b * s.tokens + begin;
      next.insert(next.end(), at, at + step);
    }
    const auto part = decoder.next_all(Tensor::from(next, {s.batch * step})).to_vector<double>();
    for (int64_t b = 0; b < s.batch; ++b) {
      std::copy(part.begin() + b * step * vocabulary, part.begin() + (b + 1) * step * vocabulary,
                logits.begin() + (b * s.tokens + begin) * vocabulary);
    }
  }
  return logits;
}

TEST_P(DecodedFamily, GivesTheLogitsOfTransformers) {
  const auto model = load_model(fixture(GetParam()), Dtype::f32, Device::cpu());
  const ExpectedResults expected(GetParam());
  if (expected.sequence.tokens > uniform_length(model->config.rope)) {
    GTEST_SKIP() << "the angles of a sequence as long as this one are its own: cached keys have "
                    "those of the length at which they were made";
  }
  const auto want = expected.file.load("logits_f32").to_vector<double>();
  for (const std::vector<int64_t>& steps :
       {std::vector<int64_t>{1}, std::vector<int64_t>{5, 1}, std::vector<int64_t>{1, 4, 2, 3}}) {
    EXPECT_LE(relative_distance(decoded(*model, expected.inputs, expected.sequence, steps), want),
              1e-5);
  }
}

TEST_P(DecodedFamily, EqualsTheFullPassInF64) {
  const auto model = load_model(fixture(GetParam()), Dtype::f64, Device::cpu());
  const ExpectedResults expected(GetParam());
  NoGrad none;
  // One sequence, as long as its angles do not depend on its length.
  const Sequence first{1, std::min(expected.sequence.tokens, uniform_length(model->config.rope))};
  const Tensor ids = expected.inputs.slice(0, first.tokens);
  const auto want = model->forward(ids, first).value().to_vector<double>();
  EXPECT_LE(relative_distance(decoded(*model, ids, first, {1}), want), 1e-12);
  // All sequences together.
  if (first.tokens < expected.sequence.tokens) return;
  const auto all = model->forward(expected.inputs, expected.sequence).value().to_vector<double>();
  EXPECT_LE(relative_distance(decoded(*model, expected.inputs, expected.sequence, {1}), all),
            1e-12);
}

INSTANTIATE_TEST_SUITE_P(Decoder, DecodedFamily, ::testing::ValuesIn(fixture_names()),
                         [](const auto& one) { return test_name(one.param); });

TEST(Decoder, NextIsTheLastRow) {
  const auto model = load_model(fixture(fixture_names()[0]), Dtype::f32, Device::cpu());
  const Tensor ids = Tensor::from<int32_t>({1, 2, 3, 4, 5, 6}, {6});
  const Tensor last = Decoder(*model, 2, 3).next(ids);
  const Tensor all = Decoder(*model, 2, 3).next_all(ids);
  ASSERT_EQ(last.shape(), (Shape{2, model->config.vocab_size}));
  ASSERT_EQ(all.shape(), (Shape{6, model->config.vocab_size}));
  EXPECT_LE(
      relative_distance(last.slice(0, 1).to_vector<double>(), all.slice(2, 3).to_vector<double>()),
      1e-6);
  EXPECT_LE(
      relative_distance(last.slice(1, 2).to_vector<double>(), all.slice(5, 6).to_vector<double>()),
      1e-6);
}

TEST(Decoder, EndsWithItsRoomAndTheContext) {
  const auto model = load_model(fixture("mistral"), Dtype::f32, Device::cpu());
  expect_error<std::invalid_argument>([&] { Decoder(*model, 1, 17); }, {"17", "16"});
  expect_error<std::invalid_argument>([&] { Decoder(*model, 0, 4); }, {"0 sequences"});
  Decoder decoder(*model, 2, 2);
  const Tensor two = Tensor::from<int32_t>({1, 2}, {2});
  expect_error<std::invalid_argument>([&] { decoder.next(Tensor::from<int32_t>({1}, {1})); },
                                      {"1 ids", "2 sequences"});
  decoder.next(two);
  decoder.next(two);
  EXPECT_EQ(decoder.length(), 2);
  expect_error<std::invalid_argument>([&] { decoder.next(two); }, {"capacity of 2"});
}

// ---- sampling -----------------------------------------------------------------------------------

/// Every prefix computed anew: what sampling was before keys and values were kept.
std::vector<std::vector<int32_t>> sampled_anew(Transformer& model, int64_t count, int64_t length,
                                               uint64_t seed) {
  NoGrad none;
  std::vector<std::vector<int32_t>> all;
  const auto vocabulary = static_cast<size_t>(model.config.vocab_size);
  for (int64_t s = 0; s < count; ++s) {
    std::vector<int32_t> ids = {static_cast<int32_t>(model.config.bos_token_id)};
    while (static_cast<int64_t>(ids.size()) < length) {
      const auto n = static_cast<int64_t>(ids.size());
      const auto logits =
          model.forward(Tensor::from(ids, {n}), {1, n}).value().slice(n - 1, n).to_vector<double>();
      const double top = *std::max_element(logits.begin(), logits.end());
      double total = 0.0;
      for (const double x : logits) total += std::exp(x - top);
      double left =
          philox_uniform(seed, static_cast<uint64_t>(s), static_cast<uint64_t>(n)) * total;
      size_t id = 0;
      while (id + 1 < vocabulary && (left -= std::exp(logits[id] - top)) >= 0.0) ++id;
      ids.push_back(static_cast<int32_t>(id));
    }
    all.push_back(ids);
  }
  return all;
}

TEST(Sampling, DrawsTheIdsOfPrefixesComputedAnew) {
  for (const std::string& name : fixture_names()) {
    const auto model = load_model(fixture(name), Dtype::f32, Device::cpu());
    if (model->config.bos_token_id < 0) continue;
    SCOPED_TRACE(name);
    EXPECT_EQ(sample_segments(*model, 3, 16, 4), sampled_anew(*model, 3, 16, 4));
  }
}

TEST(Sampling, DrawsTheSameIdsFromTheEmbeddedModel) {
  const auto model = load_model(std::filesystem::path(CBQ_SOURCE_DIR) / "models/embedded",
                                Dtype::f32, Device::cpu());
  EXPECT_EQ(sample_segments(*model, 2, 96, 7), sampled_anew(*model, 2, 96, 7));
}

TEST(Sampling, ASegmentDoesNotDependOnTheirNumber) {
  const auto model = load_model(fixture("llama"), Dtype::f32, Device::cpu());
  const auto many = sample_segments(*model, 67, 9, 1);  // more than are sampled together
  for (const int64_t count : {1, 2, 64, 65}) {
    const auto some = sample_segments(*model, count, 9, 1);
    EXPECT_EQ(some, (decltype(some)(many.begin(), many.begin() + count))) << count;
  }
}

TEST(Sampling, TellsHowFarItIsAndStopsWhenToldTo) {
  const auto model = load_model(fixture("llama"), Dtype::f32, Device::cpu());
  std::vector<int64_t> seen;
  int64_t expected_total = sampling_passes(*model, 65, 5);
  EXPECT_EQ(expected_total, 2 * 64 * 4);
  sample_segments(*model, 65, 5, 1, [&](int64_t done, int64_t total) {
    EXPECT_EQ(total, expected_total);
    seen.push_back(done);
  });
  EXPECT_EQ(seen, (std::vector<int64_t>{64, 128, 192, 256, 320, 384, 448, 512}));
  int64_t steps = 0;
  EXPECT_THROW(sample_segments(*model, 65, 5, 1,
                               [&](int64_t, int64_t) {
                                 if (++steps == 2) throw Interrupted("stop");
                               }),
               Interrupted);
  EXPECT_EQ(steps, 2);
}

TEST(Sampling, WithBlocksOnDemandDrawsTheSameIds) {
  for (const std::string& name : fixture_names()) {
    const auto whole = load_model(fixture(name), Dtype::f32, Device::cpu());
    if (whole->config.bos_token_id < 0) continue;
    SCOPED_TRACE(name);
    const auto model = open_model(fixture(name), Dtype::f32, Device::cpu());
    // 67 segments are two groups, which read each block together.
    std::vector<int64_t> seen, expected_seen;
    int64_t loads = 0;
    model->change_blocks([&](Block&, int64_t) { ++loads; });  // called for every block that is read
    const auto ids = sample_segments(*model, 67, 6, 3, [&](int64_t done, int64_t) {
      seen.push_back(done);
      for (int64_t b = 0; b < model->block_count(); ++b) EXPECT_FALSE(model->is_loaded(b));
    });
    EXPECT_EQ(ids, sample_segments(*whole, 67, 6, 3,
                                   [&](int64_t done, int64_t) { expected_seen.push_back(done); }));
    EXPECT_EQ(seen, expected_seen);
    EXPECT_EQ(sampling_reads(*whole, 67, 6), 0);
    EXPECT_EQ(sampling_reads(*model, 67, 6), 5);
    EXPECT_EQ(loads, 5 * model->block_count());
  }
}

TEST(Decoder, SeveralTogetherAreEachAlone) {
  const auto model = load_model(fixture("llama"), Dtype::f32, Device::cpu());
  std::vector<Decoder> together, alone;
  for (const int64_t batch : {2, 3}) {
    together.emplace_back(*model, batch, 4);
    alone.emplace_back(*model, batch, 4);
  }
  for (const int64_t tokens : {2, 1}) {
    std::vector<Tensor> ids;
    for (const int64_t batch : {2, 3}) {
      std::vector<int32_t> some(static_cast<size_t>(batch * tokens));
      for (size_t i = 0; i < some.size(); ++i) some[i] = static_cast<int32_t>(3 * i + 1) % 20;
      ids.push_back(Tensor::from(some, {batch * tokens}));
    }
    const std::vector<Tensor> logits = Decoder::next_of_each(together, ids);
    for (size_t d = 0; d < 2; ++d) {
      EXPECT_EQ(logits[d].to_vector<float>(), alone[d].next(ids[d]).to_vector<float>()) << d;
      EXPECT_EQ(together[d].length(), alone[d].length());
    }
  }
  EXPECT_THROW(Decoder::next_of_each(together, {}), std::invalid_argument);
}

// ---- logits in slices ---------------------------------------------------------------------------

TEST(Perplexity, SlicesOfLogitsChangeNothingBeyondRounding) {
  const auto model = load_model(std::filesystem::path(CBQ_SOURCE_DIR) / "models/embedded",
                                Dtype::f32, Device::cpu());
  std::vector<std::vector<int32_t>> segments(5);
  for (size_t s = 0; s < segments.size(); ++s) {
    for (uint64_t t = 0; t < 200; ++t) {
      segments[s].push_back(static_cast<int32_t>(philox_bits(1, s, t) %
                                                 static_cast<uint32_t>(model->config.vocab_size)));
    }
  }
  const PerplexityResult whole = perplexity(*model, segments, 5);
  for (const int64_t rows : {1, 128, 300, 640}) {
    PerplexityOptions options;
    options.logits_bytes = rows * model->config.vocab_size * 4;
    const PerplexityResult slices = perplexity(*model, segments, 5, options);
    // BLAS computes a row in another order when it stands among other rows.
    EXPECT_LE(relative_distance(slices.segment, whole.segment), 1e-6) << rows;
    EXPECT_NEAR(slices.nll_sum, whole.nll_sum, 1e-6 * whole.nll_sum) << rows;
  }
}

TEST(Perplexity, LogitsOfALongBatchAreNeverWhole) {
  auto config = ModelConfig::load(fixture("llama"));
  config.vocab_size = 20000;
  config.max_position_embeddings = 1024;
  const auto model = make_model(config, Dtype::f32, Device::cpu());
  initialize(*model, 1);
  const std::vector<std::vector<int32_t>> segments(2, std::vector<int32_t>(1001, 3));
  PerplexityOptions options;
  options.logits_bytes = int64_t{16} << 20;
  const int64_t before = memory_statistics(Device::cpu()).current_bytes;
  reset_peak(Device::cpu());
  perplexity(*model, segments, 2, options);
  const int64_t peak = memory_statistics(Device::cpu()).peak_bytes - before;
  EXPECT_LT(peak, int64_t{60} << 20) << "the whole: 160 MB";
}

TEST(Perplexity, DefaultBatchIsAtMost8SegmentsAnd16384Tokens) {
  auto config = ModelConfig::load(fixture("llama"));
  config.max_position_embeddings = 8192;
  const auto model = make_model(config, Dtype::f32, Device::cpu());
  initialize(*model, 1);
  const auto batches_of = [&](size_t segments, size_t length) {
    int64_t batches = 0;
    PerplexityOptions options;
    options.progress = [&](int64_t, int64_t total) {
      batches = total / model->block_count();
      throw Interrupted("the number of steps is known");
    };
    EXPECT_THROW(
        perplexity(*model, std::vector(segments, std::vector<int32_t>(length, 3)), 0, options),
        Interrupted);
    return batches;
  };
  EXPECT_EQ(batches_of(17, 20), 3) << "8 of short ones";
  EXPECT_EQ(batches_of(9, 4097), 3) << "4 of those that read 4096 tokens";
  EXPECT_EQ(batches_of(8, 4098), 3) << "3 of those that read 4097 tokens";
  const std::vector<std::vector<int32_t>> segments(11, std::vector<int32_t>(20, 3));
  EXPECT_EQ(perplexity(*model, segments, 0).nll_sum, perplexity(*model, segments, 8).nll_sum);
}

}  // namespace
}  // namespace cbq::test::test_decoder
