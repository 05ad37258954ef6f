// Reordered channels and static ranges by cluster (RPTQ).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "cbq/exporters/exporter.h"
#include "cbq/global_transforms.h"
#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "quant/quantized_attention.h"
#include "quant/transforms/channel_map.h"
#include "quant/transforms/local/channel_clusters.h"
#include "tests/fixtures.h"
#include "tests/folder_tensors.h"
#include "tests/test_cli_support.h"
#include "tests/test_preprocess_model.h"

namespace cbq::test::test_reorder {
namespace {

// ---- clusters -----------------------------------------------------------------------------------

/// Sum of squared distances to the mean of the part, written out.
double spread(const std::vector<ChannelRange>& points, const std::vector<int>& part, int parts) {
  double sum = 0.0;
  for (int p = 0; p < parts; ++p) {
    double low = 0.0, high = 0.0, count = 0.0;
    for (size_t i = 0; i < points.size(); ++i) {
      if (part[i] != p) continue;
      low += points[i].low;
      high += points[i].high;
      count += 1.0;
    }
    for (size_t i = 0; i < points.size(); ++i) {
      if (part[i] != p) continue;
      sum += std::pow(points[i].low - low / count, 2) + std::pow(points[i].high - high / count, 2);
    }
  }
  return sum;
}

std::vector<int> parts_of(const ChannelClusters& clusters) {
  std::vector<int> part(clusters.order.size());
  size_t at = 0;
  for (size_t c = 0; c < clusters.sizes.size(); ++c) {
    for (int64_t i = 0; i < clusters.sizes[c]; ++i) {
      part[static_cast<size_t>(clusters.order[at++])] = static_cast<int>(c);
    }
  }
  return part;
}

TEST(ChannelClusters, AreThoseFoundByHand) {
  // Means of the three clouds: (-1, 1), (-10.5, 11.5), (0, 30).
  const std::vector<ChannelRange> ranges = {{-1.0, 1.0}, {-10.0, 12.0}, {-1.2, 0.8},
                                            {0.0, 30.0}, {-11.0, 11.0}, {-0.8, 1.2}};
  const ChannelClusters three = cluster_channels(ranges, 3, 0, 0);
  EXPECT_EQ(three.order, (std::vector<int64_t>{0, 2, 5, 1, 4, 3}));
  EXPECT_EQ(three.sizes, (std::vector<int64_t>{3, 2, 1}));
  // Two: joining clouds of m and n points adds mn / (m + n) times the squared distance of their
  // means: 6/5 200.5 = 240.6 for the first two, 2/3 452.5 = 301.7 and 3/4 842 = 631.5 for others.
  const ChannelClusters two = cluster_channels(ranges, 2, 0, 0);
  EXPECT_EQ(two.order, (std::vector<int64_t>{0, 1, 2, 4, 5, 3}));
  EXPECT_EQ(two.sizes, (std::vector<int64_t>{5, 1}));
  EXPECT_EQ(cluster_channels(ranges, 1, 0, 0).order, (std::vector<int64_t>{0, 1, 2, 3, 4, 5}));
}

TEST(ChannelClusters, HaveTheLeastSpreadOfAllPartitions) {
  for (uint64_t stream = 0; stream < 12; ++stream) {
    std::vector<ChannelRange> points;
    for (uint64_t i = 0; i < 8; ++i) {
      points.push_back(
          {-10.0 * philox_uniform(3, stream, 2 * i), 10.0 * philox_uniform(3, stream, 2 * i + 1)});
    }
    double least = INFINITY;
    for (int code = 0; code < 6561; ++code) {  // 3^8
      std::vector<int> part;
      for (int rest = code; part.size() < 8; rest /= 3) part.push_back(rest % 3);
      least = std::min(least, spread(points, part, 3));
    }
    const ChannelClusters found = cluster_channels(points, 3, 0, stream);
    EXPECT_NEAR(spread(points, parts_of(found), 3), least, 1e-9) << stream;
    EXPECT_EQ(found.order, cluster_channels(points, 3, 0, stream).order);
  }
}

TEST(ChannelClusters, AreFewerWhereThereAreFewerPlaces) {
  const ChannelClusters same = cluster_channels({{-1, 1}, {-1, 1}, {-2, 2}, {-1, 1}}, 3, 0, 0);
  EXPECT_EQ(same.order, (std::vector<int64_t>{0, 1, 3, 2}));
  EXPECT_EQ(same.sizes, (std::vector<int64_t>{3, 1}));
  using Invalid = std::invalid_argument;
  expect_error<Invalid>([] { cluster_channels({}, 3, 0, 0); }, {"0 channels", "3 clusters"});
  expect_error<Invalid>([] { cluster_channels({{0, 1}}, 0, 0, 0); }, {"0 clusters"});
  expect_error<Invalid>([] { cluster_channels({{0, NAN}}, 1, 0, 0); }, {"channel 0", "nan"});
}

// ---- ranges by cluster --------------------------------------------------------------------------

ActivationConfig config_of(Granularity granularity, int bits = 4) {
  ActivationConfig config;
  config.bits = bits;
  config.granularity = granularity;
  config.dynamic = false;
  return config;
}

struct Answer {
  std::vector<double> y, dx;
  double da;
};

Answer answer_of(ActivationQuantizer& quantizer, const Tensor& x, const Tensor& dy) {
  kernels::fill(quantizer.variables()[0].value(), -0.125);
  const Var input(x, true);
  Tape tape;
  const Var y = quantizer.fake_quant(input);
  const std::vector<double> values = y.value().to_vector<double>();
  tape.backward(y, dy);
  return {values, input.grad().to_vector<double>(), quantizer.variables()[0].grad().item()};
}

/// Columns [begin, end) of x [rows, n].
Tensor columns(const Tensor& x, int64_t begin, int64_t end) {
  return kernels::transpose(kernels::transpose(x).slice(begin, end).clone());
}

TEST(ClusterRanges, QuantizeEachClusterAsATensorOfItsOwn) {
  const std::vector<int64_t> sizes = {3, 1, 20};
  for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
    Tensor x({5, 24}, dtype), dy({5, 24}, dtype);
    kernels::fill_normal(x, 0.3, 1.0, 31, 1);
    kernels::fill_normal(dy, 0.0, 1.0, 31, 2);
    ActivationQuantizer whole(config_of(Granularity::per_cluster), Device::cpu(), "layer", sizes);
    whole.observe(x);
    const Answer all = answer_of(whole, x, dy);
    double da = 0.0;
    int64_t begin = 0;
    for (const int64_t size : sizes) {
      ActivationQuantizer one(config_of(Granularity::per_tensor), Device::cpu(), "layer");
      const Tensor part = columns(x, begin, begin + size);
      one.observe(part);
      const Answer its = answer_of(one, part, columns(dy, begin, begin + size));
      da += its.da;
      for (int64_t r = 0; r < 5; ++r) {
        for (int64_t c = 0; c < size; ++c) {
          const auto here = static_cast<size_t>(24 * r + begin + c);
          const auto there = static_cast<size_t>(size * r + c);
          EXPECT_EQ(all.y[here], its.y[there]);
          EXPECT_EQ(all.dx[here], its.dx[there]);
        }
      }
      begin += size;
    }
    EXPECT_NEAR(all.da, da, 1e-5 * (1.0 + std::abs(da)));
  }
}

TEST(ClusterRanges, AreRememberedAndRestored) {
  Tensor x({6, 8}, Dtype::f32);
  kernels::fill_normal(x, 0.0, 1.0, 4, 0);
  ActivationQuantizer made(config_of(Granularity::per_cluster), Device::cpu(), "layer", {2, 6});
  made.observe(x);
  ActivationQuantizer again(config_of(Granularity::per_cluster), Device::cpu(), "layer");
  again.restore(made.snapshot());
  EXPECT_EQ(again.clusters(), made.clusters());
  EXPECT_EQ(again.fake_quant(Var(x)).value().to_vector<float>(),
            made.fake_quant(Var(x)).value().to_vector<float>());
}

TEST(ClusterRanges, ErrorsNameTheLayer) {
  using Invalid = std::invalid_argument;
  const auto make = [](Granularity granularity, std::vector<int64_t> sizes) {
    return ActivationQuantizer(config_of(granularity), Device::cpu(), "model.q", std::move(sizes));
  };
  expect_error<Invalid>([&] { make(Granularity::per_tensor, {4}); }, {"model.q", "per_tensor"});
  expect_error<Invalid>([&] { make(Granularity::per_cluster, {4, 0}); }, {"model.q", "of 0"});
  ActivationQuantizer quantizer = make(Granularity::per_cluster, {2, 2});
  expect_error<Invalid>(
      [&] {
        quantizer.observe(Tensor::zeros({3, 5}, Dtype::f32));
      },
      {"model.q", "4 channels", "5"});
  for (const float broken : {NAN, INFINITY}) {
    expect_error<Invalid>(
        [&] {
          quantizer.observe(Tensor::from<float>({1, broken, 3, 4}, {1, 4}));
        },
        {"model.q", "NaN"});
  }
}

// ---- the map of channels ------------------------------------------------------------------------

TEST(ChannelMap, IsItsFormulaAndItsGradientTheTransposed) {
  // y = (x_2 / 2, (x_0 + x_3) / 2, x_2 / 2, 3 x_1)
  const ChannelMap map({{{2}, 0.5}, {{0, 3}, 0.5}, {{2}, 0.5}, {{1}, 3.0}}, Device::cpu());
  const Var x(Tensor::from<double>({1, 2, 4, 8, 0, -1, -6, 2}, {2, 4}), true);
  Tape tape;
  const Var y = map.apply(x);
  EXPECT_EQ(y.value().to_vector<double>(), (std::vector<double>{2, 4.5, 2, 6, -3, 1, -3, -3}));
  tape.backward(y, Tensor::from<double>({1, 10, 100, 1000, 1, 2, 3, 4}, {2, 4}));
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{5, 3000, 50.5, 5, 1, 12, 2, 1}));
  const Tensor w = Tensor::from<double>({1, 2, 3, 4}, {1, 4});
  EXPECT_EQ(map.weight_behind(w).to_vector<double>(), (std::vector<double>{3, 5, 3, 2}));
  // w T(x) for the first row: 1 2 + 2 4.5 + 3 2 + 4 6 = 41 = sum_c folded_c x_c
  EXPECT_EQ(map.folded_into(w).to_vector<double>(), (std::vector<double>{1, 12, 2, 1}));
  using Invalid = std::invalid_argument;
  expect_error<Invalid>([] { ChannelMap({{{}, 1.0}}, Device::cpu()); }, {"channel 0", "nothing"});
  expect_error<Invalid>([] { ChannelMap({{{1}, 1.0}}, Device::cpu()); }, {"channel 1 of 1"});
  expect_error<Invalid>([] { ChannelMap({{{0}, 0.0}}, Device::cpu()); }, {"factor", "0"});
}

