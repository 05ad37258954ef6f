// The last stage: gradients of scales of fixed codes, and what polish() promises.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/worst_error.h"
#include "cbq/activation_cache.h"
#include "cbq/pipeline.h"
#include "cbq/polish.h"
#include "cbq/quantized_folder.h"
#include "cbq/quantizers.h"
#include "kernels/ops.h"
#include "quant/learned_codes.h"
#include "tests/test_cli_support.h"
#include "tests/test_data.h"
#include "tests/tiny_model.h"

namespace cbq::test_polish {
namespace {

using namespace cbq::test;
namespace fs = std::filesystem;

/// The gradient of s (q - z) by loops over single weights.
TEST(CodeSums, AreTheGradientOfTheScales) {
  for (const int bits : {1, 2, 3, 5, 8}) {
    for (const int64_t group : {int64_t{0}, int64_t{8}, int64_t{24}}) {  // 0: one for all
      constexpr int64_t out = 5, in = 24;
      const int64_t groups = group == 0 ? 1 : in / group, rows = group == 0 ? 1 : out;
      std::vector<uint8_t> codes, zero;
      std::vector<double> dw, want(static_cast<size_t>(rows * groups), 0.0);
      for (int64_t i = 0; i < out * in; ++i) {
        codes.push_back(static_cast<uint8_t>((i * 7 + i / 5) % (1 << bits)));
        dw.push_back(std::sin(static_cast<double>(i)));
      }
      for (int64_t g = 0; g < rows * groups; ++g)
        zero.push_back(static_cast<uint8_t>(g % (1 << bits)));
      for (int64_t i = 0; i < out * in; ++i) {
        const int64_t g = group == 0 ? 0 : i / in * groups + i % in / group;
        want[static_cast<size_t>(g)] +=
            dw[static_cast<size_t>(i)] * (static_cast<double>(codes[static_cast<size_t>(i)]) -
                                          static_cast<double>(zero[static_cast<size_t>(g)]));
      }
      const Shape shape{rows, groups};
      const PackedWeight packed{bits,
                                out,
                                in,
                                group == 0 ? in : group,
                                pack_codes(Tensor::from(codes, {out, in}), bits),
                                Tensor::from(std::vector<float>(want.size(), 0.5f), shape),
                                Tensor::from(zero, shape)};
      for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::bf16}) {
        const Tensor found = code_sums(packed, Tensor::from(dw, {out, in}, dtype));
        EXPECT_EQ(found.shape(), shape);
        const auto values = found.to_vector<double>();
        const double tolerance = dtype == Dtype::f64 ? 1e-12 : dtype == Dtype::f32 ? 1e-5 : 5e-3;
        for (size_t g = 0; g < want.size(); ++g) {
          EXPECT_NEAR(values[g], want[g], tolerance * 255 * 24) << bits << " bits, group " << group;
        }
      }
    }
  }
  PackedWeight bad{2,
                   2,
                   8,
                   8,
                   Tensor::zeros({2, 2}, Dtype::u8),
                   Tensor::zeros({2, 1}, Dtype::f32),
                   Tensor::zeros({2, 1}, Dtype::u8)};
  expect_error<std::invalid_argument>(
      [&] {
        code_sums(bad, Tensor::zeros({2, 7}, Dtype::f32));
      },
      {"code_sums", "[2, 8]"});
}

