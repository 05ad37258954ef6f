// Folders in the layouts of other programs: words that a NumPy script put together from the
// published layouts (tools/fixtures/make_layout_fixtures.py), and what our exporters write.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "cbq/exporters/exporter.h"
#include "cbq/exporters/layer_parts.h"
#include "cbq/exporters/layout_reader.h"
#include "cbq/quantized_folder.h"
#include "nn/formats/model_files.h"
#include "nn/perplexity.h"
#include "quant/quantized_linear.h"
#include "tensor/runtime/notice.h"
#include "tests/exported_words.h"
#include "tests/folder_tensors.h"
#include "tests/layout_folder.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_layout_readers {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string& layer = layout_layer;

/// A model of one block whose o_proj is a fixture's; tests change it before it is written.
struct LayoutFolder {
  explicit LayoutFolder(const std::string& name)
      : source(layout_fixtures() / (name + ".safetensors")), config(layout_config(source)) {
    const SafetensorsFile file = SafetensorsFile::open(source);
    for (const std::string& tensor : file.names()) {
      const std::string& dtype = file.info(tensor).dtype;
      if (dtype != "I8" && dtype != "I64") tensors[tensor] = file.load(tensor);
    }
  }
  json& section() { return config["quantization_config"]; }
  Tensor& part(const std::string& name) { return tensors.at(layer + "." + name); }

  /// As two shards: the fixture's file, or `tensors` where `changed`, and the other parameters.
  fs::path write(bool changed = false) {
    fs::create_directories(folder / "m");
    if (changed) {
      write_safetensors(folder / "m/codes.safetensors", tensors);
    } else {
      fs::copy_file(source, folder / "m/codes.safetensors", fs::copy_options::overwrite_existing);
    }
    write_beside_codes(folder / "m", config, has_float);
    return folder / "m";
  }
  void expect_refused(std::initializer_list<const char*> parts, bool changed = false) {
    const fs::path path = write(changed);
    expect_error<std::runtime_error>([&] { load_any_model(path, Dtype::f32, Device::cpu()); },
                                     parts);
  }

  TemporaryFolder folder;
  fs::path source;
  json config;
  std::map<std::string, Tensor> tensors;  // of the layer, but those of I8 and I64
  bool has_float = false;                 // the layer's weight is there in floating point, too
};

