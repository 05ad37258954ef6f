// What an interrupted training leaves behind: damage is noticed, and does not change the result.
#include "nn/formats/atomic_file.h"
#include "nn/formats/safetensors.h"
#include "nn/trainer.h"
#include "tests/flipped_bits.h"
#include "tests/no_more_descriptors.h"
#include "tests/test_data.h"
#include "tests/tiny_model.h"

namespace cbq::test_training_state {
namespace {

using State = std::map<std::string, std::vector<float>>;

State train_tiny(const std::filesystem::path& folder, std::string* said, int64_t stop_after = 0) {
  const auto model = tiny_model(1);
  std::vector<int32_t> stream;
  for (int32_t i = 0; i < 60; ++i) stream.push_back((i * i + 3 * i) % 40);
  TrainSettings settings;
  settings.steps = 4;
  settings.batch = 1;
  settings.tokens = 6;
  settings.warmup = 1;
  settings.save_every = 100;
  TrainHooks hooks;
  hooks.folder = folder;
  int64_t steps = 0;
  hooks.interrupted = [&] { return ++steps == stop_after; };
  hooks.say = [&](const std::string& line) {
    if (said != nullptr) *said = line;
  };
  train(*model, stream, settings, hooks);
  State state;
  for (const auto& [path, p] : parameters_of(*model)) state[path] = p.value().to_vector<float>();
  return state;
}

TEST(TrainingState, AFlippedBitChangesNoResult) {
  const TemporaryFolder folder, other;
  const State expected = train_tiny(other.path(), nullptr);
  train_tiny(folder.path(), nullptr, 2);
  const std::filesystem::path path = folder / "training.safetensors";
  const std::string good = read_text_file(path);
  std::string said;
  EXPECT_EQ(train_tiny(folder.path(), &said), expected);
  EXPECT_EQ(said, "");
  int told = 0;
  for_each_flipped_bit(good, 0, good.size() / 97, [&](const std::string& flipped) {
    folder.write("training.safetensors", flipped);
    said.clear();
    EXPECT_EQ(train_tiny(folder.path(), &said), expected);
    if (said.empty()) return;
    EXPECT_NE(said.find(path.string() + " is damaged"), std::string::npos) << said;
    ++told;
  });
  EXPECT_GT(told, 90);
}

TEST(TrainingState, WhatIsDamagedIsKeptAndOtherErrorsChangeNothing) {
  const TemporaryFolder folder;
  train_tiny(folder.path(), nullptr, 2);
  const std::string good = read_text_file(folder / "training.safetensors");
  {
    const NoMoreDescriptors none;
    EXPECT_THROW(train_tiny(folder.path(), nullptr), std::runtime_error);
  }
  EXPECT_EQ(read_text_file(folder / "training.safetensors"), good);
  folder.write("training.safetensors", good + "more");
  std::string said;
  train_tiny(folder.path(), &said);
  EXPECT_NE(said.find("training.damaged"), std::string::npos) << said;
  EXPECT_EQ(read_text_file(folder / "training.damaged"), good + "more");
}

TEST(TrainingState, AStepThatIsNoNumberIsRefused) {
  const TemporaryFolder folder;
  train_tiny(folder.path(), nullptr, 2);
  std::map<std::string, Tensor> tensors;
  {
    const SafetensorsFile file = SafetensorsFile::open(folder / "training.safetensors");
    for (const std::string& name : file.names()) tensors[name] = file.load(name);
  }
  for (const char* step : {"-5", "abc", "3.7", "", "99999999999999999999"}) {
    write_safetensors(folder / "training.safetensors", tensors, {{"step", step}});
    expect_error<std::runtime_error>([&] { train_tiny(folder.path(), nullptr); },
                                     {"training.safetensors", "step", step});
  }
}

}  // namespace
}  // namespace cbq::test_training_state
