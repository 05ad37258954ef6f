// Cases of kernels/optim: random tensors and optimizer steps.
#include "kernels/ops.h"
#include "tests/op_case.h"
#include "tests/reference/random_optim.h"

namespace cbq::test {
namespace {

constexpr uint64_t seed = 0x123456789abcdef0ull, stream = 0xfedcba9876543210ull;
const std::vector<Shapes> one = alike(1, {{3, 37}, {1}, {0}, {5, 4099}});

OpCase fill_normal_case() {
  return {.name = "kernels::fill_normal",
          .sizes = one,
          .dtypes = {Dtype::f32, Dtype::bf16, Dtype::f16},  // f64 is as precise as f32
          .run =
              [](const Tensors& in) {
                kernels::fill_normal(in[0], 0.25, 2.0, seed, stream);
                return in;
              },
          .expected =
              [](const Arrays& in) {
                return Arrays{reference::normals(in[0], 0.25, 2.0, seed, stream)};
              },
          .wrong_calls = {[] { kernels::fill_normal(Tensor({3}, Dtype::i32), 0.0, 1.0, 1, 2); }},
          .bench = {{{1024, 4096}}}};
}

OpCase fill_uniform_case() {
  return {.name = "kernels::fill_uniform",
          .sizes = one,
          .dtypes = {Dtype::f32, Dtype::bf16, Dtype::f16},
          .run =
              [](const Tensors& in) {
                kernels::fill_uniform(in[0], -1.0, 3.0, seed, stream);
                return in;
              },
          .expected =
              [](const Arrays& in) {
                return Arrays{reference::uniforms(in[0], -1.0, 3.0, seed, stream)};
              },
          .wrong_calls = {[] { kernels::fill_uniform(Tensor({3}, Dtype::i32), 0.0, 1.0, 1, 2); }},
          .bench = {{{1024, 4096}}}};
}

// Two variables of unlike settings; the step's numbers lie behind one that belongs to nobody.
OpCase adam_steps_case() {
  static const kernels::AdamSettings first{.rate = 0.1, .decay = 0.1}, second{.beta1 = 0.8};
  const auto two = [](const Shape& a, const Shape& b) { return Shapes{a, a, a, a, b, b, b, b}; };
  return {
      .name = "kernels::adam_steps",
      .sizes = {two({3, 37}, {2}), two({1}, {1}), two({0}, {5}), two({5, 4099}, {70, 64})},
      .inputs = {{}, {}, {}, positive, {}, {}, {}, positive},
      .dtypes = {Dtype::f32},
      .run =
          [](const Tensors& in) {
            std::vector<double> numbers = {7.0};
            for (const double x : first.at_step(1.0, 3)) numbers.push_back(x);
            for (const double x : second.at_step(0.5, 4)) numbers.push_back(x);
            const Tensor now({7}, Dtype::f64, in[0].device());
            kernels::write_values(now, numbers);
            kernels::adam_steps(
                {{in[0], in[1], in[2], in[3], first, 1}, {in[4], in[5], in[6], in[7], second, 4}},
                now);
            return Tensors{in[0], in[2], in[3], in[4], in[6], in[7]};
          },
      .expected =
          [](const Arrays& in) {
            Arrays a =
                reference::adam_step(in[0], in[1], in[2], in[3], {0.1, 0.9, 0.999, 1e-8, 0.1}, 3);
            for (const Array& x : reference::adam_step(in[4], in[5], in[6], in[7],
                                                       {0.5e-3, 0.8, 0.999, 1e-8, 0.0}, 4)) {
              a.push_back(x);
            }
            return a;
          },
      .wrong = {{{2}, {3}, {2}, {2}, {1}, {1}, {1}, {1}}, {{2}, {2}, {2}, {2}, {1}, {1}, {2}, {1}}},
      .wrong_calls = {[] {  // numbers are missing
                        const Tensor x({2}, Dtype::f32), now({2}, Dtype::f64);
                        kernels::adam_steps({{x, x, x, x, first, 0}}, now);
                      },
                      [] {
                        const Tensor x({2}, Dtype::f32), now({3}, Dtype::f32);
                        kernels::adam_steps({{x, x, x, x, first, 0}}, now);
                      },
                      [] {
                        const Tensor x({2}, Dtype::f64), now({3}, Dtype::f64);
                        kernels::adam_steps({{x, x, x, x, first, 0}}, now);
                      },
                      [] { first.at_step(1.0, 0); }},
      .bench = {two({1024, 4096}, {1024, 4096})}};
}

OpCase sign_sgd_steps_case() {
  const auto two = [](const Shape& a, const Shape& b) { return Shapes{a, a, b, b}; };
  return {.name = "kernels::sign_sgd_steps",
          .sizes = {two({3, 37}, {2}), two({1}, {1}), two({0}, {5}), two({5, 4099}, {70, 64})},
          .dtypes = {Dtype::f32},
          .run =
              [](const Tensors& in) {
                const Tensor now({2}, Dtype::f64, in[0].device());
                kernels::write_values(now, {0.125, 0.5});
                kernels::sign_sgd_steps({{in[0], in[1], 0}, {in[2], in[3], 1}}, now);
                return Tensors{in[0], in[2]};
              },
          .expected =
              [](const Arrays& in) {
                return Arrays{reference::sign_sgd_step(in[0], in[1], 0.125),
                              reference::sign_sgd_step(in[2], in[3], 0.5)};
              },
          .wrong = {{{2}, {3}, {1}, {1}}, {{2}, {2}, {1}, {2}}},
          .wrong_calls = {[] {
            const Tensor x({2}, Dtype::f32), now({1}, Dtype::f64);
            kernels::sign_sgd_steps({{x, x, 1}}, now);
          }}};
}

OpCase write_values_case() {
  const auto values = [](int64_t n) {
    std::vector<double> v;
    for (int64_t i = 0; i < n; ++i) v.push_back(0.5 + static_cast<double>(i) / 3.0);
    return v;
  };
  return {.name = "kernels::write_values",
          .sizes = {{{3}}, {{1}}, {{0}}, {{67}}},
          .dtypes = {Dtype::f64},
          .run =
              [=](const Tensors& in) {
                kernels::write_values(in[0], values(in[0].count()));
                return Tensors{in[0]};
              },
          .expected =
              [=](const Arrays& in) {
                Array y = in[0];
                y.values = values(in[0].count());
                return Arrays{y};
              },
          .wrong_calls = {[] {
                            kernels::write_values(Tensor({3}, Dtype::f64), {1.0, 2.0});
                          },
                          [] { kernels::write_values(Tensor({1}, Dtype::f32), {1.0}); }}};
}

}  // namespace

std::vector<OpCase> random_and_optimizer_cases() {
  return {adam_steps_case(), sign_sgd_steps_case(), write_values_case(), fill_normal_case(),
          fill_uniform_case()};
}

}  // namespace cbq::test
