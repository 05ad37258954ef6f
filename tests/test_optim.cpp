// Optimizers against an independent loop, schedules, and resuming.
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/optim.h"
#include "tests/op_case.h"
#include "tests/reference/random_optim.h"

namespace cbq::test::test_optim {
namespace {

Tensor random(const Shape& shape, uint64_t seed) { return make_input({}, shape, Dtype::f32, seed); }

/// The gradient of step t for variable i: the same for every optimizer of a test.
Tensor gradient_of(const Var& variable, uint64_t i, int64_t t) {
  return random(variable.shape(), 1000 * (i + 1) + static_cast<uint64_t>(t));
}
void give_gradients(const std::vector<Var>& variables, int64_t t) {
  for (size_t i = 0; i < variables.size(); ++i) {
    variables[i].accumulate(gradient_of(variables[i], i, t));
  }
}
std::vector<Var> make_variables() {
  return {Var(random({5, 7}, 1), true), Var(random({11}, 2), true)};
}

void expect_near(const Tensor& got, const Array& want, double tolerance) {
  const std::vector<double> values = got.to_vector<double>();
  ASSERT_EQ(values.size(), want.values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_NEAR(values[i], want.values[i], tolerance * (1.0 + std::abs(want.values[i]))) << i;
  }
}

TEST(Adam, FollowsAnIndependentLoop) {
  for (double decay : {0.0, 0.05}) {
    const std::vector<Var> variables = make_variables();
    // A group of its own for the second variable, with another rate.
    Adam adam({{{variables[0]}, {.rate = 0.01, .decay = decay}},
               {{variables[1]}, {.rate = 0.1, .beta1 = 0.8, .decay = decay}}});
    const reference::Adam settings[] = {{0.01, 0.9, 0.999, 1e-8, decay},
                                        {0.1, 0.8, 0.999, 1e-8, decay}};
    std::vector<Arrays> state;  // p, m, v
    for (const Var& variable : variables) {
      const Array zero(variable.shape());
      state.push_back({to_array(variable.value()), zero, zero});
    }
    for (int64_t t = 1; t <= 50; ++t) {
      const double factor = t > 25 ? 0.5 : 1.0;
      give_gradients(variables, t);
      adam.step(factor);
      for (size_t i = 0; i < 2; ++i) {
        reference::Adam now = settings[i];
        now.rate *= factor;
        const Array g = to_array(gradient_of(variables[i], i, t));
        state[i] = reference::adam_step(state[i][0], g, state[i][1], state[i][2], now, t);
      }
    }
    EXPECT_EQ(adam.steps(), 50);
    for (size_t i = 0; i < 2; ++i) expect_near(variables[i].value(), state[i][0], 2e-6);
  }
}

TEST(Adam, TheFirstStepIsTheRate) {
  // m / sqrt(v) = sign(g) at t = 1, whatever the size of g.
  for (float g : {1e-3f, 1.0f, 1e3f}) {
    const Var x(Tensor::zeros({1}, Dtype::f32), true);
    Adam adam({{{x}, {.rate = 0.25}}});
    x.accumulate(Tensor::from(std::vector<float>{g}, {1}));
    adam.step(1.0);
    EXPECT_NEAR(x.value().item(), -0.25, 1e-5) << g;
  }
}

TEST(Adam, LeavesVariablesWithoutGradientAlone) {
  const std::vector<Var> variables = make_variables();
  const std::vector<float> before = variables[1].value().to_vector<float>();
  Adam adam({{variables, {.rate = 0.1, .decay = 0.5}}});
  variables[0].accumulate(gradient_of(variables[0], 0, 1));
  adam.step(1.0);
  EXPECT_EQ(variables[1].value().to_vector<float>(), before);
  EXPECT_FALSE(variables[0].grad().defined()) << "gradients are cleared";
}

TEST(Adam, ResumesToTheByte) {
  const auto run = [](int64_t from, int64_t to, const std::vector<Var>& variables, Adam& adam) {
    for (int64_t t = from; t <= to; ++t) {
      give_gradients(variables, t);
      adam.step(cosine_annealing(t - 1, 20));
    }
  };
  const std::vector<Var> whole = make_variables(), first = make_variables();
  Adam uninterrupted({{whole, {.rate = 0.1}}}), before({{first, {.rate = 0.1}}});
  run(1, 20, whole, uninterrupted);
  run(1, 8, first, before);
  // What a resumed process has: the variables, the state by name, the number of steps.
  std::vector<Var> second;
  for (const Var& variable : first) second.emplace_back(variable.value().clone(), true);
  Adam after({{second, {.rate = 0.1}}});
  const auto saved = before.state();
  ASSERT_EQ(saved.size(), 4u) << "two moments of two variables";
  for (const auto& [name, tensor] : after.state()) {
    for (const auto& [saved_name, value] : saved) {
      if (name == saved_name) tensor.copy_from(value);
    }
  }
  after.set_steps(before.steps());
  run(9, 20, second, after);
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_EQ(whole[i].value().to_vector<float>(), second[i].value().to_vector<float>());
  }
}

// More variables than one table holds, more settings than it has places for, pieces of all sizes.
TEST(Adam, OneLaunchForAllIsTheStepOfEachToTheBit) {
  const std::vector<Shape> shapes = {{1}, {0}, {4096}, {4097}, {3, 5000}, {130, 128}};
  std::vector<Tensor> p, g, m, v, p2, m2, v2;
  std::vector<kernels::AdamSettings> settings;
  std::vector<double> numbers;
  const int64_t t = 5, count = 150;
  for (int64_t i = 0; i < count; ++i) {
    const Shape& shape = shapes[static_cast<size_t>(i) % shapes.size()];
    const auto seed = static_cast<uint64_t>(10 * i);
    p.push_back(random(shape, seed));
    g.push_back(random(shape, seed + 1));
    m.push_back(random(shape, seed + 2));
    v.push_back(make_input(positive, shape, Dtype::f32, seed + 3));
    p2.push_back(p.back().clone());
    m2.push_back(m.back().clone());
    v2.push_back(v.back().clone());
    settings.push_back({.rate = 0.01 * static_cast<double>(1 + i % 3),
                        .beta1 = 0.9 - 0.01 * static_cast<double>(i % 11),
                        .decay = i % 2 ? 0.1 : 0.0});
    for (const double x : settings.back().at_step(1.0, t)) numbers.push_back(x);
  }
  const Tensor now({3 * count}, Dtype::f64);
  kernels::write_values(now, numbers);
  std::vector<kernels::AdamVariable> all;
  for (size_t i = 0; i < p.size(); ++i) {
    all.push_back({p[i], g[i], m[i], v[i], settings[i], 3 * static_cast<int64_t>(i)});
    kernels::adam_steps({{p2[i], g[i], m2[i], v2[i], settings[i], 3 * static_cast<int64_t>(i)}},
                        now);
  }
  kernels::adam_steps(all, now);
  for (size_t i = 0; i < p.size(); ++i) {
    EXPECT_EQ(p[i].to_vector<float>(), p2[i].to_vector<float>()) << i;
    EXPECT_EQ(m[i].to_vector<float>(), m2[i].to_vector<float>()) << i;
    EXPECT_EQ(v[i].to_vector<float>(), v2[i].to_vector<float>()) << i;
  }
}

TEST(SignSgd, MovesByTheRate) {
  const Var x(Tensor::from(std::vector<float>{1.0f, 1.0f, 1.0f}, {3}), true);
  const auto optimizer = make_optimizer("signsgd", {{{x}, {.rate = 0.25}}});
  x.accumulate(Tensor::from(std::vector<float>{3.0f, -1e-9f, 0.0f}, {3}));
  optimizer->step(0.5);
  EXPECT_EQ(x.value().to_vector<float>(), (std::vector<float>{0.875f, 1.125f, 1.0f}));
  EXPECT_FALSE(x.grad().defined());
  EXPECT_EQ(optimizer->steps(), 1);
}

TEST(Optimizer, UnknownNamesAreAnsweredWithTheKnown) {
  try {
    make_optimizer("adamw2", {});
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("adam, signsgd"), std::string::npos) << error.what();
  }
}