/// Codes by loops over single weights: values, gradients, and that integers give dequantize().
TEST(LearnedCodes, ValuesAndGradientsAreThoseOfLoops) {
  for (const int bits : {1, 2, 3, 8}) {
    for (const int64_t group : {int64_t{0}, int64_t{8}, int64_t{24}}) {  // 0: one for all
      constexpr int64_t out = 5, in = 24;
      const int64_t groups = group == 0 ? 1 : in / group, rows = group == 0 ? 1 : out;
      const double largest = (1 << bits) - 1;
      std::vector<double> u, dw, scale;
      std::vector<uint8_t> zero;
      for (int64_t i = 0; i < out * in; ++i) {
        const auto x = static_cast<double>(i);
        u.push_back(std::fmod(x * 0.37, largest + 2.0) - 1.0);  // beyond both ends, too
        dw.push_back(std::sin(x));
      }
      u[3] = 0.0;
      u[4] = largest;
      for (int64_t g = 0; g < rows * groups; ++g) {
        zero.push_back(static_cast<uint8_t>(g % (1 << bits)));
        scale.push_back(0.25 + 0.125 * static_cast<double>(g));
      }
      const Shape shape{rows, groups};
      for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
        const LearnedCodes codes{bits, group == 0 ? in : group, Tensor::from(u, {out, in}, dtype),
                                 Tensor::from(scale, shape, dtype), Tensor::from(zero, shape)};
        const auto uv = codes.u.to_vector<double>();
        std::vector<double> want(u.size()), du(u.size()), ds(scale.size(), 0.0);
        for (size_t i = 0; i < u.size(); ++i) {
          const auto at = static_cast<int64_t>(i);
          const auto g = static_cast<size_t>(group == 0 ? 0 : at / in * groups + at % in / group);
          const double q = std::min(std::max(std::nearbyint(uv[i]), 0.0), largest);
          want[i] = scale[g] * (q - zero[g]);
          ds[g] += dw[i] * (q - zero[g]);
          const bool leads_out = (uv[i] <= 0.0 && dw[i] > 0.0) || (uv[i] >= largest && dw[i] < 0.0);
          du[i] = leads_out ? 0.0 : scale[g] * dw[i];
        }
        const double tolerance = dtype == Dtype::f64 ? 1e-12 : 1e-6;
        EXPECT_NEAR(largest_difference(dequantize(codes, dtype).to_vector<double>(), want), 0.0,
                    tolerance * 255);
        const CodeGradients d = code_gradients(codes, Tensor::from(dw, {out, in}, dtype));
        EXPECT_EQ(d.scale.shape(), shape);
        EXPECT_NEAR(largest_difference(d.u.to_vector<double>(), du), 0.0, tolerance);
        EXPECT_NEAR(largest_difference(d.scale.to_vector<double>(), ds), 0.0, tolerance * 255 * 24);

        const PackedWeight weight = packed(codes);
        EXPECT_EQ(dequantize(weight, dtype, Device::cpu()).to_vector<double>(),
                  dequantize(codes, dtype).to_vector<double>());
        LearnedCodes again = codes;
        again.u = real_codes(weight);
        EXPECT_EQ(again.u.dtype(), dtype);
        EXPECT_EQ(dequantize(again, dtype).to_vector<double>(),
                  dequantize(codes, dtype).to_vector<double>());
      }
    }
  }
  const LearnedCodes bad{2, 8, Tensor::zeros({2, 8}, Dtype::f32), Tensor::zeros({2, 2}, Dtype::f32),
                         Tensor::zeros({2, 2}, Dtype::u8)};
  expect_error<std::invalid_argument>([&] { (void)dequantize(bad, Dtype::f32); },
                                      {"scale", "[2, 1]"});
}

Settings polished(const nlohmann::json& changes = {}) {
  Settings s;
  s.wbits = 2;
  s.reconstruct = "none";
  s.batch = 2;
  s.polish_epochs = 3;
  s.rate_polish = 5e-3;
  if (!changes.is_null()) apply_json(s, changes);
  return s;
}

