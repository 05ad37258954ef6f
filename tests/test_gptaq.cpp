// GPTAQ on one layer: codes and errors against an implementation that shares nothing with it
// (tools/fixtures/make_gptaq_fixture.py), and what its result promises. Whole models:
// test_solve_block.cpp.
#include <cmath>

#include "kernels/ops.h"
#include "nn/formats/safetensors.h"
#include "quant/rounding.h"
#include "quant/solvers/solver.h"
#include "tests/test_data.h"

namespace cbq::test_gptaq {
namespace {

struct Case {
  const char* name;
  int bits;
  int64_t group;
  bool symmetric, act_order;
  double alpha;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

/// The cases of make_gptaq_fixture.py.
constexpr Case cases[] = {{"w2_channel", 2, 0, false, false, 1.0},
                          {"w3_channel", 3, 0, false, false, 1.0},
                          {"w3_quarter", 3, 0, false, false, 0.25},
                          {"w4_symmetric", 4, 0, true, false, 1.0},
                          {"w3_group32", 3, 32, false, false, 1.0},
                          {"w2_group12", 2, 12, false, false, 0.25},
                          {"w3_channel_act_order", 3, 0, false, true, 1.0},
                          {"w3_group32_act_order", 3, 32, false, true, 0.25}};

SafetensorsFile fixture_file() {
  return SafetensorsFile::open(CBQ_SOURCE_DIR "/tests/fixtures/gptaq.safetensors");
}

Tensor wide(const char* name) { return kernels::cast(fixture_file().load(name), Dtype::f64); }

LayerProblem problem_of(const Case& c) {
  const Tensor x = wide("x"), original = wide("x_original");
  InputGram gram(x.size(1));
  InputDifference difference(x.size(1));
  // In two batches.
  const int64_t half = x.size(0) / 3, end = x.size(0);
  for (const auto& [from, to] : {std::pair{int64_t{0}, half}, std::pair{half, end}}) {
    gram.add(x.slice(from, to));
    difference.add(original.slice(from, to), x.slice(from, to));
  }
  LayerProblem problem{c.name, fixture_file().load("weight"), gram.value(), {}, difference.value()};
  problem.config.bits = c.bits;
  problem.config.symmetric = c.symmetric;
  problem.config.search = ScaleSearch::min_max;
  if (c.group > 0) {
    problem.config.granularity = Granularity::per_group;
    problem.config.group_size = c.group;
  }
  return problem;
}

LayerSolution solve(const std::string& solver, const LayerProblem& problem) {
  return parse_solver(solver)->solve(problem);
}

std::vector<uint8_t> codes_of(const LayerSolution& solution) {
  RoundingPass pass;
  pass.w = solution.weight;
  pass.scale = solution.grid.scale;
  pass.zero_point = solution.grid.zero_point;
  pass.bits = solution.grid.bits;
  pass.group = solution.grid.group;
  pass.start = Start::nearest;
  return rounding_schemes().make("nearest")->codes(pass).to_vector<uint8_t>();
}

/// ||X~ W^T - X W^^T||^2, token by token.
double naive_error(const LayerSolution& solution) {
  const auto x = wide("x").to_vector<double>(), original = wide("x_original").to_vector<double>();
  const auto w = wide("weight").to_vector<double>();
  const auto q = nearest(solution.weight, solution.grid).to_vector<double>();
  const auto in = static_cast<size_t>(solution.weight.size(1));
  double error = 0.0;
  for (size_t t = 0; t < x.size(); t += in) {
    for (size_t r = 0; r < w.size(); r += in) {
      double y = 0.0;
      for (size_t i = 0; i < in; ++i) y += original[t + i] * w[r + i] - x[t + i] * q[r + i];
      error += y * y;
    }
  }
  return error;
}

class Gptaq : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Solvers, Gptaq, testing::ValuesIn(cases),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(Gptaq, HasTheCodesOfAnIndependentImplementation) {
  const Case& c = GetParam();
  const std::string solver = concat("gptaq:alpha=", c.alpha, c.act_order ? ",act_order" : "");
  const LayerSolution solution = solve(solver, problem_of(c));
  const auto codes = codes_of(solution);
  const auto expected = fixture_file().load(std::string(c.name) + ".codes").to_vector<uint8_t>();
  ASSERT_EQ(codes.size(), expected.size());
  size_t equal = 0;
  for (size_t i = 0; i < codes.size(); ++i) equal += codes[i] == expected[i] ? 1 : 0;
  EXPECT_GE(static_cast<double>(equal), 0.999 * static_cast<double>(codes.size()));
  EXPECT_TRUE(solution.notes.empty());
}

TEST(GptaqSolver, ErrorsAreThoseAgainstTheOriginalOutputs) {
  const LayerProblem problem = problem_of(cases[0]);
  const LayerSolution solution = solve("gptaq", problem);
  EXPECT_NEAR(solution.error, naive_error(solution), 1e-8 * solution.error);
  LayerSolution rounded;
  rounded.weight = problem.weight;
  rounded.grid = weight_grid(problem.weight, problem.config, problem.layer);
  EXPECT_NEAR(solution.nearest_error, naive_error(rounded), 1e-8 * solution.nearest_error);
}

TEST(GptaqSolver, ComesCloserToTheOriginalOutputsThanGptq) {
  for (const Case& c : {cases[0], cases[1]}) {
    LayerProblem problem = problem_of(c);
    const double whole = naive_error(solve("gptaq:alpha=1", problem));
    const double quarter = naive_error(solve("gptaq", problem));
    problem.original.reset();
    const double gptq = naive_error(solve("gptq", problem));
    EXPECT_LT(quarter, gptq) << c.name;
    EXPECT_LT(whole, quarter) << c.name;
  }
}

TEST(GptaqSolver, WithTheSameInputsItIsGptq) {
  LayerProblem problem = problem_of(cases[4]);
  const int64_t in = problem.weight.size(1);
  problem.original = {Tensor::zeros({in, in}, Dtype::f64), Tensor::zeros({in, in}, Dtype::f64)};
  const LayerSolution here = solve("gptaq", problem), there = solve("gptq", problem);
  EXPECT_EQ(here.weight.to_vector<float>(), there.weight.to_vector<float>());
  EXPECT_EQ(here.grid.scale.to_vector<float>(), there.grid.scale.to_vector<float>());
  EXPECT_EQ(here.error, there.error);
}

TEST(GptaqSolver, BlocksDecideLastBitsOnly) {
  const LayerProblem problem = problem_of(cases[1]);
  const LayerSolution whole = solve("gptaq:alpha=1", problem);
  for (const char* text : {"gptaq:alpha=1,block=1", "gptaq:alpha=1,block=7"}) {
    const LayerSolution solution = solve(text, problem);
    EXPECT_EQ(codes_of(solution), codes_of(whole)) << text;
    EXPECT_NEAR(solution.error, whole.error, 1e-6 * whole.error) << text;
  }
}

TEST(GptaqSolver, EveryDtypeKeepsThePromise) {
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::bf16}) {
    LayerProblem problem = problem_of(cases[1]);
    problem.weight = kernels::cast(problem.weight, dtype);
    const LayerSolution solution = solve("gptaq", problem);
    EXPECT_EQ(solution.weight.dtype(), dtype);
    EXPECT_EQ(solution.error, layer_error(problem, nearest(solution.weight, solution.grid)));
    EXPECT_LT(solution.error, solution.nearest_error);
  }
}

TEST(GptaqSolver, BadInputIsRefusedByName) {
  const auto refused = [](const LayerProblem& problem, std::initializer_list<const char*> parts) {
    expect_error<std::invalid_argument>([&] { solve("gptaq", problem); }, parts);
  };
  LayerProblem problem = problem_of(cases[0]);
  problem.original.reset();
  refused(problem, {"w2_channel", "inputs of the original model"});
  problem = problem_of(cases[0]);
  problem.original->cross = Tensor::zeros({3, 3}, Dtype::f64);
  refused(problem, {"w2_channel", "(X~ - X)^T X", "[96, 96]"});
  problem = problem_of(cases[0]);
  problem.original->gram.data<double>()[4] = std::nan("");
  refused(problem, {"w2_channel", "original model", "NaN"});
  for (const char* text : {"gptaq:alpha=2", "gptaq:alpha=-1", "gptaq:alpha=x",
                           "gptaq:alpha=", "gptaq:order", "gptaq:damping=-1", "gptaq:block=2.5"}) {
    EXPECT_THROW(parse_solver(text), std::invalid_argument) << text;
  }
}

TEST(GptaqSolver, ArgumentsWrittenOutAreTheSameSolver) {
  EXPECT_EQ(canonical_solver("gptaq"), "gptaq:alpha=0.25,damping=0.01,block=128");
  EXPECT_EQ(canonical_solver("gptaq:desc_act,alpha=1"),
            "gptaq:alpha=1.0,damping=0.01,block=128,act_order");
}

TEST(InputDifference, RefusesInputsThatDoNotBelongTogether) {
  InputDifference difference(4);
  const auto zeros = [](int64_t rows, int64_t in, Dtype dtype) {
    return Tensor::zeros({rows, in}, dtype);
  };
  difference.add(zeros(3, 4, Dtype::f32), zeros(3, 4, Dtype::f32));
  EXPECT_THROW(difference.add(zeros(2, 4, Dtype::f32), zeros(3, 4, Dtype::f32)),
               std::invalid_argument);
  EXPECT_THROW(difference.add(zeros(3, 5, Dtype::f32), zeros(3, 5, Dtype::f32)),
               std::invalid_argument);
  EXPECT_THROW(difference.add(zeros(3, 4, Dtype::f64), zeros(3, 4, Dtype::f32)),
               std::invalid_argument);
}

}  // namespace
}  // namespace cbq::test_gptaq
