// Log-likelihoods of continuations: batched against one by one, and against a program of its own.
#include <cmath>

#include "autograd/var.h"
#include "experiments/tasks/data_sets.h"
#include "experiments/tasks/measures.h"
#include "experiments/tasks/scoring.h"
#include "nn/json.h"
#include "tests/byte_tokenizer.h"
#include "tests/test_data.h"
#include "tests/tiny_model.h"

namespace cbq {
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
  for (const int64_t batch : {1, 7, 100}) {
    ScoringOptions options{batch, true, [&](int64_t, int64_t all) { passes = all; }};
    const auto scores = score(*model, requests, options);
    EXPECT_LE(passes, 30);
    ASSERT_EQ(scores.size(), requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      const RequestScore alone = score_alone(*model, requests[i]);
      EXPECT_NEAR(scores[i].log_likelihood, alone.log_likelihood, 2e-4) << i;
      EXPECT_EQ(scores[i].is_greedy, alone.is_greedy) << i;
    }
  }
  EXPECT_FALSE(score(*model, requests, {4, false})[0].is_greedy);
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
}  // namespace cbq