std::vector<std::string> layout_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(layout_fixtures())) {
    if (entry.path().stem() != "expected") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

const Linear& linear_of(const Transformer& model) {
  for (const NamedLinear& named : model.block(0).linears()) {
    if (named.name == "self_attn.o_proj") return *named.linear;
  }
  throw std::logic_error("no o_proj");
}

/// Sections that name no layers quantize all; the fixtures hold one, the others are in floating
/// point.
void expect_known_notices(const NoticeRecorder& notices) {
  for (const std::string& line : notices.lines()) {
    EXPECT_NE(line.find(" such layers), and its tensors are in floating point"), std::string::npos)
        << line;
  }
}

class Layouts : public ::testing::TestWithParam<std::string> {};

TEST_P(Layouts, GiveTheWeightsThatTheScriptHas) {
  LayoutFolder folder(GetParam());
  const NoticeRecorder notices;
  const auto model = load_any_model(folder.write(), Dtype::f32, Device::cpu());
  expect_known_notices(notices);
  const Linear& linear = linear_of(*model);
  const SafetensorsFile expected =
      SafetensorsFile::open(layout_fixtures() / "expected.safetensors");
  const std::vector<float> weight =
      linear.transform->weight(linear.weight).value().to_vector<float>();
  EXPECT_EQ(weight, expected.load(GetParam() + ".weight").to_vector<float>());
  const LayerParts parts = parts_of(linear, layer);
  ASSERT_NE(parts.packed, nullptr);
  const bool has_inputs = expected.has(GetParam() + ".x");
  ASSERT_EQ(parts.activation != nullptr, has_inputs);
  if (!has_inputs) return;
  const Var x(expected.load(GetParam() + ".x"));
  const auto quantized = linear.transform->input(x).value().to_vector<double>();
  const auto want = expected.load(GetParam() + ".quantized_x").to_vector<double>();
  EXPECT_LE(relative_distance(quantized, want), 1e-6);
  EXPECT_NE(x.value().to_vector<double>(), want);
}

// Whoever takes a result of this program takes these folders, and all get the same weights.
TEST_P(Layouts, AreExportedAsResultsAre) {
  LayoutFolder folder(GetParam());
  const fs::path source = folder.write();
  const ExportPlan plan = export_plan_of(source);
  const auto model = load_any_model(source, Dtype::f32, Device::cpu());
  const auto segments = cbq::tiny_segments(3, 16);
  const double score = perplexity(*model, segments).nll_sum;
  size_t read = 0;
  for (const std::string& name : exporters().names()) {
    const auto exporter = exporters().make(name);
    if (!exporter->obstacle(plan).empty() || !exporter->is_read_here()) continue;
    SCOPED_TRACE(name);
    export_model(*exporter, *model, {folder.folder / name, Dtype::f32, false});
    const auto again = load_any_model(folder.folder / name, Dtype::f32, Device::cpu());
    const double found = perplexity(*again, segments).nll_sum;
    if (exporter->rounds(plan, Dtype::f32, Dtype::f32)) {
      EXPECT_NEAR(found, score, 1e-5 * score);
    } else {
      EXPECT_EQ(found, score);
    }
    ++read;
  }
  EXPECT_GE(read, plan.quantizes_activations() ? 1u : 2u) << "packed and dense";
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Layouts, ::testing::ValuesIn(layout_names()),
                         [](const auto& layout) { return layout.param; });

TEST(LayoutNames, EveryMethodIsFound) {
  EXPECT_EQ(layout_readers().names(),
            (std::vector<std::string>{"auto-round", "awq", "compressed-tensors", "gptq"}));
  LayoutFolder folder("auto_round");
  folder.section()["quant_method"] = "intel/auto-round";
  EXPECT_TRUE(is_quantized_folder(folder.write()));
}

TEST(LayoutPlans, SayWhatAFormatCannotHold) {
  LayoutFolder folder("gptq_order");
  const ExportPlan plan = export_plan_of(folder.write());
  for (const char* format : {"awq", "auto_round", "compressed-tensors"}) {
    EXPECT_NE(exporters().make(format)->obstacle(plan).find("act-order"), std::string::npos)
        << format;
  }
  for (const char* format : {"gptq", "gptq_v2", "dense", "packed"}) {
    EXPECT_EQ(exporters().make(format)->obstacle(plan), "") << format;
  }
}

TEST(LayoutPlans, KeepTheOrderOfGroups) {
  LayoutFolder folder("gptq_order");
  const auto model = load_any_model(folder.write(), Dtype::f32, Device::cpu());
  export_model(*exporters().make("gptq"), *model, {folder.folder / "g", Dtype::f32, false});
  const SafetensorsFile file = SafetensorsFile::open(folder.folder / "g/model.safetensors");
  EXPECT_EQ(file.load(layer + ".g_idx").to_vector<int32_t>(),
            folder.part("g_idx").to_vector<int32_t>());
  EXPECT_EQ(file.load(layer + ".qweight").to_vector<int32_t>(),
            folder.part("qweight").to_vector<int32_t>());
  EXPECT_TRUE(json_of(folder.folder / "g/config.json")["quantization_config"]["desc_act"]);
}

// ---- what our exporters write -------------------------------------------------------------------

struct Trip {
  const char* format;
  int bits;
  const char* more;
};

class LayoutRoundTrip : public ::testing::TestWithParam<Trip> {};

TEST_P(LayoutRoundTrip, ReadsBackWhatWasWritten) {
  const auto& [format, bits, more] = GetParam();
  json changes = json::parse(more);
  changes["wbits"] = bits;
  const auto model = quantized_for_export(changes);
  const TemporaryFolder folder;
  export_model(*exporters().make(format), *model, {folder / "c", Dtype::f32, false});
  export_model(*exporters().make("dense"), *model, {folder / "d", Dtype::f32, false});
  const NoticeRecorder notices;
  const auto read = load_any_model(folder / "c", Dtype::f32, Device::cpu());
  EXPECT_TRUE(notices.lines().empty()) << notices.lines().front();
  export_model(*exporters().make("dense"), *read, {folder / "d2", Dtype::f32, false});
  EXPECT_TRUE(tensors_of(folder / "d2") == tensors_of(folder / "d"));
  const auto score = [](Transformer& m) { return perplexity(m, {{1, 2, 3, 4, 5, 6}}).nll_sum; };
  EXPECT_EQ(score(*read), score(*model));
  // Once more in the same format: the same bytes.
  export_model(*exporters().make(format), *read, {folder / "c2", Dtype::f32, false});
  EXPECT_TRUE(tensors_of(folder / "c2") == tensors_of(folder / "c"));
}

std::vector<Trip> trips() {
  std::vector<Trip> all;
  const char* ways[] = {"{}", R"({"symmetric": true})", R"({"group_size": 8})",
                        R"({"group_size": 16, "symmetric": true})",
                        R"({"layer_bits": "down_proj=16,*.0.*=8"})"};
  for (const char* way : ways) {
    const bool symmetric = std::string(way).find("symmetric") != std::string::npos;
    const bool mixed = std::string(way).find("layer_bits") != std::string::npos;
    for (int bits = 2; bits <= 8; ++bits) all.push_back({"compressed-tensors", bits, way});
    if (!mixed) all.push_back({"awq", 4, way});
    for (const int bits : {2, 3, 4, 8}) {
      const char* changes = mixed ? R"({"layer_bits":
                 "down_proj=16,up_proj=16,gate_proj=16,k_proj=16,v_proj=16,*.0.*.o_proj=8"})"
                                  : way;
      all.push_back({"gptq_v2", bits, changes});
      all.push_back({"auto_round", bits, changes});
      if (symmetric) all.push_back({"gptq", bits, changes});
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Layouts, LayoutRoundTrip, ::testing::ValuesIn(trips()),
                         [](const auto& trip) {
                           return test_name(
                               concat(trip.param.format, "_", trip.param.bits, "_", trip.index));
                         });

// ---- what is refused, and what is said ----------------------------------------------------------

TEST(LayoutTensors, ThatDoNotFitAreNamed) {
  {
    LayoutFolder f("gptq_4");
    f.tensors.erase(layer + ".qzeros");
    f.expect_refused({"m: model.layers.0.self_attn.o_proj.qzeros is missing", "incomplete"}, true);
  }
  {
    LayoutFolder f("gptq_4");
    f.section()["bits"] = 8;
    f.expect_refused({"o_proj.qweight is I32 [4, 32]", "I32 [8, 32]", "config.json"});
  }
  {
    LayoutFolder f("gptq_4");
    f.section()["group_size"] = 5;
    f.expect_refused({"group size 5", "32 inputs", layer.c_str()});
  }
  {
    LayoutFolder f("gptq_4");
    f.part("scales") = Tensor::zeros({4, 32}, Dtype::i32);
    f.expect_refused({"o_proj.scales is I32 [4, 32]", "F16 or BF16 or F32 [4, 32]"}, true);
  }
  {
    LayoutFolder f("gptq_4");
    f.part("scales") = Tensor::from(std::vector<double>(128, INFINITY), {4, 32}, Dtype::f16);
    f.expect_refused({"o_proj.scales", "infinite", "damaged"}, true);
  }
  {
    LayoutFolder f("awq");
    f.part("qweight") = Tensor::zeros({32, 8}, Dtype::i32);
    f.expect_refused({"o_proj.qweight is I32 [32, 8]", "I32 [32, 4]"}, true);
  }
  {
    LayoutFolder f("compressed_5");
    f.section()["config_groups"]["group_0"]["weights"]["num_bits"] = 4;
    f.expect_refused({"o_proj.weight_packed is I32 [32, 5]", "I32 [32, 4]"});
  }
}

TEST(LayoutTensors, ThatHoldImpossibleNumbersAreNamed) {
  for (const int32_t of : {4, -1}) {
    LayoutFolder f("gptq_order");
    f.part("g_idx").data<int32_t>()[7] = of;
    f.expect_refused({"o_proj.g_idx", "input 7 is of group", "there are 4"}, true);
  }
  {
    LayoutFolder f("gptq_order");
    f.tensors.erase(layer + ".g_idx");
    f.expect_refused({"o_proj.g_idx is missing", "desc_act"}, true);
  }
  {
    LayoutFolder f("gptq_3");  // a zero point of 0 stored less one
    std::fill_n(f.part("qzeros").data<int32_t>(), 3, -1);
    f.expect_refused(
        {"o_proj.qzeros", "less one is stored as 7", "as 0 and others as 8", "gptq_v2"}, true);
  }
  {
    LayoutFolder f("gptq_4");  // with zero points as they are, and the first version named
    f.section()["checkpoint_format"] = "gptq_v2";
    f.expect_refused({"o_proj.qzeros", "a zero point is 7", "\"sym\"", "with 8"});
  }
  {
    LayoutFolder f("int_static");  // bytes of 6 bits where 5 are said to be
    f.section()["config_groups"]["group_0"]["weights"]["num_bits"] = 5;
    f.expect_refused({"o_proj.weight holds", "no place in 5 bits"});
  }
}

TEST(LayoutTensors, ThatContradictTheSectionAreNamed) {
  LayoutFolder f("compressed_3");
  f.section()["config_groups"]["group_0"]["weights"]["symmetric"] = true;
  f.expect_refused({"o_proj.weight_zero_point", "\"symmetric\": true"});
}

TEST(LayoutTensors, ThatNobodyReadsAreNamed) {
  LayoutFolder f("gptq_4");
  f.tensors[layer + ".weight_global_scale"] = Tensor::zeros({1}, Dtype::f32);
  const NoticeRecorder notices;
  load_any_model(f.write(true), Dtype::f32, Device::cpu());
  std::string all;
  for (const std::string& line : notices.lines()) all += line + "\n";
  expect_in(all, {"ignored tensors", "o_proj.weight_global_scale"});
}

/// The tensors of a folder that our exporter wrote, which a test changes and writes again.
struct ExportedFolder {
  explicit ExportedFolder(const fs::path& path) : file(path / "model.safetensors") {
    const SafetensorsFile opened = SafetensorsFile::open(file);
    for (const std::string& name : opened.names()) {
      if (opened.info(name).dtype != "I64") {
        tensors[name] = opened.load(name);
        continue;
      }
      int64_t shape[2];
      std::memcpy(shape, opened.bytes(name).data(), sizeof shape);
      const std::vector<int32_t> small(shape, shape + 2);
      tensors[name] = Tensor::from(small, {2}, Dtype::i32);
      shapes.emplace(name, StoredAs::i64);
    }
  }
  void write() const { write_safetensors_stored(file, tensors, {}, shapes); }

  fs::path file;
  std::map<std::string, Tensor> tensors;
  StoredTypes shapes;
};

/// Codes of 3 bits, [rows, words] without gaps -> ten in a word, as before version 0.18. Bit by
/// bit.
Tensor in_whole_words(const Tensor& packed, int64_t codes) {
  const int64_t rows = packed.size(0), words = packed.size(1), whole = (codes + 9) / 10;
  const std::vector<int32_t> from = packed.to_vector<int32_t>();
  std::vector<int32_t> to(static_cast<size_t>(rows * whole));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t bit = 0; bit < 3 * codes; ++bit) {
      const auto word = static_cast<uint32_t>(from[static_cast<size_t>(r * words + bit / 32)]);
      const uint32_t value = word >> (bit % 32) & 1u;
      to[static_cast<size_t>(r * whole + bit / 30)] |= static_cast<int32_t>(value << (bit % 30));
    }
  }
  return Tensor::from(to, {rows, whole}, Dtype::i32);
}