/// Mean KL(original || quantized) over all tokens, by plain loops over logits.
double divergence(Transformer& original, Transformer& quantized,
                  const std::vector<std::vector<int32_t>>& segments) {
  NoGrad none;
  double sum = 0.0;
  int64_t tokens = 0;
  for (const auto& segment : segments) {
    const auto length = static_cast<int64_t>(segment.size());
    const Tensor ids = Tensor::from(segment, {length}, Dtype::i32);
    const auto p = original.forward(ids, {1, length}).value().to_vector<double>();
    const auto q = quantized.forward(ids, {1, length}).value().to_vector<double>();
    const size_t width = p.size() / segment.size();
    for (size_t begin = 0; begin < p.size(); begin += width, ++tokens) {
      double zp = 0.0, zq = 0.0;
      for (size_t j = begin; j < begin + width; ++j) {
        zp += std::exp(p[j]);
        zq += std::exp(q[j]);
      }
      for (size_t j = begin; j < begin + width; ++j) {
        const double log_p = p[j] - std::log(zp), log_q = q[j] - std::log(zq);
        sum += std::exp(log_p) * (log_p - log_q);
      }
    }
  }
  return sum / static_cast<double>(tokens);
}

TEST(Polish, LowersTheDivergenceAndMovesScalesAlone) {
  const auto segments = cbq::tiny_segments(24, 12);
  const std::vector<std::vector<int32_t>> held_out = {segments[0], segments[8], segments[16]};
  for (const char* changes :
       {R"({})", R"({"abits": 4})", R"({"granularity": "g8"})", R"({"granularity": "g4"})",
        R"({"solver": "gptq"})", R"({"reconstruct": "cbq", "epochs": 1})"}) {
    SCOPED_TRACE(changes);
    Settings without = polished(nlohmann::json::parse(changes)), with = without;
    without.polish_epochs = 0;
    const auto original = cbq::tiny_model(3), plain = cbq::tiny_model(3),
               better = cbq::tiny_model(3);
    const RunResult before = quantize(*plain, segments, without, nullptr, {});
    EXPECT_FALSE(before.polish.has_value());
    const RunResult after = quantize(*better, segments, with, nullptr, {});
    ASSERT_TRUE(after.polish.has_value());
    const PolishReport& report = *after.polish;
    EXPECT_EQ(report.held_out, 3);
    EXPECT_EQ(report.trained, 21);
    EXPECT_EQ(report.steps, 3 * 11);
    EXPECT_TRUE(report.kept);
    EXPECT_NEAR(report.before, divergence(*original, *plain, held_out), 1e-4 * report.before);
    EXPECT_NEAR(report.after, divergence(*original, *better, held_out), 1e-4 * report.before);
    EXPECT_LT(report.after, report.before);
    EXPECT_LT(divergence(*original, *better, segments),
              0.97 * divergence(*original, *plain, segments));
    const auto a = linears_of(*plain, {0, 3}), b = linears_of(*better, {0, 3});
    for (size_t i = 0; i < a.size(); ++i) {
      const PackedWeight& x = a[i].quantizers()->weight_quantizer->packed();
      const PackedWeight& y = b[i].quantizers()->weight_quantizer->packed();
      EXPECT_EQ(x.codes.to_vector<int>(), y.codes.to_vector<int>());
      EXPECT_EQ(x.zero_point.to_vector<int>(), y.zero_point.to_vector<int>());
      EXPECT_NE(x.scale.to_vector<float>(), y.scale.to_vector<float>());
    }
  }
}

/// All parameters of norms, in order.
std::vector<double> norms_of(Transformer& model) {
  std::vector<double> all;
  model.visit("", [&](const std::string& path, Var& p) {
    if (path.find("norm") == std::string::npos) return;
    for (const double x : p.value().to_vector<double>()) all.push_back(x);
  });
  return all;
}