// ---- the order in a model -----------------------------------------------------------------------

TEST(Reorder, KeepsTheFunctionOfEveryFamily) {
  for (const std::string& name : fixture_names()) {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
      SCOPED_TRACE(concat(name, " ", name_of(dtype)));
      const ExpectedResults expected(name);
      const auto model = load_model(fixture(name), dtype, Device::cpu());
      const std::vector<double> before = test::logits_of(*model, expected);
      PreprocessContext context;
      apply_preprocess("reorder:5,3", *model, tiny_segments(4, 10), context);
      EXPECT_LE(relative_distance(test::logits_of(*model, expected), before),
                dtype == Dtype::f64 ? 1e-11 : 1e-5);
      for (auto& [layer_name, linear] : model->blocks.front()->linears()) {
        const std::vector<int64_t>& sizes =
            context.activation_clusters.at(model->block_prefix(0) + layer_name);
        EXPECT_EQ(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}), linear->in_features());
        EXPECT_GT(sizes.size(), 1u) << layer_name;
      }
      const QueryKeyRows rows = model->blocks.front()->query_key_rows();
      for (const AttentionOperand operand : attention_operands) {
        const bool is_values = operand == AttentionOperand::values;
        const auto found =
            context.activation_clusters.find(attention_path(model->block_prefix(0), operand));
        ASSERT_EQ(found != context.activation_clusters.end(), is_values || !rows.rotary)
            << name_of(operand);
        if (found == context.activation_clusters.end()) continue;
        const std::vector<int64_t>& sizes = found->second;
        const int64_t heads = operand == AttentionOperand::queries ? rows.heads : rows.kv_heads;
        EXPECT_EQ(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}), heads * rows.head_dim);
        EXPECT_LE(static_cast<int64_t>(sizes.size()), heads * 3);
      }
    }
  }
}