// 16 codes of 3 bits take two words in both ways, so the words cannot say which one it is.
TEST(LayoutVersions, SayHowCodesArePackedWhereTheWordsDoNot) {
  const auto model = cbq::tiny_model(2);  // layers of 16 inputs
  quantize(*model, {{1, 2, 3, 4}},
           export_settings({{"wbits", 3}, {"symmetric", true}, {"layer_bits", ""}}), nullptr, {});
  const TemporaryFolder folder;
  export_model(*exporters().make("compressed-tensors"), *model, {folder / "c", Dtype::f32, false});
  export_model(*exporters().make("dense"), *model, {folder / "d", Dtype::f32, false});
  ExportedFolder exported(folder / "c");
  int64_t doubtful = 0;
  for (const auto& [name, as] : exported.shapes) {
    const std::string stem = name.substr(0, name.rfind('.'));
    Tensor& packed = exported.tensors.at(stem + ".weight_packed");
    const int64_t codes = exported.tensors.at(name).to_vector<int32_t>()[1];
    const Tensor older = in_whole_words(packed, codes);
    doubtful += codes > 10 && older.size(1) == packed.size(1);
    packed = older;
  }
  ASSERT_GT(doubtful, 0);
  exported.write();
  json config = json_of(folder / "c/config.json");
  const std::pair<const char*, bool> versions[] = {
      {"0.9.4", true}, {"0.17.1.dev3", true}, {"0.18.0", false}, {"0.20.1", false}, {"1.0", false}};
  for (const auto& [version, is_older] : versions) {
    SCOPED_TRACE(version);
    config["quantization_config"]["version"] = version;
    std::ofstream(folder / "c/config.json") << config.dump();
    const auto read = load_any_model(folder / "c", Dtype::f32, Device::cpu());
    const fs::path to = folder / (std::string("d") + version);
    export_model(*exporters().make("dense"), *read, {to, Dtype::f32, false});
    EXPECT_EQ(tensors_of(to) == tensors_of(folder / "d"), is_older);
  }
}