TEST(Optimizer, WantsF32) {
  for (const char* name : {"adam", "signsgd"}) {
    const Var x(Tensor::zeros({2}, Dtype::bf16), true);
    EXPECT_THROW(make_optimizer(name, {{{x}, {}}}), std::invalid_argument) << name;
  }
}

TEST(CosineAnnealing, Shape) {
  EXPECT_DOUBLE_EQ(cosine_annealing(0, 100), 1.0);
  EXPECT_DOUBLE_EQ(cosine_annealing(50, 100), 0.5);
  EXPECT_NEAR(cosine_annealing(25, 100), 0.5 + std::sqrt(0.125), 1e-12);
  EXPECT_DOUBLE_EQ(cosine_annealing(100, 100), 0.0);
  EXPECT_DOUBLE_EQ(cosine_annealing(1000, 100, 0.1), 0.1) << "stays at the floor";
  EXPECT_DOUBLE_EQ(cosine_annealing(50, 100, 0.2), 0.6);
  for (int64_t step = 1; step <= 100; ++step) {
    EXPECT_LT(cosine_annealing(step, 100), cosine_annealing(step - 1, 100));
  }
}

TEST(CosineAnnealing, WarmsUpLinearly) {
  EXPECT_DOUBLE_EQ(cosine_annealing(0, 100, 0.0, 10), 0.1);
  EXPECT_DOUBLE_EQ(cosine_annealing(4, 100, 0.0, 10), 0.5);
  EXPECT_DOUBLE_EQ(cosine_annealing(9, 100, 0.0, 10), 1.0);
  EXPECT_DOUBLE_EQ(cosine_annealing(10, 100, 0.0, 10), 1.0);
  EXPECT_DOUBLE_EQ(cosine_annealing(55, 100, 0.0, 10), 0.5);
}

}  // namespace
}  // namespace cbq::test::test_optim
