// Files that one run leaves for another: every flipped bit is noticed, or changes nothing.
#include <gtest/gtest.h>
#include <zlib.h>

#include "nn/formats/hdf5.h"
#include "nn/formats/json.h"
#include "nn/formats/sealed_files.h"
#include "tests/flipped_bits.h"
#include "tests/no_more_descriptors.h"
#include "tests/test_data.h"

namespace cbq::test_sealed_files {
namespace {

std::map<std::string, Tensor> some_tensors() {
  return {{"codes", Tensor::from<int32_t>({1, 2, 3, 4, 5, 6}, {2, 3})},
          {"scale", Tensor::from<float>({0.5f, -0.25f}, {2})}};
}

TEST(SealedFiles, TheChecksumIsZlibs) {
  const std::string text = "The quick brown fox jumps over the lazy dog";
  EXPECT_EQ(Checksum().add(text).hex(), "414fa339");  // the value every CRC-32 is tested with
  EXPECT_EQ(Checksum().add("The quick brown ").add("fox jumps over the lazy dog").hex(),
            "414fa339");
  const TemporaryFolder folder;
  folder.write("text", text);
  EXPECT_EQ(checksum_of_file(folder / "text"), "414fa339");
}

TEST(SealedFiles, SafetensorsGiveBackWhatWasWritten) {
  const TemporaryFolder folder;
  write_sealed_safetensors(folder / "a", some_tensors(), {{"run", "{}"}});
  const SafetensorsFile file = open_sealed_safetensors(folder / "a");
  EXPECT_EQ(file.load("codes").to_vector<int32_t>(), (std::vector<int32_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(file.metadata().at("run"), "{}");
}

TEST(SealedFiles, SafetensorsNoticeEveryBit) {
  const TemporaryFolder folder;
  write_sealed_safetensors(folder / "a", some_tensors(), {{"run", "{\"finished\": 2}"}});
  const std::string good = read_text_file(folder / "a");
  int noticed = 0;
  for_each_flipped_bit(good, good.size(), 1, [&](const std::string& flipped) {
    folder.write("a", flipped);
    try {
      const SafetensorsFile file = open_sealed_safetensors(folder / "a");
      // Blanks at the end of the header may be other blanks.
      EXPECT_EQ(file.load("codes").to_vector<int32_t>(), (std::vector<int32_t>{1, 2, 3, 4, 5, 6}));
      EXPECT_EQ(file.load("scale").to_vector<float>(), (std::vector<float>{0.5f, -0.25f}));
      EXPECT_EQ(file.metadata().at("run"), "{\"finished\": 2}");
    } catch (const DamagedFile& damage) {
      EXPECT_NE(std::string(damage.what()).find((folder / "a").string()), std::string::npos);
      ++noticed;
    }
  });
  EXPECT_GT(noticed, static_cast<int>(7 * good.size()));
}

// A file that cannot be read now may be a good one.
TEST(SealedFiles, OnlyWhatWasReadIsCalledDamaged) {
  const TemporaryFolder folder;
  EXPECT_THROW(open_sealed_safetensors(folder / "a"), MissingFile);
  write_sealed_safetensors(folder / "a", some_tensors(), {});
  {
    const NoMoreDescriptors none;
    try {
      open_sealed_safetensors(folder / "a");
      ADD_FAILURE() << "opened without a descriptor";
    } catch (const DamagedFile& damage) {
      ADD_FAILURE() << damage.what();
    } catch (const std::runtime_error& error) {
      EXPECT_NE(std::string(error.what()).find("cannot open"), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(open_sealed_safetensors(folder / "a").names().size(), 2u);
  folder.write("a", "no safetensors");
  EXPECT_THROW(open_sealed_safetensors(folder / "a"), DamagedFile);
}

TEST(SealedFiles, JsonNoticesEveryBit) {
  const TemporaryFolder folder;
  const nlohmann::json json = {{"a", 0.1 + 0.2}, {"b", "text"}, {"c", {1, 2, 3}}};
  const std::string good = sealed(json).dump(2);
  folder.write("a", good);
  const nlohmann::json back = read_sealed_json(folder / "a");
  for (const char* key : {"a", "b", "c"}) EXPECT_EQ(back[key], json[key]);
  int noticed = 0;
  for_each_flipped_bit(good, good.size(), 1, [&](const std::string& flipped) {
    folder.write("a", flipped);
    try {
      EXPECT_EQ(read_sealed_json(folder / "a"), back);
    } catch (const DamagedFile&) {
      ++noticed;
    }
  });
  EXPECT_GT(noticed, static_cast<int>(6 * good.size()));
  folder.write("a", json.dump());
  EXPECT_THROW(read_sealed_json(folder / "a"), DamagedFile) << "written without";
}

TEST(SealedFiles, Hdf5IsReadableAndNoticesEveryBitBeforeItIsOpened) {
  const TemporaryFolder folder;
  Hdf5File file = Hdf5File::create(folder / "a.h5");
  file.write("codes", some_tensors()["codes"]);
  file.set_attribute("key", std::string("value"));
  file.publish_sealed();
  check_seal(folder / "a.h5");
  EXPECT_EQ(Hdf5File::open(folder / "a.h5").read("codes").to_vector<int32_t>().back(), 6);
  const std::string good = read_text_file(folder / "a.h5");
  for_each_flipped_bit(good, good.size(), 7, [&](const std::string& flipped) {
    folder.write("a.h5", flipped);
    EXPECT_THROW(check_seal(folder / "a.h5"), DamagedFile);
  });
  for (const size_t size : {size_t{0}, size_t{15}, good.size() / 2, good.size() - 1}) {
    folder.write("a.h5", good.substr(0, size));
    EXPECT_THROW(check_seal(folder / "a.h5"), DamagedFile) << size;
  }
}

}  // namespace
}  // namespace cbq::test_sealed_files
