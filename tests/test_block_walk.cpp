// The walk over blocks: what is loaded when, what is released, and that batches come out as those
// of a model in memory, bit for bit.
#include <gtest/gtest.h>

#include "cbq/watch.h"
#include "nn/block_walk.h"
#include "tests/fixtures.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_block_walk {
namespace {

std::vector<int64_t> loaded_blocks(const Transformer& model) {
  std::vector<int64_t> loaded;
  for (int64_t b = 0; b < model.block_count(); ++b) {
    if (model.is_loaded(b)) loaded.push_back(b);
  }
  return loaded;
}

/// A model of four blocks, in a folder.
class BlockWalk : public ::testing::Test {
 protected:
  void SetUp() override { save_model(*tiny_model(tiny_config(4)), folder_.path(), Dtype::f32); }
  std::unique_ptr<Transformer> whole() const {
    return load_model(folder_.path(), Dtype::f32, Device::cpu());
  }
  std::unique_ptr<Transformer> opened() const {
    return open_model(folder_.path(), Dtype::f32, Device::cpu());
  }
  TemporaryFolder folder_;
};

using Numbers = std::vector<int64_t>;

TEST_F(BlockWalk, VisitsEveryBlockAndKeepsOne) {
  const auto model = opened();
  Numbers seen;
  int64_t polls = 0;
  for_each_block(
      *model,
      [&](Block& block, int64_t b) {
        EXPECT_EQ(&block, &model->block(b));
        EXPECT_EQ(loaded_blocks(*model), Numbers{b});
        EXPECT_EQ(polls, b + 1);
        seen.push_back(b);
      },
      [&] {
        EXPECT_TRUE(loaded_blocks(*model).empty());
        ++polls;
      });
  EXPECT_EQ(seen, (Numbers{0, 1, 2, 3}));
  EXPECT_TRUE(loaded_blocks(*model).empty());
}

TEST_F(BlockWalk, LeavesBlocksInMemoryWhereTheyAre) {
  const auto model = opened();
  model->load_block(2);
  Block* kept = &model->block(2);
  for_each_block(*model, [&](Block& block, int64_t b) { EXPECT_EQ(&block == kept, b == 2); });
  EXPECT_EQ(loaded_blocks(*model), Numbers{2});
  EXPECT_EQ(&model->block(2), kept);
  const auto all = whole();
  for_each_block(*all, [](Block&, int64_t) {});
  EXPECT_EQ(loaded_blocks(*all), (Numbers{0, 1, 2, 3}));
}

TEST_F(BlockWalk, StopsAndReleases) {
  const auto model = opened();
  int64_t visits = 0, polls = 0;
  const auto visit = [&](Block&, int64_t b) {
    ++visits;
    if (b == 1) throw Interrupted("in a visit");
  };
  EXPECT_THROW(for_each_block(*model, visit), Interrupted);
  EXPECT_EQ(visits, 2);
  EXPECT_TRUE(loaded_blocks(*model).empty());
  EXPECT_THROW(for_each_block(
                   *model, [](Block&, int64_t) {},
                   [&] {
                     if (++polls == 3) throw Interrupted("before a block");
                   }),
               Interrupted);
  EXPECT_EQ(polls, 3);
  EXPECT_TRUE(loaded_blocks(*model).empty());
}

TEST_F(BlockWalk, OpenedBlocksAreThoseOfTheFile) {
  const auto model = opened();
  model->load_block(1);
  kernels::fill(model->block(1).linears()[0].linear->weight.value(), 7.0);
  const auto expected = whole();
  Numbers seen;
  for_each_opened_block(*model, 1, 3, [&](Block& block, int64_t b) {
    EXPECT_NE(&block, model->is_loaded(b) ? &model->block(b) : nullptr);
    EXPECT_EQ(block.linears()[0].linear->weight.value().to_vector<float>(),
              expected->block(b).linears()[0].linear->weight.value().to_vector<float>());
    seen.push_back(b);
  });
  EXPECT_EQ(seen, (Numbers{1, 2}));
  EXPECT_EQ(loaded_blocks(*model), Numbers{1});
  EXPECT_THROW(for_each_opened_block(*expected, 0, 1, [](Block&, int64_t) {}),
               std::invalid_argument);
}

TEST_F(BlockWalk, LoadsAllAndCanBeStopped) {
  const auto model = opened();
  Numbers polled;
  EXPECT_THROW(load_all_blocks(*model,
                               [&](int64_t b) {
                                 polled.push_back(b);
                                 if (b == 2) throw Interrupted("stop");
                               }),
               Interrupted);
  EXPECT_EQ(polled, (Numbers{0, 1, 2}));
  EXPECT_EQ(loaded_blocks(*model), (Numbers{0, 1}));
  EXPECT_TRUE(model->on_demand());
  load_all_blocks(*model, [](int64_t) {});
  EXPECT_FALSE(model->on_demand());
  EXPECT_EQ(loaded_blocks(*model), (Numbers{0, 1, 2, 3}));
}

// ---- batches ------------------------------------------------------------------------------------

/// Two rectangular batches of different sizes and one of varlen rows.
std::vector<TokenBatch> mixed_batches() {
  const auto segments = tiny_segments(4, 12);
  TokenBatch pair{segments[0], {2, 12}};
  pair.ids.insert(pair.ids.end(), segments[1].begin(), segments[1].end());
  return {pair, {segments[2], {1, 12}}, {segments[3], {1, 12}, {{3, {4, 2}}, {0, {3}}}}};
}

std::vector<std::vector<float>> walked(Transformer& model, const BatchWalkOptions& options) {
  std::vector<std::vector<float>> streams;
  walk_batches(
      model, mixed_batches(),
      [&](size_t i, const Tensor& hidden) {
        EXPECT_EQ(i, streams.size());
        streams.push_back(hidden.to_vector<float>());
      },
      options);
  return streams;
}

TEST_F(BlockWalk, BatchesAreThoseOfTheModelInMemory) {
  const auto all = whole(), model = opened();
  const auto expected = walked(*all, {});
  ASSERT_EQ(expected.size(), 3u);
  {  // and these are what the model says by itself
    NoGrad none;
    const TokenBatch pair = mixed_batches()[0];
    Var x = all->embed(Tensor::from(pair.ids, {24}), pair.sequence);
    for (int64_t b = 0; b < 4; ++b) x = all->block(b).forward(x, pair.sequence);
    EXPECT_EQ(expected[0], x.value().to_vector<float>());
  }
  // Streams of 24, 12 and 12 rows of 16 numbers of 4 bytes.
  const std::pair<int64_t, Numbers> cases[] = {
      {0, {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2}},        // all fit
      {1, {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2}},        // none but the one at hand
      {36 * 64, {0, 1, 0, 1, 0, 1, 0, 1, 2, 2, 2, 2}},  // two fit
  };
  for (const auto& [waiting, order] : cases) {
    Numbers passed;
    BatchWalkOptions options;
    options.waiting_bytes = waiting;
    options.passed = [&](size_t i) {
      EXPECT_EQ(loaded_blocks(*model).size(), 1u);
      passed.push_back(static_cast<int64_t>(i));
    };
    EXPECT_EQ(walked(*model, options), expected) << waiting;
    EXPECT_EQ(passed, order) << waiting;
    EXPECT_TRUE(loaded_blocks(*model).empty());
  }
}

TEST_F(BlockWalk, BatchesOfAModelInMemoryGoOneByOne) {
  const auto model = whole();
  Numbers passed;
  BatchWalkOptions options;
  options.waiting_bytes = int64_t{1} << 30;  // of no account: nothing has to be read
  options.passed = [&](size_t i) { passed.push_back(static_cast<int64_t>(i)); };
  walked(*model, options);
  EXPECT_EQ(passed, (Numbers{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2}));
}

TEST_F(BlockWalk, BatchesThatDoNotFitAreRefused) {
  const auto model = opened();
  const auto walk = [&](const TokenBatch& batch) {
    walk_batches(*model, {batch}, [](size_t, const Tensor&) {});
  };
  expect_error<std::invalid_argument>([&] { walk({{1, 2, 3}, {1, 4}}); }, {"3 ids"});
  expect_error<std::invalid_argument>(
      [&] {
        walk({std::vector<int32_t>(17, 1), {1, 17}});
      },
      {"17 tokens", "context of 16"});
  EXPECT_TRUE(loaded_blocks(*model).empty());
}

}  // namespace
}  // namespace cbq::test::test_block_walk
