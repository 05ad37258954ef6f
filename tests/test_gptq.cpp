// Solvers: factors of matrices against their definition, GPTQ against an implementation that shares
// nothing with it (tools/fixtures/make_gptq_fixture.py), and what its result promises.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/ops.h"
#include "nn/formats/safetensors.h"
#include "quant/rounding.h"
#include "quant/solvers/cholesky.h"
#include "quant/solvers/solver.h"

namespace cbq::test_gptq {
namespace {

using kernels::Trans;

Tensor random_tensor(Shape shape, Dtype dtype, uint64_t stream) {
  Tensor t(std::move(shape), dtype);
  kernels::fill_normal(t, 0.0, 1.0, 3, stream);
  return t;
}

/// X^T X + I, f64.
Tensor random_definite(int64_t n) {
  const Tensor x = random_tensor({2 * n, n}, Dtype::f64, static_cast<uint64_t>(n));
  const Tensor a = kernels::matmul(x, Trans::yes, x, Trans::no);
  for (int64_t i = 0; i < n; ++i) a.data<double>()[i * n + i] += 1.0;
  return a;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  double largest = 0.0;
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  for (size_t i = 0; i < x.size(); ++i) {
    const double d = std::abs(x[i] - y[i]);
    if (!(d <= largest)) largest = std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
  }
  return largest;
}

Tensor identity(int64_t n) {
  const Tensor t = Tensor::zeros({n, n}, Dtype::f64);
  for (int64_t i = 0; i < n; ++i) t.data<double>()[i * n + i] = 1.0;
  return t;
}

double below_diagonal(const Tensor& u) {
  double sum = 0.0;
  const int64_t n = u.size(0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) sum += std::abs(u.data<double>()[i * n + j]);
  }
  return sum;
}

TEST(Cholesky, FactorsOfEverySizeMultiplyToTheMatrix) {
  for (const int64_t n : {1, 2, 63, 64, 65, 130, 200}) {
    const Tensor a = random_definite(n);
    const std::optional<Tensor> l = cholesky(a);
    ASSERT_TRUE(l.has_value()) << n;
    const double size = std::sqrt(kernels::sum(kernels::mul(a, a)).item());
    EXPECT_LE(largest_difference(kernels::matmul(*l, Trans::no, *l, Trans::yes), a), 1e-13 * size);
    EXPECT_LE(largest_difference(kernels::matmul(inverse_of_lower(*l), Trans::no, *l, Trans::no),
                                 identity(n)),
              1e-11);
    const std::optional<Tensor> u = upper_factor_of_inverse(a);
    ASSERT_TRUE(u.has_value()) << n;
    EXPECT_EQ(below_diagonal(*u), 0.0);
    const Tensor inverse = kernels::matmul(*u, Trans::yes, *u, Trans::no);
    EXPECT_LE(largest_difference(kernels::matmul(inverse, Trans::no, a, Trans::no), identity(n)),
              1e-10);
  }
}

TEST(Cholesky, RefusesWhatIsNotPositiveDefinite) {
  for (const int64_t n : {3, 100}) {
    Tensor a = random_definite(n);
    a.data<double>()[(n - 1) * n + n - 1] = -1.0;
    EXPECT_FALSE(cholesky(a).has_value());
    EXPECT_FALSE(upper_factor_of_inverse(a).has_value());
    a.data<double>()[(n - 1) * n + n - 1] = std::nan("");
    EXPECT_FALSE(cholesky(a).has_value());
  }
  EXPECT_THROW(cholesky(Tensor::zeros({2, 3}, Dtype::f64)), std::invalid_argument);
}

struct Case {
  const char* name;
  int bits;
  int64_t group;
  bool symmetric, act_order;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

/// The cases of make_gptq_fixture.py.
constexpr Case cases[] = {
    {"w2_channel", 2, 0, false, false},          {"w3_channel", 3, 0, false, false},
    {"w4_channel", 4, 0, false, false},          {"w4_symmetric", 4, 0, true, false},
    {"w3_group32", 3, 32, false, false},         {"w2_group20", 2, 20, false, false},
    {"w3_channel_act_order", 3, 0, false, true}, {"w3_group32_act_order", 3, 32, false, true}};

SafetensorsFile fixture_file() {
  return SafetensorsFile::open(CBQ_SOURCE_DIR "/tests/fixtures/gptq.safetensors");
}

LayerProblem problem_of(const Case& c) {
  const SafetensorsFile file = fixture_file();
  LayerProblem problem{c.name, file.load("weight"), file.load("hessian"), {}};
  problem.config.bits = c.bits;
  problem.config.symmetric = c.symmetric;
  problem.config.search = ScaleSearch::min_max;
  if (c.group > 0) {
    problem.config.granularity = Granularity::per_group;
    problem.config.group_size = c.group;
  }
  return problem;
}

/// Codes of rounding the solution's weight to nearest.
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

class Gptq : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Solvers, Gptq, testing::ValuesIn(cases),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(Gptq, HasTheCodesOfAnIndependentImplementation) {
  const Case& c = GetParam();
  const auto solver = parse_solver(c.act_order ? "gptq:act_order" : "gptq");
  const LayerSolution solution = solver->solve(problem_of(c));
  const auto codes = codes_of(solution);
  const auto expected = fixture_file().load(std::string(c.name) + ".codes").to_vector<uint8_t>();
  ASSERT_EQ(codes.size(), expected.size());
  size_t equal = 0;
  for (size_t i = 0; i < codes.size(); ++i) equal += codes[i] == expected[i] ? 1 : 0;
  EXPECT_GE(static_cast<double>(equal), 0.999 * static_cast<double>(codes.size()));
  EXPECT_LT(solution.error, 0.8 * solution.nearest_error);
  EXPECT_TRUE(solution.notes.empty());
}

TEST(GptqSolver, EveryDtypeKeepsThePromise) {
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::bf16}) {
    LayerProblem problem = problem_of(cases[1]);
    problem.weight = kernels::cast(problem.weight, dtype);
    const LayerSolution solution = parse_solver("gptq")->solve(problem);
    EXPECT_EQ(solution.weight.dtype(), dtype);
    // The error that is reported is that of rounding the returned weight to nearest.
    const double error =
        output_error(problem.weight, nearest(solution.weight, solution.grid), problem.hessian);
    EXPECT_NEAR(error, solution.error, 1e-9 * error);
    EXPECT_LT(error, solution.nearest_error);
  }
}