/// Ranges of the reordered channels, cluster by cluster: how much of their spread is within.
double share_within(const InputStatistics& input, const std::vector<int64_t>& sizes) {
  std::vector<ChannelRange> points;
  std::vector<int> part;
  for (size_t c = 0; c < input.min.size(); ++c) points.push_back({input.min[c], input.max[c]});
  for (size_t k = 0; k < sizes.size(); ++k) {
    part.insert(part.end(), static_cast<size_t>(sizes[k]), static_cast<int>(k));
  }
  const double all = spread(points, std::vector<int>(points.size(), 0), 1);
  return spread(points, part, static_cast<int>(sizes.size())) / all;
}

TEST(Reorder, PutsChannelsOfOneRangeSideBySide) {
  for (const int64_t kv_heads : {1, 2, 4}) {
    const auto model = model_with_outliers(kv_heads);
    const auto untouched = model_with_outliers(kv_heads);
    const CalibrationStatistics before = collect_statistics(*untouched, small_segments());
    PreprocessContext context;
    const auto notes = apply_preprocess("reorder:6,4", *model, small_segments(), context);
    EXPECT_NE(joined(notes).find("in the weights of 4, online in 4"), std::string::npos)
        << joined(notes);
    const CalibrationStatistics after = collect_statistics(*model, small_segments());
    for (const auto& [path, sizes] : context.activation_clusters) {
      if (path.find("attention.values") != std::string::npos) continue;  // no linear's input
      SCOPED_TRACE(path);
      const InputStatistics &old_ranges = before.of(path), &ranges = after.of(path);
      EXPECT_LT(share_within(ranges, sizes), 0.2);
      EXPECT_GT(share_within(old_ranges, sizes), 0.4) << "the order that the model came with";
      std::vector<double> a = old_ranges.max, b = ranges.max;
      std::sort(a.begin(), a.end());
      std::sort(b.begin(), b.end());
      EXPECT_LT(largest_difference(a, b), 1e-9);
    }
  }
}

