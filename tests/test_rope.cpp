// Rotary embeddings against transformers (tests/fixtures/rope.json, written by
// tools/fixtures/make_rope_fixtures.py), and tables for the lengths in use.
#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "kernels/attention/varlen_rows.h"
#include "nn/formats/json.h"
#include "nn/rope.h"
#include "tensor/runtime/notice.h"
#include "tests/test_data.h"

namespace cbq::test_rope {
namespace {

using nlohmann::json;

const json& fixtures() {
  static const json all =
      read_json_file(std::filesystem::path(CBQ_SOURCE_DIR) / "tests/fixtures/rope.json");
  return all;
}

ModelConfig config_of(const json& changes) {
  json config = fixtures().at("base");
  for (const auto& [key, value] : changes.items()) config[key] = value;
  return ModelConfig::from_json(config, "config.json");
}

std::vector<double> row_of(const Tensor& table, int64_t row) {
  return table.slice(row, row + 1).to_vector<double>();
}

/// Cosines and sines move by one place in the last bit of an f32 frequency, times the position.
void expect_tables(const ModelConfig& config, const json& entry) {
  const Rope rope(config.rope, config.head_dim, Device::cpu());
  for (const json& want : entry.at("tables")) {
    const int64_t length = want.at("length"), position = want.at("position");
    const RopeTables tables = rope.tables(length);
    ASSERT_GE(tables.cosine.size(0), length);
    const auto cosine = row_of(tables.cosine, position), sine = row_of(tables.sine, position);
    ASSERT_EQ(cosine.size(), want.at("cosine").size());
    for (size_t j = 0; j < cosine.size(); ++j) {
      const double tolerance = 2e-6 + 3e-7 * static_cast<double>(position);
      EXPECT_NEAR(cosine[j], want.at("cosine")[j].get<double>(), tolerance)
          << "length " << length << ", position " << position << ", pair " << j;
      EXPECT_NEAR(sine[j], want.at("sine")[j].get<double>(), tolerance);
    }
  }
}

TEST(Rope, IsThatOfTransformers) {
  for (const json& entry : fixtures().at("entries")) {
    SCOPED_TRACE(entry.at("name"));
    const NoticeRecorder notices;
    const ModelConfig config = config_of(entry.at("config"));
    EXPECT_EQ(config.rope.type, entry.at("type"));
    EXPECT_DOUBLE_EQ(config.rope.theta, entry.at("theta").get<double>());
    expect_tables(config, entry);
  }
}

TEST(Rope, ConfigRoundTripKeepsRopeTables) {
  for (const json& entry : fixtures().at("entries")) {
    SCOPED_TRACE(entry.at("name"));
    json written;
    {
      const NoticeRecorder notices;
      written = config_of(entry.at("config")).to_json();
    }
    const NoticeRecorder notices;
    expect_tables(ModelConfig::from_json(written, "written"), entry);
    EXPECT_TRUE(notices.lines().empty()) << notices.lines().front() << "\n" << written.dump();
    // The same, made here: without a source.
    ModelConfig config = ModelConfig::from_json(written, "written");
    config.source.clear();
    expect_tables(ModelConfig::from_json(config.to_json(), "made here"), entry);
  }
}

TEST(Rope, ContradictoryRopeFieldsGiveANotice) {
  const std::map<std::string, std::vector<const char*>> said = {
      {"scaling-beside-parameters",
       {"config.json", "\"rope_scaling\"", "\"rope_parameters\"", "differ", "default",
        "\"rope_theta\" of 10000"}},
      {"scaling-and-theta-beside-parameters", {"\"rope_scaling\"", "differ"}},
      {"scaling-with-theta-beside-parameters",
       {"\"rope_scaling\"", "\"rope_theta\":100.0", "\"rope_parameters\"", "differ"}},
      {"default-scaling-beside-parameters", {"\"rope_scaling\"", "differ"}},
      {"theta-in-both", {"rope_theta", "500000", "10000", "top level"}},
      {"theta-in-both-old", {"rope_theta", "top level"}},
      {"rope-type-and-type", {"\"rope_type\"", "\"yarn\"", "\"type\"", "\"linear\""}},
      {"original-at-top", {"original_max_position_embeddings", "16", "8", "top level"}}};
  size_t found = 0;
  for (const json& entry : fixtures().at("entries")) {
    SCOPED_TRACE(entry.at("name"));
    const NoticeRecorder notices;
    config_of(entry.at("config"));
    const std::vector<std::string> lines = notices.lines();
    const std::string name = entry.at("name");
    if (!said.contains(name)) {
      EXPECT_TRUE(lines.empty()) << lines[0];
      continue;
    }
    ++found;
    ASSERT_EQ(lines.size(), 1u);
    for (const char* part : said.at(name)) {
      EXPECT_NE(lines[0].find(part), std::string::npos) << part << "\n" << lines[0];
    }
    const bool takes_default = lines[0].find("default \"rope_theta\"") != std::string::npos;
    EXPECT_EQ(takes_default, name == "scaling-beside-parameters") << lines[0];
  }
  EXPECT_EQ(found, said.size()) << "an entry above is not in the fixture";
}

TEST(Rope, TablesGrowWithTheLengthInUse) {
  const ModelConfig config = config_of({{"max_position_embeddings", 1 << 26}});
  reset_peak(Device::cpu());
  const int64_t before = memory_statistics(Device::cpu()).peak_bytes;
  const Rope rope(config.rope, config.head_dim, Device::cpu());
  const RopeTables small = rope.tables(10);
  const std::vector<double> row = row_of(small.cosine, 9);
  const RopeTables large = rope.tables(1000);
  EXPECT_LT(memory_statistics(Device::cpu()).peak_bytes - before, 1 << 20);
  EXPECT_EQ(row_of(large.cosine, 9), row);
  EXPECT_EQ(row_of(large.sine, 9), row_of(small.sine, 9));
  EXPECT_EQ(rope.tables(5).cosine.raw(), large.cosine.raw());
  // A captured graph may still read the first one.
  EXPECT_EQ(row_of(small.cosine, 9), row);
}

TEST(Rope, IsSharedByThreads) {
  for (const char* type : {"default", "dynamic"}) {
    const ModelConfig config =
        config_of({{"rope_scaling", {{"rope_type", type}, {"factor", 4.0}}}});
    const Rope rope(config.rope, config.head_dim, Device::cpu());
    const Rope alone(config.rope, config.head_dim, Device::cpu());
    std::vector<std::thread> threads;
    std::vector<int> wrong(4, 0);
    for (size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int64_t i = 1; i < 40; ++i) {
          const int64_t length = 1 + (i * 37 + static_cast<int64_t>(t) * 11) % 200;
          const Rope fresh(config.rope, config.head_dim, Device::cpu());
          const int64_t last = length - 1;
          wrong[t] +=
              row_of(rope.tables(length).cosine, last) != row_of(fresh.tables(length).cosine, last);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, std::vector<int>(4, 0)) << type;
  }
}

TEST(Rope, PackedRowsTakeTheAnglesOfTheirGroup) {
  const ModelConfig config =
      config_of({{"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 4.0}}}});  // context 64
  const Rope rope(config.rope, config.head_dim, Device::cpu());
  // Sequences of 80 and 70 tokens that share 60; one of 100; one within the context.
  const VarlenRows packed({{60, {20, 10}}, {0, {100}}, {5, {}}}, Device::cpu());
  const RopeTables rows = rope.tables(packed);
  ASSERT_EQ(rows.cosine.shape(), (Shape{195, 8}));
  const auto expect_row = [&](int64_t row, int64_t length, int64_t position) {
    EXPECT_EQ(row_of(rows.cosine, row), row_of(rope.tables(length).cosine, position)) << row;
    EXPECT_EQ(row_of(rows.sine, row), row_of(rope.tables(length).sine, position)) << row;
  };
  expect_row(59, 80, 59);
  expect_row(79, 80, 79);
  expect_row(89, 80, 69);
  expect_row(189, 100, 99);
  expect_row(194, 5, 4);
}

TEST(Rope, ContextsThatScalingStretches) {
  const auto context = [](const json& scaling) {
    const NoticeRecorder notices;
    return config_of({{"rope_scaling", scaling}}).context();
  };
  EXPECT_EQ(context({{"rope_type", "linear"}, {"factor", 4.0}}), 64);
  EXPECT_EQ(context({{"rope_type", "dynamic"}, {"factor", 4.0}}), 256);
  EXPECT_EQ(context({{"rope_type", "yarn"}, {"factor", 4.0}}), 256);
  EXPECT_EQ(
      context({{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 16}}),
      64);
  EXPECT_EQ(context({{"rope_type", "yarn"}, {"factor", 1e300}}), 1 << 26);
}

TEST(Rope, ImpossibleScalingIsRefused) {
  const auto expect_refused = [](const json& scaling, std::initializer_list<const char*> parts) {
    SCOPED_TRACE(scaling.dump());
    expect_error<std::runtime_error>([&] { config_of({{"rope_scaling", scaling}}); }, parts);
  };
  expect_refused({{"rope_type", "su"}, {"factor", 2}}, {"config.json", "\"su\"", "known: default"});
  expect_refused({{"rope_type", "yarn"}}, {"rope_scaling", "\"factor\"", "missing"});
  expect_refused({{"rope_type", "dynamic"}}, {"\"factor\"", "missing"});
  expect_refused({{"rope_type", "yarn"}, {"factor", 2}, {"rope_theta", 1.0}},
                 {"rope_theta", "yarn"});
  expect_refused({{"rope_type", "longrope"}, {"factor", 2}}, {"short_factor", "missing"});
  expect_refused({{"rope_type", "longrope"}, {"short_factor", {1.0}}, {"long_factor", {1.0}}},
                 {"short_factor", "8 pairs"});
  expect_refused({{"rope_type", "longrope"}, {"short_factor", 3}, {"long_factor", 4}},
                 {"short_factor", "list of numbers"});
  expect_refused({{"rope_type", "yarn"}, {"factor", 2}, {"partial_rotary_factor", 0.5}},
                 {"partial_rotary_factor"});
  expect_refused("yarn", {"rope_scaling", "an object"});
}

}  // namespace
}  // namespace cbq::test_rope