// The only segment is trained on and decides.
TEST(Polish, LearnsCodesAndNormsWhereTheyAreAskedFor) {
  const auto segments = cbq::tiny_segments(1, 30);
  const auto original = cbq::tiny_model(3);
  for (const char* granularity : {"per_channel", "per_tensor", "g8"}) {
    for (const bool codes : {false, true}) {
      for (const bool norms : {false, true}) {
        SCOPED_TRACE(granularity);
        SCOPED_TRACE(codes * 2 + norms);
        const Settings without = polished({{"granularity", granularity}, {"polish_epochs", 0}});
        const Settings with = polished({{"granularity", granularity},
                                        {"polish_epochs", 150},
                                        {"rate_polish", 1e-3},
                                        {"rate_polish_codes", codes ? 0.02 : 0.0},
                                        {"rate_polish_norm", norms ? 0.01 : 0.0}});
        const auto plain = cbq::tiny_model(3), better = cbq::tiny_model(3);
        quantize(*plain, segments, without, nullptr, {});
        const PolishReport report = *quantize(*better, segments, with, nullptr, {}).polish;
        EXPECT_TRUE(report.kept);
        EXPECT_LT(report.after, report.before);
        EXPECT_NEAR(report.after, divergence(*original, *better, segments), 1e-4 * report.before);
        EXPECT_EQ(norms_of(*plain) != norms_of(*better), norms);
        size_t moved = 0;
        const auto a = linears_of(*plain, {0, 3}), b = linears_of(*better, {0, 3});
        for (size_t i = 0; i < a.size(); ++i) {
          const PackedWeight& x = a[i].quantizers()->weight_quantizer->packed();
          const PackedWeight& y = b[i].quantizers()->weight_quantizer->packed();
          moved += x.codes.to_vector<int>() != y.codes.to_vector<int>();
          EXPECT_EQ(x.zero_point.to_vector<int>(), y.zero_point.to_vector<int>());
        }
        EXPECT_EQ(moved > 0, codes);
        // Afterwards nothing of it is learned any more.
        better->visit("", [](const std::string& path, Var& p) {
          EXPECT_FALSE(path.find("norm") != std::string::npos && p.requires_grad()) << path;
        });
      }
    }
  }
}

/// A model that was read from its packed folder is polished as the one that was saved there.
TEST(Polish, TakesAModelThatWasReadFromItsFolder) {
  const TemporaryFolder folder;
  const auto segments = cbq::tiny_segments(16, 12);
  const Settings with =
      polished({{"abits", 4}, {"rate_polish_codes", 0.04}, {"rate_polish_norm", 0.01}});
  Settings without = with;
  without.polish_epochs = 0;
  const auto original = cbq::tiny_model(3), at_once = cbq::tiny_model(3),
             plain = cbq::tiny_model(3);
  const PolishReport want = *quantize(*at_once, segments, with, nullptr, {}).polish;
  quantize(*plain, segments, without, nullptr, {});
  save_quantized(*plain, folder / "q");
  const auto read = load_quantized(folder / "q", Dtype::f32, Device::cpu());
  const auto targets = cache_in_memory(*original, segments);
  const PolishReport found = polish(*read, segments, *targets, with, {});
  EXPECT_EQ(found.before, want.before);
  EXPECT_EQ(found.after, want.after);
  EXPECT_TRUE(found.kept);
  const Tensor ids = Tensor::from(segments[0], {12}, Dtype::i32);
  const auto logits = [&](Transformer& model) {
    NoGrad none;
    return model.forward(ids, {1, 12}).value().to_vector<float>();
  };
  EXPECT_EQ(logits(*read), logits(*at_once));
  for (const NamedLinear& l : read->block(0).linears()) {
    EXPECT_EQ(l.linear->weight.value().raw(),
              l.linear->transform->weight(l.linear->weight).value().raw())
        << l.name << ": the polished weight lies beside the one that was read";
  }
  save_quantized(*read, folder / "p");
  EXPECT_EQ(logits(*load_quantized(folder / "p", Dtype::f32, Device::cpu())), logits(*at_once));
}