TEST(Reorder, ErrorsSayWhatIsTaken) {
  using Invalid = std::invalid_argument;
  for (const char* wrong : {"reorder:0", "reorder:2.5", "reorder:a", "reorder:3,0"}) {
    expect_error<Invalid>([&] { parse_preprocessors(wrong); }, {"reorder", "expected"});
  }
  expect_error<Invalid>([] { parse_preprocessors("reorder:1,2,3"); }, {"reorder:32,4", "1,2,3"});
}

/// Rows of queries and keys that are far larger than others end up in clusters of their own.
TEST(Reorder, MovesRowsOfQueriesAndKeysTogether) {
  for (const char* name : {"opt", "bloom"}) {
    SCOPED_TRACE(name);
    const ExpectedResults expected(name);
    const auto model = load_model(fixture(name), Dtype::f64, Device::cpu());
    const QueryKeyRows rows = model->block(0).query_key_rows();
    const auto row_of = [&](int64_t head, int64_t part, int64_t i) {
      return (head * rows.parts + part) * rows.head_dim + i;
    };
    const int64_t big = row_of(1, rows.query_part, 2), far = row_of(0, rows.key_part, 3);
    const auto scale_row = [](Linear& linear, int64_t row, double factor) {
      for (Var* v : {&linear.weight, &linear.bias}) {
        std::vector<double> values = v->value().to_vector<double>();
        const auto width = values.size() / static_cast<size_t>(linear.out_features());
        for (size_t i = 0; i < width; ++i) values[static_cast<size_t>(row) * width + i] *= factor;
        v->set_value(Tensor::from(values, v->shape(), Dtype::f64));
      }
    };
    scale_row(*rows.queries, big, 50.0);
    scale_row(*rows.keys, far, 50.0);
    const std::vector<double> before = test::logits_of(*model, expected);
    PreprocessContext context;
    apply_preprocess("reorder:4,3", *model, tiny_segments(4, 10), context);
    EXPECT_LE(relative_distance(test::logits_of(*model, expected), before), 1e-11);
    // Clusters are in the order of their reach: the large row is the last of its head, alone.
    const auto last_of_head = [&](AttentionOperand operand, int64_t head) {
      int64_t end = 0;
      for (const int64_t size :
           context.activation_clusters.at(attention_path(model->block_prefix(0), operand))) {
        end += size;
        if (end == (head + 1) * rows.head_dim) return size;
      }
      return int64_t{0};
    };
    EXPECT_EQ(last_of_head(AttentionOperand::queries, 1), 1);
    EXPECT_EQ(last_of_head(AttentionOperand::keys, 1), 1);
    EXPECT_EQ(last_of_head(AttentionOperand::queries, 0), 1);
    EXPECT_EQ(last_of_head(AttentionOperand::keys, 0), 1);
  }
}