TEST(LayoutTensors, ShapesOfPackedCodesAreThoseOfTheLayer) {
  const auto model = quantized_for_export({{"wbits", 4}});
  const TemporaryFolder folder;
  export_model(*exporters().make("compressed-tensors"), *model, {folder / "c", Dtype::f32, false});
  ExportedFolder exported(folder / "c");
  exported.tensors.at(exported.shapes.begin()->first) =
      Tensor::from(std::vector<int32_t>{999, 1}, {2}, Dtype::i32);
  exported.write();
  expect_error<std::runtime_error>([&] { load_any_model(folder / "c", Dtype::f32, Device::cpu()); },
                                   {exported.shapes.begin()->first.c_str(), "[999, 1]",
                                    "take the folder from its source again"});
}

TEST(LayoutTensors, OfLayersOutsideBlocksAreRefused) {
  LayoutFolder f("gptq_4");
  f.tensors["lm_head.qweight"] = Tensor::zeros({4, 40}, Dtype::i32);
  f.expect_refused({"lm_head.qweight", "lm_head is quantized", "floating point"}, true);
}

TEST(LayoutConfigs, ThatAskForWhatIsNotReadAreRefused) {
  const auto refused = [](const char* name, const char* pointer, const json& value,
                          std::initializer_list<const char*> parts) {
    SCOPED_TRACE(concat(name, " ", pointer, " ", value.dump()));
    LayoutFolder f(name);
    f.section()[json::json_pointer(pointer)] = value;
    f.expect_refused(parts);
  };
  const json cache = {{"num_bits", 8}, {"type", "float"}};
  refused("compressed_3", "/kv_cache_scheme", cache, {"config.json", "kv_cache_scheme", "cache"});
  refused("compressed_3", "/sparsity_config", {{"format", "sparse-24-bitmask"}},
          {"config.json", "sparsity_config", "sparse", "floating-point model"});
  refused("compressed_3", "/format", "float-quantized", {"format", "float-quantized", "group_0"});
  refused("compressed_3", "/transform_config", {{"config_groups", 1}}, {"transform_config"});
  refused("compressed_3", "/config_groups", "W4A16", {"config_groups", "object"});
  const std::string group = "/config_groups/group_0";
  refused("compressed_3", group.c_str(), json::array({"Linear"}), {"group_0", "presets"});
  refused("compressed_3", (group + "/weights").c_str(), nullptr, {"weights"});
  refused("compressed_3", (group + "/output_activations").c_str(), cache, {"output_activations"});
  refused("compressed_3", (group + "/weights/type").c_str(), "float", {"\"type\" is \"float\""});
  refused("compressed_3", (group + "/weights/strategy").c_str(), "block", {"strategy", "block"});
  refused("compressed_3", (group + "/weights/num_bits").c_str(), 9, {"num_bits", "[1, 8]"});
  refused("compressed_3", (group + "/weights/group_size").c_str(), nullptr, {"group_size"});
  refused("compressed_3", (group + "/targets").c_str(), json::array({"re:.*q_proj"}),
          {"config_groups", "targets", layer.c_str()});
  refused("compressed_3", (group + "/targets").c_str(), json::array({"re:(((("}),
          {"((((", "no regular expression", "group_0"});
  const json inputs = {{"num_bits", 8}, {"dynamic", "local"}};
  refused("compressed_3", (group + "/input_activations").c_str(), inputs, {"dynamic", "local"});
  const json grouped = {{"num_bits", 4}, {"dynamic", true}, {"strategy", "group"}};
  refused("compressed_3", (group + "/input_activations").c_str(), grouped, {"group", "per token"});
  refused("gptq_4", "/lm_head", true, {"config.json", "lm_head", "output head"});
  refused("gptq_4", "/checkpoint_format", "marlin", {"checkpoint_format", "marlin", "gptq_v2"});
  refused("gptq_4", "/pack_dtype", "int64", {"pack_dtype", "int32"});
  refused("gptq_4", "/sym", "yes", {"sym", "config.json"});
  refused("gptq_4", "/dynamic", {{"+:(?", {{"bits", 2}}}}, {"dynamic", "no regular expression"});
  refused("gptq_4", "/dynamic", {{"+:.*o_proj", {{"bits", 2}}}, {"+:.*attn.*", {{"bits", 3}}}},
          {"dynamic", "different settings", layer.c_str()});
  refused("awq", "/version", "gemv", {"version", "gemv", "gemm"});
  refused("awq", "/bits", 3, {"bits", "4 bits"});
  refused("auto_round", "/packing_format", "auto_round:fp8", {"packing_format", "auto_gptq"});
  refused("auto_round", "/data_type", "fp", {"data_type"});
  refused("auto_round", "/act_bits", 8, {"act_bits"});
}

