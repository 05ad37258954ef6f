// The cache of original activations: right values, right key, never a broken file.
#include <limits>
#include <nlohmann/json.hpp>

#include "cbq/activation_cache.h"
#include "cbq/job_identity.h"
#include "cbq/stream.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/hdf5.h"
#include "tests/flipped_bits.h"
#include "tests/no_more_descriptors.h"
#include "tests/test_data.h"
#include "tests/tiny_model.h"

namespace cbq::test_activation_cache {
namespace {

std::vector<float> values(ActivationCache& cache, int64_t boundary) {
  return cache.get(boundary, 0, cache.segments()).to_vector<float>();
}

std::string key_of(Transformer& model, const Segments& segments) {
  return identity_of_activations(model, digest_of(model), segments).key();
}

struct Fixture {
  std::unique_ptr<Transformer> model = tiny_model(3);
  Segments segments = tiny_segments(5, 6);
  TemporaryFolder folder;
  std::vector<std::string> said;
  std::function<void(const std::string&)> say = [this](const std::string& line) {
    said.push_back(line);
  };
  std::shared_ptr<ActivationCache> on_disk() {
    said.clear();
    return cache_on_disk(*model, segments, folder.path(), say);
  }
  std::filesystem::path file() const { return folder / (key_of(*model, segments) + ".h5"); }
};

TEST(ActivationCache, HoldsTheInputsOfEveryBlock) {
  Fixture f;
  const auto cache = cache_in_memory(*f.model, f.segments);
  EXPECT_EQ(cache->segments(), 5);
  EXPECT_EQ(cache->tokens(), 6);
  EXPECT_EQ(cache->boundaries(), 4);
  // One segment alone, block by block.
  const Sequence sequence{1, 6};
  Var x = f.model->embed(Tensor::from(f.segments[3], {6}), sequence);
  for (int64_t b = 0; b <= 3; ++b) {
    const std::vector<float> got = cache->get(b, 3, 4).to_vector<float>();
    const std::vector<float> expected = x.value().to_vector<float>();
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-5) << b;
    if (b < 3) x = f.model->blocks[static_cast<size_t>(b)]->forward(x, sequence);
  }
}

TEST(ActivationCache, KeepsTheBoundariesThatWillBeAskedFor) {
  Fixture f;
  const auto all = cache_in_memory(*f.model, f.segments);
  const auto some = cache_in_memory(*f.model, f.segments, {3, 1, 3}, {});
  EXPECT_EQ(some->segments(), 5);
  EXPECT_EQ(some->tokens(), 6);
  EXPECT_EQ(some->boundaries(), 4);
  for (const int64_t b : {1, 3}) {
    EXPECT_EQ(some->get(b, 0, 5).to_vector<float>(), all->get(b, 0, 5).to_vector<float>());
  }
  EXPECT_THROW(some->get(2, 0, 1), std::out_of_range);
}

TEST(ActivationCache, DiskEqualsMemory) {
  Fixture f;
  const auto memory = cache_in_memory(*f.model, f.segments);
  const auto disk = f.on_disk();
  EXPECT_EQ(f.said.size(), 1u);  // the size, before writing
  EXPECT_NE(f.said.front().find("MB"), std::string::npos);
  for (int64_t b = 0; b < 4; ++b) EXPECT_EQ(values(*disk, b), values(*memory, b));
  EXPECT_EQ(disk->get(2, 1, 3).to_vector<float>(), memory->get(2, 1, 3).to_vector<float>());
  f.on_disk();
  EXPECT_TRUE(f.said.empty());  // the second time it is only opened
  EXPECT_EQ(f.folder.count(), 1);
}

TEST(ActivationCache, KeyTellsModelsTokensAndDtypesApart) {
  Fixture f;
  const std::string key = key_of(*f.model, f.segments);
  EXPECT_EQ(key, key_of(*f.model, f.segments));
  EXPECT_EQ(key, key_of(*tiny_model(3), f.segments));
  Segments other = f.segments;
  other[4][5] ^= 1;
  EXPECT_NE(key, key_of(*f.model, other));
  EXPECT_NE(key, key_of(*tiny_model(3, 16, 2), f.segments));
  const auto narrow = make_model(tiny_config(3), Dtype::bf16, Device::cpu());
  narrow->visit("", [](const std::string&, Var& p) { p.value().fill_zero(); });
  EXPECT_NE(key, key_of(*narrow, f.segments));
}

/// `damage` to a good file: the next run says so, computes again and gives the right values.
void expect_recomputed(const std::function<void(const std::filesystem::path&)>& damage) {
  Fixture f;
  const auto right = cache_in_memory(*f.model, f.segments);
  f.on_disk();
  damage(f.file());
  const auto again = f.on_disk();
  ASSERT_EQ(f.said.size(), 2u);
  EXPECT_NE(f.said.front().find("not used"), std::string::npos) << f.said.front();
  for (int64_t b = 0; b < 4; ++b) EXPECT_EQ(values(*again, b), values(*right, b));
}

TEST(ActivationCache, TruncatedFileIsComputedAgain) {
  expect_recomputed([](const std::filesystem::path& path) {
    std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  });
}

TEST(ActivationCache, ForeignFilesAreComputedAgain) {
  expect_recomputed([](const std::filesystem::path& path) {
    std::ofstream(path, std::ios::trunc) << "not HDF5";
  });
  expect_recomputed([](const std::filesystem::path& path) {  // a good file under a wrong name
    const auto other = tiny_model(3, 16, 7);
    const Segments segments = tiny_segments(5, 6);
    cache_on_disk(*other, segments, path.parent_path(), nullptr);
    std::filesystem::rename(path.parent_path() / (key_of(*other, segments) + ".h5"), path);
  });
}

TEST(ActivationCache, AFlippedBitIsNoticed) {
  Fixture f;
  f.model = tiny_model(1);
  const auto right = cache_in_memory(*f.model, f.segments);
  f.on_disk();
  const std::filesystem::path path = f.file();
  const std::string good = read_text_file(path);
  for_each_flipped_bit(good, 0, 61, [&](const std::string& flipped) {
    f.folder.write(path.filename().string(), flipped);
    const auto again = f.on_disk();
    ASSERT_EQ(f.said.size(), 2u);
    EXPECT_NE(f.said.front().find(path.string() + " is damaged"), std::string::npos)
        << f.said.front();
    for (int64_t b = 0; b < 2; ++b) EXPECT_EQ(values(*again, b), values(*right, b));
  });
}

/// The file as another program, or another rule, would have written it.
void expect_not_used(const std::function<void(nlohmann::json&)>& change, const char* why) {
  Fixture f;
  f.on_disk();
  const auto cache = cache_in_memory(*f.model, f.segments);
  nlohmann::json identity =
      identity_of_activations(*f.model, digest_of(*f.model), f.segments).to_json();
  change(identity);
  Hdf5File file = Hdf5File::create(f.file());
  file.write_string("identity", identity.dump());
  for (int64_t b = 0; b < 4; ++b) {
    file.write(concat("boundary_000", b), Tensor::zeros({5, 6, 16}, Dtype::f32));
  }
  file.publish_sealed();
  const auto again = f.on_disk();
  ASSERT_EQ(f.said.size(), 2u);
  EXPECT_NE(f.said.front().find(why), std::string::npos) << f.said.front();
  for (int64_t b = 0; b < 4; ++b) EXPECT_EQ(values(*again, b), values(*cache, b));
}

TEST(ActivationCache, AnotherProgramsAndAnotherRulesActivationsAreNotUsed) {
  expect_not_used([](nlohmann::json& identity) { identity["program"] = "0.0.9+abc"; },
                  "it differs in the program's version (0.0.9+abc there");
  expect_not_used([](nlohmann::json& identity) { identity["segments_per_pass"] = "3"; },
                  "it differs in the segments per pass (3 there");
  expect_not_used(
      [](nlohmann::json& identity) {
        identity = {{"key", "old"}};
      },
      "it differs in the calibration tokens");
}

TEST(ActivationCache, AnErrorThatIsNoDamageIsNotTakenForOne) {
  Fixture f;
  f.on_disk();
  {
    const NoMoreDescriptors none;
    EXPECT_THROW(f.on_disk(), std::runtime_error);
  }
  f.said.clear();
  f.on_disk();
  EXPECT_TRUE(f.said.empty()) << f.said.front();
}

TEST(ActivationCache, InterruptedWriteLeavesNothing) {
  Fixture f;
  f.model->blocks[1]->linears()[3].linear->weight.value().data<float>()[0] =
      std::numeric_limits<float>::quiet_NaN();
  expect_error<NonFiniteError>([&] { f.on_disk(); }, {"block 1", "NaN"});
  EXPECT_EQ(f.folder.count(), 0);
}

TEST(ActivationCache, SegmentsAreChecked) {
  Fixture f;
  const auto refused = [&](Segments segments, std::initializer_list<const char*> parts) {
    expect_error<std::invalid_argument>([&] { cache_in_memory(*f.model, segments); }, parts);
  };
  refused({}, {"no segments"});
  refused({{1, 2}, {1}}, {"segment 1", "equally long"});
  refused({{1, 40}}, {"segment 0", "40", "vocabulary"});
  refused({{1, -1}}, {"-1"});
  refused(tiny_segments(1, 33), {"33", "32"});
}

}  // namespace
}  // namespace cbq::test_activation_cache
