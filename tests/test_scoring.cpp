// Log-likelihoods of continuations: batched against one by one, and against a program of its own.
#include <cmath>
#include <set>

#include "autograd/functions.h"
#include "experiments/tasks/data_sets.h"
#include "experiments/tasks/measures.h"
#include "experiments/tasks/scoring.h"
#include "experiments/tasks/varlen_passes.h"
#include "nn/formats/json.h"
#include "tests/byte_tokenizer.h"
#include "tests/fixtures.h"
#include "tests/test_data.h"
#include "tests/tiny_model.h"

namespace cbq::test_scoring {
namespace {

namespace fs = std::filesystem;

/// One request alone, its head over all positions, softmax in double.
RequestScore score_alone(Transformer& model, const EncodedRequest& request) {
  NoGrad none;
  const std::vector<int32_t> inputs(request.ids.begin(), request.ids.end() - 1);
  const auto count = static_cast<int64_t>(inputs.size());
  const Tensor ids = Tensor::from(inputs, {count}, Dtype::i32);
  const auto logits = model.forward(ids, {1, count}).value().to_vector<double>();
  const size_t width = logits.size() / inputs.size();
  RequestScore result{0.0, true};
  for (size_t t = inputs.size() - static_cast<size_t>(request.scored); t < inputs.size(); ++t) {
    const double* row = logits.data() + t * width;
    const auto target = static_cast<size_t>(request.ids[t + 1]);
    double sum = 0.0;
    for (size_t j = 0; j < width; ++j) sum += std::exp(row[j]);
    result.log_likelihood += row[target] - std::log(sum);
    for (size_t j = 0; j < width; ++j) result.is_greedy &= row[j] <= row[target];
  }
  return result;
}

/// Requests as tasks have them, of up to `context` + 1 tokens.
std::vector<EncodedRequest> mixed_requests(int64_t context, int64_t vocabulary) {
  std::vector<EncodedRequest> requests;
  const auto texts = tiny_segments(40, context + 1, vocabulary);
  const auto add = [&](const std::vector<int32_t>& front, int64_t from, int64_t more, size_t text) {
    EncodedRequest request{front, more};
    const auto begin = texts[text].begin() + from;
    request.ids.insert(request.ids.end(), begin, begin + more);
    requests.push_back(request);
  };
  size_t text = 0;
  for (const int64_t shared : {6, 9, 2, 5}) {  // choices behind one context
    const std::vector<int32_t> front(texts[text].begin(), texts[text].begin() + shared);
    for (const int64_t more : {3, 1, 5, 2}) add(front, shared, more, ++text);
    add(front, shared, 1, ++text);  // two choices of one token: the same tokens are read
  }
  // Cut at the left: nothing is shared but what the texts have in common.
  requests.push_back({texts[30], 4});
  requests.push_back({texts[31], context});
  requests.push_back(requests[0]);  // the same question again
  requests.push_back({{requests[2].ids.begin(), requests[2].ids.end() - 2}, 2});  // ends earlier
  add({}, 0, 2, 33);
  requests.back().scored = 1;  // the shortest there is
  return requests;
}

TEST(Scoring, OfEveryFamilyIsThatOfOneByOne) {
  for (const std::string& name : test::fixture_names()) {
    const auto model = load_model(test::fixture(name), Dtype::f32, Device::cpu());
    const int64_t context = std::min<int64_t>(model->config.context(), 32);
    const auto requests = mixed_requests(context, model->config.vocab_size);
    std::vector<RequestScore> alone;
    for (const EncodedRequest& request : requests) alone.push_back(score_alone(*model, request));
    for (const int64_t tokens : {1, 25, 4000}) {
      const auto scores = score(*model, requests, {tokens, true});
      ASSERT_EQ(scores.size(), requests.size());
      for (size_t i = 0; i < requests.size(); ++i) {
        EXPECT_NEAR(scores[i].log_likelihood, alone[i].log_likelihood, 1e-4) << name << " " << i;
        EXPECT_EQ(scores[i].is_greedy, alone[i].is_greedy) << name << " " << i;
      }
    }
  }
}

TEST(Scoring, BlockByBlockIsThatOfTheModelInMemoryBitForBit) {
  for (const std::string& name : test::fixture_names()) {
    SCOPED_TRACE(name);
    const auto whole = load_model(test::fixture(name), Dtype::f32, Device::cpu());
    const auto model = open_model(test::fixture(name), Dtype::f32, Device::cpu());
    const int64_t context = std::min<int64_t>(model->config.context(), 32);
    const auto requests = mixed_requests(context, model->config.vocab_size);
    const auto expected = score(*whole, requests, {25, true});
    for (const int64_t waiting : {0, 1, 4000}) {
      int64_t done = 0, all = 0;
      ScoringOptions options{25, true, [&](int64_t d, int64_t a) {
                               EXPECT_GT(d, done);
                               done = d;
                               all = a;
                             }};
      options.waiting_bytes = waiting;
      const auto scores = score(*model, requests, options);
      ASSERT_EQ(scores.size(), expected.size());
      for (size_t i = 0; i < scores.size(); ++i) {
        EXPECT_EQ(scores[i].log_likelihood, expected[i].log_likelihood) << waiting << " " << i;
        EXPECT_EQ(scores[i].is_greedy, expected[i].is_greedy) << waiting << " " << i;
      }
      EXPECT_EQ(done, all);
      for (int64_t b = 0; b < model->block_count(); ++b) EXPECT_FALSE(model->is_loaded(b));
    }
  }
}

/// Not linear, and a function of one token's part of a head only.
class BentAttention : public AttentionTransform {
 public:
  Var operand(const Var& x, int64_t head_dim, AttentionOperand) override {
    return ag::scale(ag::reshape(ag::softmax(ag::reshape(x, {-1, head_dim})), x.shape()), 8.0);
  }
};

TEST(Scoring, AttentionTransformsSeeEveryToken) {
  const auto model = tiny_model(2);
  const auto requests = mixed_requests(32, 40);
  const auto plain = score(*model, requests, {});
  for (auto& block : model->blocks) block->attention_transform = std::make_shared<BentAttention>();
  const auto scores = score(*model, requests, {});
  double change = 0.0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const double alone = score_alone(*model, requests[i]).log_likelihood;
    EXPECT_NEAR(scores[i].log_likelihood, alone, 1e-4) << i;
    change = std::max(change, std::abs(alone - plain[i].log_likelihood));
  }
  EXPECT_GT(change, 0.1) << "the transform did nothing";
}

TEST(Scoring, PackedRowsHaveNoBackwardPass) {
  const auto model = tiny_model(1);
  model->visit("", [](const std::string&, Var& p) { p.set_requires_grad(true); });
  const VarlenRows rows({{1, {2}}}, Device::cpu());
  Tape tape;
  expect_error<std::invalid_argument>(
      [&] {
        model->forward(Tensor::zeros({3}, Dtype::i32), {1, 3, &rows});
      },
      {"varlen", "backward"});
}

TEST(Scoring, PackedRowsMustFitIdsAndContext) {
  const auto model = tiny_model(1);
  NoGrad none;
  const VarlenRows rows({{20, {13}}}, Device::cpu()), fewer({{20, {12, 1}}}, Device::cpu());
  const Tensor ids = Tensor::zeros({33}, Dtype::i32);
  EXPECT_NO_THROW(model->forward(ids, {1, 33, &fewer}));
  expect_error<std::invalid_argument>(
      [&] {
        model->forward(ids, {1, 33, &rows});
      },
      {"33 tokens", "context of 32"});
  const Tensor many = Tensor::zeros({34}, Dtype::i32);
  expect_error<std::invalid_argument>([&] { model->forward(many, {1, 34, &fewer}); }, {"34 ids"});
}

// ---- who shares what ----------------------------------------------------------------------------

using Ids = std::vector<int32_t>;

int64_t tokens_of(const std::vector<VarlenPass>& passes) {
  int64_t count = 0;
  for (const VarlenPass& pass : passes) count += static_cast<int64_t>(pass.ids.size());
  return count;
}

/// Every token of every sequence stands where its pass says.
void expect_whole(const std::vector<Ids>& sequences, const std::vector<VarlenPass>& passes) {
  std::vector<int> seen(sequences.size(), 0);
  for (const VarlenPass& pass : passes) {
    const VarlenRows rows(pass.groups, Device::cpu());
    ASSERT_EQ(rows.rows(), static_cast<int64_t>(pass.ids.size()));
    const auto positions = rows.positions().to_vector<int32_t>();
    for (const VarlenPass::Member& m : pass.members) {
      ++seen[m.index];
      for (size_t t = 0; t < sequences[m.index].size(); ++t) {
        const auto row = static_cast<size_t>(m.row_of(static_cast<int64_t>(t)));
        EXPECT_EQ(pass.ids.at(row), sequences[m.index][t]);
        EXPECT_EQ(positions.at(row), static_cast<int32_t>(t));
      }
    }
  }
  EXPECT_EQ(seen, std::vector<int>(sequences.size(), 1));
}

TEST(Packing, ContextsAreReadOnce) {
  // Two questions behind one BOS: the BOS alone is not worth giving up their contexts.
  const std::vector<Ids> sequences = {
      {0, 1, 1, 1, 1, 5}, {0, 1, 1, 1, 1, 6, 7}, {0, 2, 2, 2, 2, 2}, {0, 2, 2, 2, 2, 2, 8, 9}};
  const auto passes = varlen_passes(sequences, 100);
  ASSERT_EQ(passes.size(), 1u);
  EXPECT_EQ(tokens_of(passes), 5 + 1 + 2 + 6 + 2);
  expect_whole(sequences, passes);
  const auto small = varlen_passes(sequences, 8);
  EXPECT_EQ(small.size(), 2u);
  expect_whole(sequences, small);
  const auto alone = varlen_passes(sequences, 1);
  EXPECT_EQ(alone.size(), 4u);
  EXPECT_EQ(tokens_of(alone), 6 + 7 + 6 + 8);
  expect_whole(sequences, alone);
  EXPECT_TRUE(varlen_passes({}, 10).empty());
  expect_error<std::invalid_argument>([] { varlen_passes({}, 0); }, {"at least 1 token"});
}

TEST(Packing, SavesAsMuchAsAnyDivision) {
  // All divisions of up to 10 neighbours, by brute force.
  for (uint64_t seed = 0; seed < 30; ++seed) {
    std::set<Ids> different;
    for (uint64_t s = 0; s < 10; ++s) {
      Ids ids;
      const uint64_t size = 1 + philox_bits(seed, s, 0) % 14;
      for (uint64_t t = 0; t < size; ++t) {
        ids.push_back(philox_bits(seed, s, t + 1) % 8 == 0 ? static_cast<int32_t>(s % 3) : 0);
      }
      different.insert(ids);
    }
    const std::vector<Ids> sequences(different.begin(), different.end());
    const size_t n = sequences.size();
    constexpr int64_t limit = 40;
    int64_t fewest = INT64_MAX;
    for (uint64_t cuts = 0; cuts < uint64_t{1} << (n - 1); ++cuts) {
      int64_t tokens = 0;
      for (size_t begin = 0, i = 0; i < n; ++i) {
        if (i + 1 < n && (cuts >> i & 1) == 0) continue;
        size_t shared = sequences[begin].size();
        int64_t rows = 0;
        for (size_t k = begin; k <= i; ++k) {
          size_t same = 0;
          while (same < shared && same < sequences[k].size() &&
                 sequences[k][same] == sequences[begin][same]) {
            ++same;
          }
          shared = same;
          rows += static_cast<int64_t>(sequences[k].size());
        }
        if (i > begin && shared < 4) shared = 0;  // not worth it
        rows -= static_cast<int64_t>((i - begin) * shared);
        tokens += i > begin && rows > limit ? 100000 : rows;
        begin = i + 1;
      }
      fewest = std::min(fewest, tokens);
    }
    const auto passes = varlen_passes(sequences, limit);
    EXPECT_EQ(tokens_of(passes), fewest) << seed;
    expect_whole(sequences, passes);
  }
}

TEST(Scoring, BatchesAsOneByOne) {
  const auto model = tiny_model(2);
  std::vector<EncodedRequest> requests;
  for (const auto& segment : tiny_segments(30, 33)) {
    const size_t length = 2 + static_cast<size_t>(segment[0]) * 31 / 40;
    const int64_t scored = 1 + segment[1] % static_cast<int32_t>(length - 1);
    requests.push_back({{segment.begin(), segment.begin() + static_cast<int64_t>(length)}, scored});
    // The same tokens read, another one at the end: shares its sequence.
    requests.push_back(requests.back());
    requests.back().ids.back() = (requests.back().ids.back() + 1) % 40;
    requests.back().scored = 1;
  }
  int64_t passes = 0;
  for (const int64_t tokens : {1, 70, 3000}) {
    ScoringOptions options{tokens, true, [&](int64_t, int64_t all) { passes = all; }};
    const auto scores = score(*model, requests, options);
    EXPECT_LE(passes, 30 * 2) << "sequences, once per block";
    ASSERT_EQ(scores.size(), requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      const RequestScore alone = score_alone(*model, requests[i]);
      EXPECT_NEAR(scores[i].log_likelihood, alone.log_likelihood, 2e-4) << i;
      EXPECT_EQ(scores[i].is_greedy, alone.is_greedy) << i;
    }
  }
  EXPECT_FALSE(score(*model, requests, {4, false})[0].is_greedy);
}

// On a GPU nothing else would: kernels take ids as they are.
TEST(Scoring, IdsBeyondTheVocabularyAreRefused) {
  const auto model = tiny_model(1);
  for (const int32_t id : {40, -1}) {
    expect_error<std::invalid_argument>(
        [&] {
          score(*model, {{{1, 2}, 1}, {{3, id}, 1}}, {});
        },
        {"request 1 holds token id", "vocabulary of 40"});
  }
}

TEST(Scoring, ALikeliestContinuationIsGreedy) {
  const auto model = tiny_model(1);
  int greedy = 0;
  for (int32_t next = 0; next < 40; ++next) {
    const EncodedRequest request{{3, 1, 4, next}, 1};
    greedy += score(*model, {request}, {1, true})[0].is_greedy;
  }
  EXPECT_EQ(greedy, 1);
}

// ---- ids ----------------------------------------------------------------------------------------

TEST(Encode, JointAndSeparate) {
  const ByteTokenizer tokenizer(40, true);
  const Request request{"ab ", " c", 1};
  const auto id = [&](char c) { return tokenizer.encode(std::string(1, c))[0]; };
  const EncodedRequest joint = encode(request, tokenizer, Encoding::joint, 100);
  EXPECT_EQ(joint.ids, (std::vector<int32_t>{0, id('a'), id('b'), id(' '), id(' '), id('c')}));
  EXPECT_EQ(joint.scored, 3) << "the context's last space belongs to the continuation";
  const EncodedRequest separate = encode(request, tokenizer, Encoding::separate, 100);
  EXPECT_EQ(separate.ids, (std::vector<int32_t>{id('a'), id('b'), id(' '), id(' '), id('c')}));
  EXPECT_EQ(separate.scored, 2);
  const EncodedRequest without = encode(request, tokenizer, Encoding::joint_without_bos, 100);
  EXPECT_EQ(without.ids, separate.ids);
  EXPECT_EQ(without.scored, 3);
  for (const Encoding encoding :
       {Encoding::joint, Encoding::joint_without_bos, Encoding::separate}) {
    const EncodedRequest bare = encode({"", "c", 1}, tokenizer, encoding, 100);
    EXPECT_EQ(bare.ids, (std::vector<int32_t>{0, id('c')})) << "BOS stands for no context";
    EXPECT_EQ(encoding_from_name(name_of(encoding)), encoding);
  }
  expect_error<std::invalid_argument>([] { encoding_from_name("both"); },
                                      {"joint joint_without_bos separate"});
}

class WithEos : public ByteTokenizer {
 public:
  WithEos() : ByteTokenizer(40, true) {}
  int32_t eos_id() const override { return 7; }
};

TEST(Encode, NoContextIsBosOrTheEosOfTheOldHarness) {
  const auto first = [](Encoding encoding) {
    return encode({"", "c", 1}, WithEos(), encoding, 9).ids.at(0);
  };
  EXPECT_EQ(first(Encoding::joint), 0);
  EXPECT_EQ(first(Encoding::joint_without_bos), 0);
  EXPECT_EQ(first(Encoding::separate), 7);
}

TEST(Encode, LongRequestsAreCutAtTheLeft) {
  const ByteTokenizer tokenizer(40, true);
  const Request request{"abcdefgh", "ij", 2};
  const EncodedRequest whole = encode(request, tokenizer, Encoding::joint, 10);
  EXPECT_FALSE(whole.truncated) << "ten are read, the eleventh is only predicted";
  EXPECT_EQ(whole.ids.size(), 11u);
  EXPECT_EQ(encode(request, tokenizer, Encoding::joint, 9).ids, tokenizer.encode("abcdefghij"));
  const EncodedRequest cut = encode(request, tokenizer, Encoding::joint, 4);
  EXPECT_TRUE(cut.truncated);
  EXPECT_EQ(cut.ids, tokenizer.encode("fghij"));
  EXPECT_EQ(cut.scored, 2);
  EXPECT_EQ(encode(request, tokenizer, Encoding::joint, 2).ids, tokenizer.encode("hij"));
  expect_error<std::invalid_argument>([&] { encode(request, tokenizer, Encoding::joint, 1); },
                                      {"\"ij\"", "2 tokens", "context of 1", "longer one"});
  expect_error<std::invalid_argument>(
      [&] {
        encode({"a", "", 0}, tokenizer, Encoding::separate, 9);
      },
      {"no token of its own"});
  expect_error<std::invalid_argument>(
      [] {
        encode({"", "a", 0}, ByteTokenizer(), Encoding::joint, 9);
      },
      {"neither BOS nor EOS"});
}

// ---- stories260K against a program of its own
// -------------------------------------------------------

TEST(Scoring, PiqaOfStories260kAsTheReference) {
  SKIP_WITHOUT_TEST_DATA();
  const auto fixture =
      read_json_file(fs::path(CBQ_SOURCE_DIR) / "tests/fixtures/scores_stories260k.json")["piqa"];
  const auto model = load_model(test_data() / "models/stories260K_hf", Dtype::f32, Device::cpu());
  const auto tokenizer = load_tokenizer(test_data() / "models/stories260K/tok512.bin");
  const Task task = load_task("piqa", test_data() / "zeroshot");
  for (const Encoding encoding : {Encoding::joint, Encoding::separate}) {
    const auto& reference = fixture[name_of(encoding)];
    ASSERT_EQ(reference.size(), 100u);
    const TaskResult result = evaluate_task(*model, *tokenizer, task, encoding, 100, {});
    ASSERT_EQ(result.scores.size(), 100u);
    for (size_t i = 0; i < 100; ++i) {
      for (size_t c = 0; c < 2; ++c) {
        EXPECT_NEAR(result.scores[i][c].log_likelihood, reference[i][c], 1e-3)
            << name_of(encoding) << ", item " << i;
      }
    }
    if (encoding == Encoding::joint) {
      // The accuracies that come with the data, from yet another program.
      const auto given =
          read_json_file(test_data() / "zeroshot/piqa/stories260K_reference_first100.json");
      EXPECT_DOUBLE_EQ(result.values[0].value, given["acc"]);
      EXPECT_DOUBLE_EQ(result.values[1].value, given["acc_norm_chars"]);
    }
  }
}

}  // namespace
}  // namespace cbq::test_scoring
