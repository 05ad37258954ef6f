// Solvers on a model: codes against a path of naive loops that shares nothing with the driver,
// targets, resuming, what solved and unsolved layers are.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "cbq/loss.h"
#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantizers.h"
#include "cbq/solve_block.h"
#include "experiments/cell.h"
#include "nn/formats/json.h"
#include "nn/perplexity.h"
#include "quant/bit_packed.h"
#include "tests/fixtures.h"
#include "tests/naive_solver.h"
#include "tests/test_data.h"
#include "tests/tiny_model.h"

namespace cbq::test_solve_block {

using namespace naive;

namespace {

Settings gptq_only(int wbits, int abits) {
  Settings s = method_settings("cbq_windows", wbits, abits);
  apply_json(s, {{"solver", "gptq"}, {"reconstruct", "none"}, {"scale_search", "min_max"}});
  return s;
}

struct PathCase {
  const char* name;
  const char* fixture;  // or "" for the tiny LLaMA
  const Groups* groups;
  int wbits, abits;
  double alpha = 0.0;  // of GPTAQ; 0: GPTQ
};
void PrintTo(const PathCase& c, std::ostream* out) { *out << c.name; }

/// tiny_model(2, 32) with its parameters in another dtype.
std::unique_ptr<Transformer> tiny_model_in(Dtype dtype) {
  auto model = tiny_model(2, 32);
  if (dtype == Dtype::f32) return model;
  auto other = make_model(model->config, dtype, Device::cpu());
  const auto from = parameters_of(*model), to = parameters_of(*other);
  for (size_t i = 0; i < from.size(); ++i) {
    to[i].second.value().copy_from(kernels::cast(from[i].second.value(), dtype));
  }
  return other;
}

/// Two paths sum in orders of their own, so their last bits differ from processor to processor. In
/// f32 an 8-bit input then lies on the other side of a tie here and there, and codes follow (with
/// AVX2, 5 of a layer's 2,048). In f64 no sum comes so close to a tie.
class SolvedCodes : public ::testing::TestWithParam<PathCase> {
 protected:
  Dtype dtype() const { return GetParam().abits < float_bits ? Dtype::f64 : Dtype::f32; }
  std::unique_ptr<Transformer> model() const {
    if (*GetParam().fixture == '\0') return tiny_model_in(dtype());
    return load_model(test::fixture(GetParam().fixture), Dtype::f32, Device::cpu());
  }
};

TEST_P(SolvedCodes, AreThoseOfAnIndependentPath) {
  const PathCase& c = GetParam();
  const Segments segments = tiny_segments(24, 10);
  const auto plain = model(), solved = model(), untouched = model();
  Transformer* original = c.alpha > 0.0 ? untouched.get() : nullptr;
  const auto codes_in = [&]<class A>(A) {
    return naive_path<A>(*plain, segments, *c.groups, c.wbits, c.abits, original, c.alpha);
  };
  const Codes expected = dtype() == Dtype::f64 ? codes_in(double()) : codes_in(float());
  Settings settings = gptq_only(c.wbits, c.abits);
  if (original != nullptr) settings.solver = concat("gptaq:alpha=", c.alpha);
  quantize(*solved, segments, settings, nullptr, {});
  const auto linears = linears_of(*solved, {0, solved->block_count()});
  EXPECT_EQ(linears.size(), expected.size());
  for (const WindowLinear& l : linears) {
    const PackedWeight& packed = l.quantizers()->weight_quantizer->packed();
    const auto codes = unpack_codes(packed.codes, packed.bits, packed.in).to_vector<uint8_t>();
    const std::vector<int>& its = expected.at(l.path);
    ASSERT_EQ(codes.size(), its.size()) << l.path;
    EXPECT_TRUE(std::equal(codes.begin(), codes.end(), its.begin())) << l.path;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, SolvedCodes,
                         ::testing::Values(PathCase{"llama_w3", "", &llama_groups, 3, 16},
                                           PathCase{"llama_w4a8", "", &llama_groups, 4, 8},
                                           PathCase{"qwen3_w4", "qwen3", &llama_groups, 4, 16},
                                           PathCase{"opt_w3", "opt", &opt_groups, 3, 16},
                                           PathCase{"bloom_w4", "bloom", &bloom_groups, 4, 16},
                                           PathCase{"gptaq_w3", "", &llama_groups, 3, 16, 1.0},
                                           PathCase{"gptaq_w4a8", "", &llama_groups, 4, 8, 0.25},
                                           PathCase{"gptaq_opt_w3", "opt", &opt_groups, 3, 16,
                                                    0.5}),
                         [](const auto& one) { return std::string(one.param.name); });

TEST(LinearsByInput, AreTheGroupsOfEveryFamily) {
  const std::map<std::string, Groups> expected = {{"llama", llama_groups},
                                                  {"mistral", llama_groups},
                                                  {"qwen2", llama_groups},
                                                  {"opt", opt_groups},
                                                  {"opt-post-norm", opt_groups},
                                                  {"bloom", bloom_groups},
                                                  {"bloom-post-norm-residual", bloom_groups}};
  for (const auto& [name, groups] : expected) {
    const auto model = load_model(test::fixture(name), Dtype::f32, Device::cpu());
    Groups found;
    for (const auto& group : linears_by_input(model->block(1))) {
      found.emplace_back();
      for (const NamedLinear& l : group) found.back().push_back(l.name);
    }
    EXPECT_EQ(found, groups) << name;
  }
}

// ---- what the driver promises -------------------------------------------------------------------

Settings quick(const nlohmann::json& changes = nlohmann::json::object()) {
  Settings s = method_settings("cbq_windows", 2, 16);
  s.epochs = 1;
  s.batch = 2;
  s.solver = "gptq";
  apply_json(s, changes);
  return s;
}

using State = std::map<std::string, std::vector<float>>;

State state_of(Transformer& model) {
  State state;
  for (const auto& [name, tensor] : quantizer_state(model, {0, model.block_count()})) {
    state[name] = tensor.to_vector<float>();
  }
  return state;
}

State run(const Settings& settings, const RunHooks& hooks = {}) {
  const auto model = tiny_model(4);
  quantize(*model, tiny_segments(6, 8), settings, nullptr, hooks);
  return state_of(*model);
}

TEST(Solver, LayersErrorsAreBelowThoseOfNearestRounding) {
  const auto model = tiny_model(3, 32);
  RunHooks hooks;
  size_t layers = 0;
  hooks.solved = [&](const SolveReport& report) {
    EXPECT_LT(report.mean_error_ratio(), 0.8) << report.block;
    for (const SolvedLayer& l : report.layers) {
      EXPECT_LE(l.error, l.nearest_error) << l.path;
      ++layers;
    }
  };
  quantize(*model, tiny_segments(24, 10), quick({{"reconstruct", "none"}, {"wbits", 3}}), nullptr,
           hooks);
  EXPECT_EQ(layers, 21u);
}

TEST(Solver, WeightsOfTheModelStayTheOriginalOnes) {
  const auto model = tiny_model(4), untouched = tiny_model(4);
  quantize(*model, tiny_segments(6, 8), quick(), nullptr, {});
  const auto now = linears_of(*model, {0, 4}), before = linears_of(*untouched, {0, 4});
  for (size_t i = 0; i < now.size(); ++i) {
    EXPECT_EQ(now[i].linear->weight.value().to_vector<float>(),
              before[i].linear->weight.value().to_vector<float>())
        << now[i].path;
  }
}

TEST(Solver, NothingLearnedIsTheSolution) {
  const State solved = run(quick({{"reconstruct", "none"}}));
  EXPECT_EQ(run(quick({{"epochs", 0}, {"window", 1}, {"overlap", 0}})), solved);
  EXPECT_EQ(run(quick({{"epochs", 0}})), solved);
  EXPECT_EQ(run(quick({{"epochs", 0}, {"rounding", "adaround"}})), solved);
  EXPECT_NE(run(quick()), solved);
  EXPECT_NE(run(quick({{"reconstruct", "none"}, {"solver", "none"}})), solved);
  EXPECT_NE(run(quick({{"reconstruct", "none"}, {"solver", "gptq:damping=0.5"}})), solved);
}

/// The loss that the second window of blocks 0-1, 1-2 begins with, computed here: the quantized
/// blocks 1-2 against the original ones, which are fed with either stream.
TEST(Solver, TargetsComeFromTheOriginalWeights) {
  const Segments segments = tiny_segments(4, 8);
  for (const char* rounding : {"signround", "lora_rounding"}) {
    const auto model = tiny_model(3), original = tiny_model(3);
    const Settings settings = quick({{"epochs", 0}, {"homologous", true}, {"rounding", rounding}});
    const RunResult result = quantize(*model, segments, settings, nullptr, {});
    ASSERT_EQ(result.windows.size(), 2u);
    const Tensor embedded = embed_segments(*original, segments);
    const Tensor quantized_input = run_blocks(*model, {0, 1}, embedded);
    const Tensor answer = run_blocks(*model, {1, 2}, quantized_input);
    const Tensor target = run_blocks(*original, {0, 3}, embedded);
    const Tensor second = run_blocks(*original, {1, 2}, quantized_input);
    const Shape rows = {4 * 8, 16};
    const LossValue loss =
        reconstruction_loss(answer.reshape(rows), {target.reshape(rows), second.reshape(rows)},
                            loss_config(settings, 16), false);
    EXPECT_NEAR(result.windows[1].loss_before, loss.mean.item(), 1e-5 * loss.mean.item());
  }
}

TEST(Solver, LayersInFloatingPointAreLeftAlone) {
  const auto model = tiny_model(2);
  RunHooks hooks;
  std::vector<std::string> solved;
  hooks.solved = [&](const SolveReport& report) {
    for (const SolvedLayer& l : report.layers) solved.push_back(l.path);
  };
  quantize(*model, tiny_segments(6, 8),
           quick({{"layer_bits", "k_proj=16,0.mlp=16,down_proj=4"}, {"reconstruct", "none"}}),
           nullptr, hooks);
  const std::string a = "model.layers.0.self_attn.", b = "model.layers.1.self_attn.",
                    c = "model.layers.1.mlp.";
  EXPECT_EQ(solved, (std::vector<std::string>{a + "q_proj", a + "v_proj", a + "o_proj",
                                              b + "q_proj", b + "v_proj", b + "o_proj",
                                              c + "gate_proj", c + "up_proj", c + "down_proj"}));
  for (const WindowLinear& l : linears_of(*model, {0, 2})) {
    const bool quantized = std::find(solved.begin(), solved.end(), l.path) != solved.end();
    EXPECT_EQ(l.quantizers() != nullptr, quantized) << l.path;
  }
}

/// q, k and v read one activation, but each through a clip ratio of its own.
TEST(Solver, AHessianIsOfWhatItsLayerReads) {
  const auto solutions = [](bool clipped) {
    const auto model = tiny_model(1);
    const Segments segments = tiny_segments(6, 8);
    const Settings settings = quick({{"abits", 4}});
    const Tensor inputs = embed_segments(*model, segments);
    std::map<std::string, double> clips;
    if (clipped) clips["model.layers.0.self_attn.k_proj"] = 0.5;
    attach_quantizers(*model, {0, 1}, settings, inputs, {clips});
    const auto reports = solve_blocks(*model, {0, 1}, *parse_solver("gptq"), inputs);
    EXPECT_EQ(reports.size(), 1u);
    return state_of(*model);
  };
  const State plain = solutions(false), clipped = solutions(true);
  const auto weight = [](const std::string& layer) {
    return "model.layers.0.self_attn." + layer + ".weight_quantizer.solved_weight";
  };
  EXPECT_EQ(plain.at(weight("q_proj")), clipped.at(weight("q_proj")));
  EXPECT_EQ(plain.at(weight("v_proj")), clipped.at(weight("v_proj")));
  EXPECT_NE(plain.at(weight("k_proj")), clipped.at(weight("k_proj")));
}

TEST(Solver, ABlockThatIsNotDoneHasNoSolutions) {
  const Settings settings = quick();
  for (int looks = 1;; ++looks) {
    const auto model = tiny_model(1);
    const Tensor inputs = embed_segments(*model, tiny_segments(6, 8));
    attach_quantizers(*model, {0, 1}, settings, inputs);
    std::vector<LinearTransform*> before;
    for (const WindowLinear& l : linears_of(*model, {0, 1})) {
      before.push_back(l.linear->transform.get());
    }
    int left = looks;
    SolveWatch watch;
    watch.poll = [&] {
      if (--left == 0) throw Interrupted("stop");
    };
    bool stopped = false;
    try {
      solve_blocks(*model, {0, 1}, *parse_solver("gptq"), inputs, watch);
    } catch (const Interrupted&) {
      stopped = true;
    }
    const auto linears = linears_of(*model, {0, 1});
    for (size_t i = 0; i < linears.size(); ++i) {
      EXPECT_EQ(linears[i].linear->transform.get(), before[i]) << looks;
      EXPECT_NE(linears[i].quantizers()->weight_quantizer->started_from_solution(), stopped)
          << looks;
    }
    if (stopped) continue;
    EXPECT_GE(looks, 11) << "four passes and seven layers";
    break;
  }
}

TEST(Solver, BrokenActivationsAreRefusedByName) {
  const auto model = tiny_model(2);
  // Squares overflow.
  model->blocks[0]->scaling_sites()[0].norm_weight->set_value(
      Tensor::from<float>(std::vector<float>(16, 1e25f), {16}));
  expect_error<std::invalid_argument>(
      [&] {
        quantize(*model, tiny_segments(4, 8), quick({{"reconstruct", "none"}}), nullptr, {});
      },
      {"model.layers.0.self_attn", "Hessian", "NaN or infinity"});
  for (const WindowLinear& l : linears_of(*model, {0, 1})) {
    if (l.quantizers() != nullptr) {
      EXPECT_FALSE(l.quantizers()->weight_quantizer->started_from_solution()) << l.path;
    }
  }
}

TEST(Solver, ANoteOfASolutionIsPartOfTheResult) {
  const auto model = tiny_model(2);
  const RunResult result =
      quantize(*model, tiny_segments(1, 3),
               quick({{"reconstruct", "none"}, {"solver", "gptq:damping=0"}}), nullptr, {});
  ASSERT_FALSE(result.notes.empty());
  EXPECT_NE(result.notes[0].find("model.layers.0.self_attn.q_proj: damping raised"),
            std::string::npos)
      << result.notes[0];
}

// ---- interruptions ------------------------------------------------------------------------------

/// Interrupted at the n-th look for a growing n, and resumed: always the same bytes, and no block
/// is solved twice that was solved in a finished window or block.
void expect_resumable(const nlohmann::json& changes) {
  SCOPED_TRACE(changes.dump());
  const Settings settings = quick(changes);
  const State expected = run(settings);
  int resumed = 0, looks = 1;
  for (bool stopped = true; stopped; looks += 17) {
    const TemporaryFolder folder;
    RunHooks hooks;
    hooks.resume_folder = folder / "state";
    int left = looks;
    hooks.interrupted = [&] { return --left <= 0; };
    stopped = false;
    try {
      run(settings, hooks);
    } catch (const Interrupted&) {
      stopped = true;
    }
    int64_t finished = 0;
    std::vector<int64_t> again;
    hooks.interrupted = nullptr;
    hooks.say = [&](const std::string& line) { resumed += line.starts_with("resumed"); };
    hooks.solved = [&](const SolveReport& report) { again.push_back(report.block); };
    if (std::filesystem::exists(folder / "state/state.safetensors")) {
      const SafetensorsFile file = SafetensorsFile::open(folder / "state/state.safetensors");
      for (const std::string& name : file.names()) {
        // Live blocks hold their solutions.
        if (name.ends_with("solved_weight")) {
          finished =
              std::max<int64_t>(finished, name[std::string("model.layers.").size()] - '0' + 1);
        }
      }
      while (std::filesystem::exists(folder / concat("state/block-", finished, ".safetensors")))
        ++finished;
    }
    EXPECT_EQ(run(settings, hooks), expected) << looks;
    for (const int64_t block : again) EXPECT_GE(block, finished) << looks;
  }
  EXPECT_GT(resumed, 2);
}

TEST(Solver, AnInterruptedRunEndsInTheSameBytes) {
  expect_resumable({{"reconstruct", "none"}});
  expect_resumable({{"epochs", 1}});
  expect_resumable({{"rounding", "adaround"}, {"hard_phase", 0.5}, {"homologous", true}});
  expect_resumable({{"schedule", "0,0-2,1-2,2-3"},
                    {"rounding", "lora_rounding"},
                    {"abits", 8},
                    {"act_granularity", "per_tensor"},
                    {"act_dynamic", false}});
  expect_resumable({{"solver", "gptaq"}, {"reconstruct", "none"}});
  expect_resumable({{"solver", "gptaq"}, {"schedule", "0,0-2,1-2,2-3"}});
}

TEST(Solver, AStateOfAnotherSolverIsRefused) {
  const TemporaryFolder folder;
  RunHooks hooks;
  hooks.resume_folder = folder / "state";
  const State expected = run(quick({{"reconstruct", "none"}}), hooks);
  for (const char* other : {"gptq:damping=0.05", "gptq:act_order", "gptq:block=64"}) {
    expect_error<std::runtime_error>(
        [&] {
          run(quick({{"reconstruct", "none"}, {"solver", other}}), hooks);
        },
        {"state.safetensors", "it differs in solver", other + 5});
  }
  // The defaults, written out, are the same solver.
  EXPECT_EQ(run(quick({{"reconstruct", "none"}, {"solver", "gptq:damping=1e-2"}}), hooks),
            expected);
}

TEST(Solver, CellsOfSolversDoNotMix) {
  const auto key = [](const nlohmann::json& changes) {
    return make_cell(quick(changes), 4, {}, {"model", "calibration", "texts"}).key;
  };
  for (const char* reconstruct : {"cbq", "none"}) {
    const auto of = [&](const std::string& solver) {
      return key({{"reconstruct", reconstruct}, {"solver", solver}});
    };
    EXPECT_EQ(of("gptq"), of("gptq:block=128,damping=0.010"));
    EXPECT_EQ(of("gptq:act_order"), of("gptq:desc_act"));
    const std::set<std::string> keys = {of("none"), of("gptq"), of("gptq:damping=0.02"),
                                        of("gptq:act_order"), of("gptq:block=64")};
    EXPECT_EQ(keys.size(), 5u) << reconstruct;
  }
  // Where no weight is quantized, there is nothing to solve.
  EXPECT_EQ(key({{"wbits", 16}, {"abits", 4}}),
            key({{"wbits", 16}, {"abits", 4}, {"solver", "none"}}));
}

TEST(Solver, SettingsAreRefusedWithTheKnownWords) {
  const auto refused = [](const std::string& solver, std::initializer_list<const char*> parts) {
    expect_error<std::invalid_argument>([&] { validate(quick({{"solver", solver}}), 4); }, parts);
  };
  refused("gtpq", {"solver", "gtpq", "none, gptaq, gptq"});
  refused("none:x", {"solver", "none", "takes no arguments"});
  refused("gptq:order", {"solver", "order", "act_order", "damping"});
  refused("gptq:damping=2000", {"damping=2000", "0 to 1000"});
  refused("gptq:block=0", {"block=0"});
  refused("gptq:block=1.5", {"block=1.5", "whole"});
}

}  // namespace
}  // namespace cbq::test_solve_block