TEST(QuantizedAttention, TakesStaticRangesWhereThereAreClusters) {
  QuantizedAttention attention(config_of(Granularity::per_cluster), Device::cpu(), "block.");
  attention.set_clusters(AttentionOperand::keys, {3, 5, 8});
  Tensor x({6, 16}, Dtype::f32), larger({6, 16}, Dtype::f32);
  kernels::fill_normal(x, 0.0, 1.0, 8, 0);
  kernels::fill_normal(larger, 0.0, 4.0, 8, 1);
  for (const AttentionOperand operand : attention_operands) attention.observe(larger, operand);
  ActivationQuantizer keys(config_of(Granularity::per_cluster), Device::cpu(), "k", {3, 5, 8});
  keys.observe(larger);
  ActivationConfig dynamic = config_of(Granularity::per_token);
  dynamic.dynamic = true;
  const ActivationQuantizer heads(dynamic, Device::cpu(), "q");
  const auto of_heads = heads.fake_quant(Var(x.reshape({12, 8}))).value().to_vector<float>();
  const auto operand = [&](QuantizedAttention& from, AttentionOperand which) {
    return from.operand(Var(x), 8, which).value().to_vector<float>();
  };
  EXPECT_EQ(operand(attention, AttentionOperand::keys),
            keys.fake_quant(Var(x)).value().to_vector<float>());
  EXPECT_EQ(operand(attention, AttentionOperand::queries), of_heads);
  EXPECT_EQ(operand(attention, AttentionOperand::values), of_heads);
  QuantizedAttention again(config_of(Granularity::per_cluster), Device::cpu(), "block.");
  again.restore(attention.state());
  EXPECT_EQ(again.clusters(AttentionOperand::keys), 3);
  EXPECT_EQ(operand(again, AttentionOperand::keys), operand(attention, AttentionOperand::keys));
  EXPECT_EQ(operand(again, AttentionOperand::values), of_heads);
}