TEST(Polish, WhatDoesNotHelpIsUndone) {
  const auto segments = cbq::tiny_segments(9, 12);
  for (const char* changes : {R"({"rate_polish": 30.0})", R"({"rate_polish": 1e30, "abits": 4})",
                              R"({"rate_polish_codes": 30.0})", R"({"rate_polish_norm": 100.0})"}) {
    SCOPED_TRACE(changes);
    Settings with = polished(nlohmann::json::parse(changes)), without = with;
    without.polish_epochs = 0;
    const auto plain = cbq::tiny_model(2), undone = cbq::tiny_model(2);
    quantize(*plain, segments, without, nullptr, {});
    const RunResult result = quantize(*undone, segments, with, nullptr, {});
    EXPECT_FALSE(result.polish->kept);
    EXPECT_NE(result.notes.back().find("undone"), std::string::npos);
    const auto x = quantizer_state(*plain, {0, 2}), y = quantizer_state(*undone, {0, 2});
    EXPECT_EQ(norms_of(*plain), norms_of(*undone));
    ASSERT_EQ(x.size(), y.size());
    for (const auto& [name, value] : x) {
      EXPECT_EQ(value.to_vector<double>(), y.at(name).to_vector<double>()) << name;
    }
  }
}

/// What a run leaves in its blocks, block by block from the disk or with the model in memory.
std::string blocks_of(const fs::path& model_folder, const Settings& settings, bool on_demand,
                      RunHooks hooks = {}) {
  const auto segments = cbq::tiny_segments(10, 12);
  const auto model = on_demand ? open_model(model_folder, Dtype::f32, Device::cpu())
                               : load_model(model_folder, Dtype::f32, Device::cpu());
  hooks.keep_originals = !on_demand;
  if (on_demand) hooks.keep_block = [](int64_t) {};
  std::map<std::string, std::vector<double>> state;
  const auto keep = hooks.keep_block;
  hooks.keep_block = [&](int64_t b) {
    for (const auto& [name, value] : quantizer_state(*model, {b, 1})) {
      state[name] = value.to_vector<double>();
    }
    model->block(b).visit(concat(b, "."), [&](const std::string& path, Var& p) {
      if (path.find("norm") != std::string::npos) state[path] = p.value().to_vector<double>();
    });
    if (keep) keep(b);
  };
  quantize(*model, segments, settings, nullptr, hooks);
  return nlohmann::json(state).dump();
}

TEST(Polish, IsTheSameBlockByBlockAndAfterAnInterruption) {
  const TemporaryFolder folder;
  save_model(*cbq::tiny_model(3), folder / "m", Dtype::f32);
  for (
      const char* changes :
      {R"({"rate_polish_codes": 0.02})", R"({"abits": 4, "solver": "gptq", "granularity": "g8"})",
       R"({"abits": 4, "reconstruct": "cbq", "epochs": 1})",
       R"({"reconstruct": "cbq", "epochs": 1, "rate_polish_codes": 0.01, "rate_polish_norm": 0.01})",
       R"({"abits": 8, "act_granularity": "per_tensor", "reconstruct": "cbq", "epochs": 1})"}) {
    SCOPED_TRACE(changes);
    const Settings settings = polished(nlohmann::json::parse(changes));
    const std::string whole = blocks_of(folder / "m", settings, false);
    Settings without = settings;
    without.polish_epochs = 0;
    EXPECT_TRUE(whole != blocks_of(folder / "m", without, false)) << "nothing was learned";
    EXPECT_EQ(blocks_of(folder / "m", settings, true), whole);
    for (const bool on_demand : {true, false}) {
      // Stopped in the middle of the last stage; all windows are behind it.
      SCOPED_TRACE(on_demand);
      RunHooks hooks;
      hooks.resume_folder =
          folder / concat("state", std::string(changes).size(), on_demand ? "" : "-whole");
      hooks.keep_originals = false;
      bool stop = false;
      hooks.preparation = [&](int64_t done, int64_t, const std::string& what) {
        stop = what.find("polishing") != std::string::npos && done == 6;
      };
      hooks.interrupted = [&] { return stop; };
      EXPECT_THROW(blocks_of(folder / "m", settings, on_demand, hooks), Interrupted);
      stop = false;
      hooks.preparation = nullptr;
      std::string said;
      hooks.say = [&](const std::string& line) { said += line + "\n"; };
      EXPECT_EQ(blocks_of(folder / "m", settings, on_demand, hooks), whole);
      // A pass has 4 steps, after which the state is saved.
      EXPECT_NE(said.find("resumed after step 4 of the last stage"), std::string::npos) << said;
    }
  }
}