TEST(GptqSolver, WithAHessianWithoutCorrelationsItRoundsToNearest) {
  LayerProblem problem = problem_of(cases[1]);
  const int64_t in = problem.weight.size(1);
  problem.hessian = identity(in);
  const LayerSolution solution = parse_solver("gptq")->solve(problem);
  EXPECT_EQ(largest_difference(solution.weight, problem.weight), 0.0);
  EXPECT_EQ(solution.error, solution.nearest_error);
}

TEST(GptqSolver, ChannelsWithoutInputAreRoundedToNearest) {
  LayerProblem problem = problem_of(cases[1]);
  const int64_t in = problem.weight.size(1), dead = 5;
  problem.hessian = problem.hessian.clone();
  for (int64_t i = 0; i < in; ++i) {
    problem.hessian.data<double>()[dead * in + i] = problem.hessian.data<double>()[i * in + dead] =
        0;
  }
  const LayerSolution solution = parse_solver("gptq")->solve(problem);
  for (int64_t r = 0; r < problem.weight.size(0); ++r) {
    EXPECT_EQ(solution.weight.data<float>()[r * in + dead],
              problem.weight.data<float>()[r * in + dead]);
  }
}

TEST(GptqSolver, RaisesTheDampingWhereTokensAreTooFewAndSaysSo) {
  LayerProblem problem = problem_of(cases[1]);
  const int64_t in = problem.weight.size(1);
  InputGram gram(in);
  gram.add(random_tensor({7, in}, Dtype::f64, 1));  // rank 7
  problem.hessian = gram.value();
  const LayerSolution damped = parse_solver("gptq")->solve(problem);
  EXPECT_TRUE(damped.notes.empty());
  const LayerSolution raised = parse_solver("gptq:damping=0")->solve(problem);
  ASSERT_EQ(raised.notes.size(), 1u);
  EXPECT_NE(raised.notes[0].find("damping raised from 0 to "), std::string::npos);
  EXPECT_LT(raised.error, raised.nearest_error);
}