// ---- runs ---------------------------------------------------------------------------------------

Settings rptq(const nlohmann::json& changes = nlohmann::json::object()) {
  Settings settings = method_settings("rptq", 4, 8);
  apply_json(settings, changes);
  return settings;
}

std::vector<double> tiny_logits(Transformer& model) {
  NoGrad none;
  const std::vector<int32_t> ids = tiny_segments(1, 14, 99)[0];
  return model.forward(Tensor::from(ids, {14}), {1, 14}).value().to_vector<double>();
}

std::unique_ptr<Transformer> quantized(const Settings& settings) {
  auto model = tiny_model();
  apply_global_transforms(*model, settings);
  quantize(*model, tiny_segments(4, 12), settings, nullptr, {});
  return model;
}

TEST(Rptq, ALoadedModelComputesTheSameBits) {
  for (const char* changes :
       {R"({})", R"({"act_symmetric": true})",
        R"({"reconstruct": "cbq", "solver": "none", "epochs": 1})",
        R"({"rotation": "r4", "preprocess": "reorder:4,2"})", R"({"wbits": 16})"}) {
    SCOPED_TRACE(changes);
    const TemporaryFolder folder;
    const auto model = quantized(rptq(nlohmann::json::parse(changes)));
    save_quantized(*model, folder / "q");
    const auto loaded = load_any_model(folder / "q", Dtype::f32, Device::cpu());
    EXPECT_EQ(tiny_logits(*loaded), tiny_logits(*model));
    save_quantized(*loaded, folder / "again");
    for (const char* file : {"model.safetensors", "config.json"}) {
      EXPECT_EQ(bytes_of(folder / "again" / file), bytes_of(folder / "q" / file)) << file;
    }
  }
}

TEST(Rptq, ADamagedFolderIsRefused) {
  const TemporaryFolder folder;
  save_quantized(*quantized(rptq()), folder / "q");
  const nlohmann::json good = json_of(folder / "q/config.json");
  const auto& layers = good.at("quantization_config").at("layers");
  const nlohmann::json& q = layers.at("model.layers.0.self_attn.q_proj");
  EXPECT_EQ(q.at("input").at("granularity"), "per_cluster");
  EXPECT_GT(q.at("input").at("clusters"), 1);
  EXPECT_EQ(q.at("online"), (nlohmann::json{{"kind", "channel_map"}, {"sources", 16}}));
  EXPECT_FALSE(layers.at("model.layers.0.self_attn.o_proj").contains("online"));
  EXPECT_FALSE(layers.at("model.layers.0.mlp.down_proj").contains("online"));
  const auto refused = [&](const char* at, const nlohmann::json& value,
                           std::initializer_list<const char*> parts) {
    nlohmann::json config = good;
    config["quantization_config"]["layers"]["model.layers.0.self_attn.q_proj"]
          [nlohmann::json::json_pointer(at)] = value;
    folder.write("q/config.json", config.dump());
    expect_error<std::runtime_error>(
        [&] { load_any_model(folder / "q", Dtype::f32, Device::cpu()); }, parts);
  };
  refused("/input/clusters", 0, {"q_proj", "clusters"});
  refused("/input/clusters", 1 << 20, {"q_proj", "clusters"});
  refused("/input/granularity", "per_tensor", {"q_proj", "per_cluster", "per_tensor"});
  refused("/online/sources", 3, {"q_proj", "sources"});
  refused("/online/sources", 17, {"q_proj.online_channels", "[17]"});
  folder.write("q/config.json", good.dump());
  std::map<std::string, Tensor> tensors;
  {
    const SafetensorsFile file = SafetensorsFile::open(folder / "q/model.safetensors");
    for (const std::string& name : file.names()) tensors[name] = file.load(name).clone();
  }
  for (const float wrong : {NAN, INFINITY, 1e9f}) {  // the last: a range that ends before it begins
    auto damaged = tensors;
    Tensor& range = damaged.at("model.layers.0.self_attn.q_proj.input_range");
    range = range.clone();
    range.data<float>()[0] = wrong;
    write_safetensors(folder / "q/model.safetensors", damaged, {{"format", "pt"}});
    expect_error<std::runtime_error>(
        [&] { load_any_model(folder / "q", Dtype::f32, Device::cpu()); },
        {"q_proj", "range", "quantize again"});
  }
  for (const char* name :
       {"input_clusters", "online_channels", "online_counts", "online_factors"}) {
    for (const float wrong : {-1.0f, 0.5f, 2.0f, 100.0f, NAN}) {
      // A factor, and another channel, are like others.
      if (std::string(name) == "online_factors" && wrong > 0.0f) continue;
      if (std::string(name) == "online_channels" && wrong == 2.0f) continue;
      auto damaged = tensors;
      Tensor& one = damaged[concat("model.layers.0.self_attn.q_proj.", name)];
      one = one.clone();
      one.data<float>()[0] = wrong;
      write_safetensors(folder / "q/model.safetensors", damaged, {{"format", "pt"}});
      expect_error<std::runtime_error>(
          [&] { load_any_model(folder / "q", Dtype::f32, Device::cpu()); }, {"q_proj", "damaged"});
    }
  }
}