TEST(Polish, ADamagedStateOfItIsToldAndTheStageStartsAnew) {
  const TemporaryFolder folder;
  save_model(*cbq::tiny_model(3), folder / "m", Dtype::f32);
  const Settings settings = polished({{"rate_polish_codes", 0.02}});
  const std::string whole = blocks_of(folder / "m", settings, false);
  RunHooks hooks;
  hooks.resume_folder = folder / "state";
  hooks.keep_originals = false;
  bool stop = false;
  hooks.preparation = [&](int64_t done, int64_t, const std::string& what) {
    stop = what.find("polishing") != std::string::npos && done == 9;
  };
  hooks.interrupted = [&] { return stop; };
  EXPECT_THROW(blocks_of(folder / "m", settings, false, hooks), Interrupted);
  const fs::path file = folder / "state" / "polish.safetensors";
  ASSERT_TRUE(fs::exists(file));
  std::string bytes = bytes_of(file);
  bytes[bytes.size() / 2] ^= 1;
  std::ofstream(file, std::ios::binary) << bytes;
  stop = false;
  hooks.preparation = nullptr;
  std::string said;
  hooks.say = [&](const std::string& line) { said += line + "\n"; };
  EXPECT_EQ(blocks_of(folder / "m", settings, false, hooks), whole);
  EXPECT_NE(said.find("the last stage starts anew"), std::string::npos) << said;
  EXPECT_NE(said.find("polish.safetensors"), std::string::npos) << said;
}

// The only segment is trained on and decides, so every granularity must gain.
TEST(Polish, DescendsOnASegmentOfItsOwn) {
  for (const char* granularity : {"per_tensor", "per_channel", "g8"}) {
    SCOPED_TRACE(granularity);
    const auto model = cbq::tiny_model(2);
    const Settings settings =
        polished({{"granularity", granularity}, {"rate_polish", 1e-4}, {"polish_epochs", 20}});
    const RunResult result = quantize(*model, cbq::tiny_segments(1, 30), settings, nullptr, {});
    EXPECT_TRUE(result.polish->kept);
    EXPECT_LT(result.polish->after, result.polish->before);
  }
}

TEST(Polish, LearnsNormsInF32Alone) {
  const auto model = make_model(tiny_config(2, 16), Dtype::bf16, Device::cpu());
  expect_error<std::invalid_argument>(
      [&] {
        quantize(*model, cbq::tiny_segments(2, 12), polished({{"rate_polish_norm", 0.01}}), nullptr,
                 {});
      },
      {"rate_polish_norm", "bf16", "--dtype f32"});
}

TEST(Polish, NeedsFewSegments) {
  const auto model = cbq::tiny_model(2);
  const RunResult result = quantize(*model, cbq::tiny_segments(1, 12), polished(), nullptr, {});
  EXPECT_EQ(result.polish->trained, 1);
  EXPECT_EQ(result.polish->held_out, 1);
}

TEST(Polish, LearnsClipsAlone) {
  for (const bool learn : {true, false}) {
    const Settings s =
        polished({{"wbits", 16}, {"abits", 4}, {"learn_activation", learn}, {"polish_epochs", 20}});
    const auto model = cbq::tiny_model(2);
    const RunResult result = quantize(*model, cbq::tiny_segments(1, 30), s, nullptr, {});
    ASSERT_TRUE(result.polish.has_value());
    EXPECT_EQ(result.polish->kept, learn);
    EXPECT_EQ(result.polish->steps, learn ? 20 : 0);
  }
}

TEST(Polish, WithoutQuantizersThereIsNothingToDo) {
  Settings s = polished();
  s.wbits = 16;
  const auto model = cbq::tiny_model(2);
  EXPECT_FALSE(quantize(*model, cbq::tiny_segments(2, 12), s, nullptr, {}).polish.has_value());
}

}  // namespace
}  // namespace cbq::test_polish