TEST(GptqSolver, BadInputIsRefusedByName) {
  LayerProblem problem = problem_of(cases[0]);
  problem.hessian = Tensor::zeros({3, 3}, Dtype::f64);
  EXPECT_THROW(parse_solver("gptq")->solve(problem), std::invalid_argument);
  problem = problem_of(cases[0]);
  problem.hessian = problem.hessian.clone();
  problem.hessian.data<double>()[4] = std::nan("");
  EXPECT_THROW(parse_solver("gptq")->solve(problem), std::invalid_argument);
  EXPECT_THROW(parse_solver("gtpq"), std::invalid_argument);
  EXPECT_THROW(parse_solver("gptq:order"), std::invalid_argument);
  EXPECT_THROW(parse_solver("gptq:damping=-1"), std::invalid_argument);
  EXPECT_THROW(parse_solver("gptq:damping=x"), std::invalid_argument);
  EXPECT_THROW(parse_solver("gptq:block=0"), std::invalid_argument);
  EXPECT_THROW(parse_solver("gptq:block=2.5"), std::invalid_argument);
}

TEST(GptqSolver, BlocksDecideLastBitsOnly) {
  const LayerProblem problem = problem_of(cases[1]);
  const LayerSolution whole = parse_solver("gptq")->solve(problem);
  for (const char* text : {"gptq:block=1", "gptq:block=7", "gptq:block=1000"}) {
    const LayerSolution solution = parse_solver(text)->solve(problem);
    EXPECT_LE(largest_difference(solution.weight, whole.weight), 1e-5) << text;
    EXPECT_EQ(codes_of(solution), codes_of(whole)) << text;
  }
}

TEST(GptqSolver, ArgumentsWrittenOutAreTheSameSolver) {
  EXPECT_EQ(canonical_solver("gptq"), "gptq:damping=0.01,block=128");
  EXPECT_EQ(canonical_solver("gptq:desc_act,block=64,damping=1e-5"),
            "gptq:damping=1e-05,block=64,act_order");
  EXPECT_EQ(canonical_solver("unknown:x"), "unknown:x");
  for (const std::string& name : solvers().names()) {
    const std::string whole = canonical_solver(name);
    EXPECT_EQ(canonical_solver(whole), whole);
  }
}

TEST(InputGram, IsTheSumOfOuterProducts) {
  const int64_t in = 5;
  InputGram gram(in);
  std::vector<double> expected(static_cast<size_t>(in * in), 0.0);
  for (const int64_t tokens : {1, 4, 33}) {
    const Tensor x = random_tensor({tokens, in}, Dtype::f32, static_cast<uint64_t>(tokens));
    gram.add(x);
    const auto v = x.to_vector<double>();
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < in * in; ++i) {
        expected[static_cast<size_t>(i)] +=
            v[static_cast<size_t>(t * in + i / in)] * v[static_cast<size_t>(t * in + i % in)];
      }
    }
  }
  EXPECT_EQ(gram.tokens(), 38);
  EXPECT_LE(largest_difference(gram.value(), Tensor::from(expected, {in, in})), 1e-5);
  EXPECT_THROW(gram.add(Tensor::zeros({2, in + 1}, Dtype::f32)), std::invalid_argument);
}

}  // namespace
}  // namespace cbq::test_gptq