/// OPT: queries, keys and values have static ranges, too.
TEST(Rptq, AFolderOfOptHoldsTheRangesOfAttention) {
  const TemporaryFolder folder;
  const auto model = load_model(fixture("opt"), Dtype::f32, Device::cpu());
  quantize(*model, tiny_segments(4, 12), rptq(), nullptr, {});
  save_quantized(*model, folder / "q");
  const nlohmann::json good = json_of(folder / "q/config.json");
  const nlohmann::json& section = good.at("quantization_config");
  const std::string path = attention_path(model->block_prefix(0));
  EXPECT_EQ(section.at("attention").at("granularity"), "per_cluster");
  for (const char* operand : {"queries", "keys", "values"}) {
    EXPECT_GT(section.at("attention_clusters").at(path).at(operand), 1) << operand;
  }
  const auto loaded = load_any_model(folder / "q", Dtype::f32, Device::cpu());
  EXPECT_EQ(tiny_logits(*loaded), tiny_logits(*model));
  save_quantized(*loaded, folder / "again");
  for (const char* file : {"model.safetensors", "config.json"}) {
    EXPECT_EQ(bytes_of(folder / "again" / file), bytes_of(folder / "q" / file)) << file;
  }
  const auto refused = [&](const std::string& at, const nlohmann::json& value,
                           std::initializer_list<const char*> parts) {
    nlohmann::json config = good;
    config["quantization_config"][nlohmann::json::json_pointer(at)] = value;
    folder.write("q/config.json", config.dump());
    expect_error<std::runtime_error>(
        [&] { load_any_model(folder / "q", Dtype::f32, Device::cpu()); }, parts);
  };
  const std::string clusters = "/attention_clusters/" + path;
  refused(clusters + "/keys", 0, {"attention.keys"});
  refused(clusters + "/keys", 3, {"attention.keys.range", "[3, 2]"});
  refused("/attention_clusters/model.decoder.layers.9.attention", nlohmann::json::object(),
          {"attention_clusters", "layers.9"});
  refused("/attention_clusters", 3, {"attention_clusters", "object"});
  refused("/attention/granularity", "per_tensor", {"attention_clusters", "per cluster"});
}

