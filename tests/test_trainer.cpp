// Training goes on from a checkpoint, and says what is wrong with one.
#include <gtest/gtest.h>

#include "nn/formats/safetensors.h"
#include "nn/trainer.h"
#include "tests/test_data.h"
#include "tests/tiny_model.h"

namespace cbq::test_trainer {
namespace {

class TrainerCheckpoint : public ::testing::Test {
 protected:
  void train_to(int64_t steps) {
    TrainSettings settings;
    settings.steps = steps;
    settings.batch = 1;
    settings.tokens = 4;
    settings.warmup = 1;
    TrainHooks hooks;
    hooks.folder = folder_.path();
    const auto model = tiny_model(1);
    train(*model, tiny_segments(1, 40)[0], settings, hooks);
  }
  void set_metadata(const std::map<std::string, std::string>& metadata) {
    std::map<std::string, Tensor> tensors;
    const auto path = folder_ / "training.safetensors";
    {
      const SafetensorsFile file = SafetensorsFile::open(path);
      for (const std::string& name : file.names()) tensors[name] = file.load(name);
    }
    write_safetensors(path, tensors, metadata);
  }
  TemporaryFolder folder_;
};

TEST_F(TrainerCheckpoint, ABadStepNamesFileAndField) {
  train_to(2);
  EXPECT_EQ(metadata_int(SafetensorsFile::open(folder_ / "training.safetensors"), "step"), 2);
  for (const char* step : {"-5", "abc", "3.7", "", "99999999999999999999"}) {
    SCOPED_TRACE(step);
    set_metadata({{"format", "pt"}, {"step", step}});
    expect_error<std::runtime_error>([&] { train_to(3); },
                                     {"training.safetensors", "\"step\"", "integer", step});
  }
  set_metadata({{"format", "pt"}});
  expect_error<std::runtime_error>([&] { train_to(3); },
                                   {"training.safetensors", "\"step\"", "missing"});
  set_metadata({{"format", "pt"}, {"step", "2"}});
  EXPECT_NO_THROW(train_to(3));
}

}  // namespace
}  // namespace cbq::test_trainer