// A pattern of another program must not take the afternoon.
TEST(LayoutConfigs, APatternThatBacktracksIsGivenUp) {
  LayoutFolder f("compressed_3");
  const std::string pattern = "re:(([a-z._0-9]+)+)+[XY]";
  f.section()["config_groups"]["group_0"]["targets"] = {pattern};
  f.expect_refused({"matching", "failed", "one by one"});
}

TEST(LayoutConfigs, WhereTheTensorsSayOtherwiseTheyCount) {
  {
    LayoutFolder f("compressed_3");
    f.section()["config_groups"]["group_0"]["targets"] = {"Linear"};
    const NoticeRecorder notices;
    load_any_model(f.write(), Dtype::f32, Device::cpu());
    ASSERT_EQ(notices.lines().size(), 1u);
    expect_in(notices.lines()[0],
              {"quantizes model.layers.0.self_attn.q_proj", "6 such layers", "in floating point"});
  }
  {
    LayoutFolder f("awq");
    f.section()["modules_to_not_convert"] = {"o_proj"};
    const NoticeRecorder notices;
    load_any_model(f.write(), Dtype::f32, Device::cpu());
    ASSERT_FALSE(notices.lines().empty());
    expect_in(notices.lines().back(), {"leaves in floating point", layer.c_str(), "are codes"});
  }
  {
    LayoutFolder f("gptq_4");
    for (auto& [name, tensor] : std::map(f.tensors)) f.tensors.erase(name);
    f.tensors["model.other"] = Tensor::zeros({1}, Dtype::f32);
    f.has_float = true;
    f.expect_refused({"quantized (gptq)", "no layer has codes", "quantization_config"}, true);
  }
}

TEST(LayoutNames, MayLackThePrefixOfTheBody) {
  LayoutFolder f("gptq_order");
  std::map<std::string, Tensor> bare;
  for (const auto& [name, tensor] : f.tensors) bare[name.substr(6)] = tensor;
  f.tensors = bare;
  const NoticeRecorder notices;
  const auto model = load_any_model(f.write(true), Dtype::f32, Device::cpu());
  expect_known_notices(notices);
  const SafetensorsFile expected =
      SafetensorsFile::open(layout_fixtures() / "expected.safetensors");
  EXPECT_EQ(linear_of(*model).weight.value().to_vector<float>(),
            expected.load("gptq_order.weight").to_vector<float>());
}

}  // namespace
}  // namespace cbq::test::test_layout_readers
