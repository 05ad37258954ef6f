// Scales that are stored in fewer digits: the rounding itself, and that everything that makes a
// result keeps to it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "quant/grid.h"
#include "quant/solvers/solver.h"
#include "tests/fixtures.h"
#include "tests/test_cli_support.h"
#include "tests/tiny_model.h"

namespace cbq::test::test_scale_type {
namespace {

using nlohmann::json;

/// All positive numbers m 2^k with m < 2^digits and k >= least, up to 65536.
std::vector<double> numbers_of(int digits, int least) {
  std::vector<double> numbers;
  for (int k = least; k <= 16; ++k) {
    for (int m = 1; m < 1 << digits; ++m) {
      const double x = std::ldexp(m, k);
      if (x < 65536.0) numbers.push_back(x);
    }
  }
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  return numbers;
}

std::vector<float> stored(const std::vector<float>& scales, ScaleType type) {
  const auto n = static_cast<int64_t>(scales.size());
  return stored_scales(Tensor::from(scales, {n, 1}, Dtype::f32, Device::cpu()), type)
      .to_vector<float>();
}

std::vector<float> some_scales() {
  std::mt19937 random(3);
  std::uniform_real_distribution<float> exponent(-30.0f, 17.0f);
  std::vector<float> scales;
  for (int i = 0; i < 3000; ++i) scales.push_back(std::exp2(exponent(random)));
  return scales;
}

TEST(StoredScales, TheNearestNumberIsFound) {
  for (const auto& [type, digits, least] :
       {std::tuple{ScaleType::f16, 11, -24}, std::tuple{ScaleType::e5m6, 7, -20}}) {
    SCOPED_TRACE(name_of(type));
    const std::vector<double> numbers = numbers_of(digits, least);
    const std::vector<float> scales = some_scales(), found = stored(scales, type);
    for (size_t i = 0; i < scales.size(); ++i) {
      const double x = scales[i];
      const auto above = std::lower_bound(numbers.begin(), numbers.end(), x);
      double nearest = above == numbers.end() ? numbers.back() : *above;
      if (above != numbers.begin() && above != numbers.end() && x - above[-1] < *above - x) {
        nearest = above[-1];
      }
      EXPECT_EQ(found[i], nearest) << x;
    }
    // What is a number of the type stays.
    const std::vector<float> all(numbers.begin(), numbers.end());
    EXPECT_EQ(stored(all, type), all);
  }
}

TEST(StoredScales, TiesGoToTheEvenNumberAndNothingBecomesZeroOrInfinite) {
  EXPECT_EQ(stored({1.0f + 0x1p-11f, 1.0f + 0x3p-11f}, ScaleType::f16),
            (std::vector<float>{1.0f, 1.0f + 0x1p-9f}));
  EXPECT_EQ(stored({1e-12f, 1e9f}, ScaleType::f16), (std::vector<float>{0x1p-24f, 65504.0f}));
  EXPECT_EQ(stored({1e-12f, 1e9f}, ScaleType::e5m6), (std::vector<float>{0x1p-20f, 65024.0f}));
  EXPECT_TRUE(std::isnan(stored({NAN}, ScaleType::f16)[0]));
  const std::vector<float> any = some_scales();
  EXPECT_EQ(stored(any, ScaleType::f32), any);
  for (const float x : any) EXPECT_EQ(stored({x}, ScaleType::bf16)[0], float(bf16(x)));
}

// The promise that e5m6 is made for.
TEST(StoredScales, ProductsOfE5m6AndFourBitsAreHalfPrecision) {
  for (const float s : stored(some_scales(), ScaleType::e5m6)) {
    for (int z = 0; z < 16 && s * float(z) < 65504.0f; ++z) {
      const float product = s * float(z);
      EXPECT_EQ(float(f16(product)), product) << s << " * " << z;
    }
  }
}

// ---- a run --------------------------------------------------------------------------------------

void expect_scales_of(ScaleType type, Transformer& model) {
  for (const WindowLinear& l : linears_of(model, {0, model.block_count()})) {
    SCOPED_TRACE(l.path);
    const std::vector<float> scales =
        l.quantizers()->weight_quantizer->packed().scale.to_vector<float>();
    EXPECT_EQ(stored(scales, type), scales);
  }
}

std::unique_ptr<Transformer> quantized(const json& changes) {
  auto model = load_model(fixture("llama"), Dtype::f32, Device::cpu());
  Settings settings = method_settings("cbq_windows", 3, float_bits);
  settings.epochs = 1;
  apply_json(settings, changes);
  auto segments = tiny_segments(3, 8);
  for (auto& segment : segments) {
    for (int32_t& id : segment) id %= 32;
  }
  quantize(*model, segments, settings, nullptr, {});
  return model;
}

TEST(ScaleTypeOfARun, EveryWayToAResultKeepsToIt) {
  const json ways[] = {json::object(),
                       {{"reconstruct", "none"}},
                       {{"reconstruct", "none"}, {"solver", "gptq"}, {"group_size", 16}},
                       {{"reconstruct", "none"}, {"solver", "weighted"}},
                       {{"grid", "raw"}, {"symmetric", true}},
                       {{"grid", "clip"}, {"group_size", 8}},
                       {{"polish_epochs", 2}},
                       {{"polish_epochs", 2}, {"rate_polish_codes", 0.1}}};
  for (json way : ways) {
    SCOPED_TRACE(way.dump());
    for (const char* type : {"f16", "e5m6", "bf16"}) {
      way["scale_type"] = type;
      expect_scales_of(scale_type_from_name(type), *quantized(way));
    }
  }
}

TEST(ScaleTypeOfARun, TheDefaultHasScalesThatNoShorterTypeHolds) {
  const auto model = quantized({{"reconstruct", "none"}});
  const WindowLinear l = linears_of(*model, {0, 1}).front();
  const auto scales = l.quantizers()->weight_quantizer->packed().scale.to_vector<float>();
  EXPECT_NE(stored(scales, ScaleType::f16), scales);
}

TEST(ScaleTypeOfARun, AFolderRemembersIt) {
  const TemporaryFolder folder;
  const auto model = quantized({{"reconstruct", "none"}, {"scale_type", "f16"}});
  save_quantized(*model, folder / "q");
  for (const PlannedLayer& layer : export_plan_of(folder / "q").layers) {
    EXPECT_EQ(layer.weight.scale_type, ScaleType::f16);
  }
  const auto plain = quantized({{"reconstruct", "none"}});
  save_quantized(*plain, folder / "p");
  EXPECT_EQ(bytes_of(folder / "p/config.json").find("scale_type"), std::string::npos);
}

}  // namespace
}  // namespace cbq::test::test_scale_type