TEST(Rptq, AResumedRunOfOptEndsInTheSameBytes) {
  const TemporaryFolder folder;
  const auto run = [&](const RunHooks& hooks, const char* to) {
    const auto model = load_model(fixture("opt"), Dtype::f32, Device::cpu());
    quantize(*model, tiny_segments(4, 12), rptq(), nullptr, hooks);
    save_quantized(*model, folder / to);
    return tensors_of(folder / to);
  };
  const auto expected = run({}, "whole");
  RunHooks hooks;
  hooks.resume_folder = folder / "state";
  int blocks = 0;
  hooks.solved = [&](const SolveReport&) { ++blocks; };
  hooks.interrupted = [&] { return blocks > 1; };  // the first of two is finished
  EXPECT_THROW(run(hooks, "no"), Interrupted);
  hooks.interrupted = nullptr;
  std::vector<std::string> said;
  hooks.say = [&](const std::string& line) { said.push_back(line); };
  EXPECT_EQ(run(hooks, "resumed"), expected);
  EXPECT_NE(joined(said).find("resumed"), std::string::npos) << joined(said);
}

/// The outliers of a channel cost the channels of its cluster, and no others.
TEST(Rptq, BeatsOneRangePerTensorWhereThereAreOutliers) {
  const auto error_of = [](const Settings& settings) {
    const auto model = model_with_outliers(2, Dtype::f32);
    const std::vector<double> before = test::logits_of(*model);
    std::vector<std::vector<int32_t>> segments = small_segments();
    segments.resize(4);  // of one length
    quantize(*model, segments, settings, nullptr, {});
    const std::vector<double> after = test::logits_of(*model);
    double sum = 0.0;
    for (size_t i = 0; i < before.size(); ++i) sum += std::pow(after[i] - before[i], 2);
    return sum;
  };
  const Settings clusters = rptq({{"wbits", 16}, {"quantize_attention", false}});
  Settings one = clusters;
  apply_json(one, {{"act_granularity", "per_tensor"}, {"preprocess", "none"}});
  EXPECT_LT(error_of(clusters), 0.1 * error_of(one));
}

TEST(Rptq, OtherFormatsAreAskedBeforeTheRun) {
  const ModelConfig model = tiny_config();
  const ExportPlan plan = export_plan(model, rptq());
  for (const std::string& format : exporters().names()) {
    EXPECT_EQ(exporters().make(format)->obstacle(plan).empty(), format == packed_format) << format;
  }
  // Weights alone: the order is a part of them in a plain folder, and has no place elsewhere.
  const Settings weights = rptq({{"abits", 16}, {"quantize_attention", false}});
  const ExportPlan plain = export_plan(model, weights);
  EXPECT_EQ(exporters().make("dense")->obstacle(plain), "");
  EXPECT_NE(exporters().make("compressed-tensors")->obstacle(plain).find("channel_map"),
            std::string::npos);
  const TemporaryFolder folder;
  const auto result = quantized(weights);
  save_quantized(*result, folder / "q");
  const ExportPlan read = export_plan_of(folder / "q");
  for (size_t i = 0; i < read.layers.size(); ++i) {
    EXPECT_EQ(read.layers[i].online, plain.layers[i].online) << read.layers[i].path;
  }
  save_dense(*result, folder / "dense", Dtype::f32);
  const auto dense = load_model(folder / "dense", Dtype::f32, Device::cpu());
  EXPECT_LE(relative_distance(tiny_logits(*dense), tiny_logits(*result)), 1e-5);
}

TEST(Rptq, SettingsThatDoNotFitAreRefused) {
  const auto refused = [](const nlohmann::json& changes, std::initializer_list<const char*> parts) {
    expect_error<std::invalid_argument>([&] { validate(rptq(changes), 2); }, parts);
  };
  refused({{"preprocess", "none"}}, {"per_cluster", "reorder"});
  refused({{"act_dynamic", true}}, {"act_dynamic", "per_token"});
  validate(rptq({{"act_granularity", "per_tensor"}}), 2);
}

}  // namespace
}  // namespace cbq::test::test_reorder
