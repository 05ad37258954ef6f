// Cases of norms, softmax, cross entropy and the reconstruction error.
#include "kernels/divergence.h"
#include "kernels/ops.h"
#include "tests/op_case.h"
#include "tests/reference/rowwise.h"

namespace cbq::test {
namespace {

constexpr double norm_eps = 1e-5;

OpCase rms_norm_case() {
  return {.name = "kernels::rms_norm",
          .sizes = {{{3, 37}, {37}},
                    {{2, 3, 5}, {5}},
                    {{1, 1}, {1}},
                    {{0, 4}, {4}},
                    {{9, 4099}, {4099}}},
          .run =
              [](const Tensors& in) {
                const auto [y, inverse] = kernels::rms_norm(in[0], in[1], norm_eps);
                return Tensors{y, inverse};
              },
          .expected = [](const Arrays& in) { return reference::rms_norm(in[0], in[1], norm_eps); },
          .wrong = {{{2, 3}, {2}}, {{2, 3}, {2, 3}}, {{}, {1}}},
          .wrong_calls = {[] {
            kernels::rms_norm(Tensor({2, 3}, Dtype::f32), Tensor({3}, Dtype::f64), norm_eps);
          }},
          .bench = {{{1024, 4096}, {4096}}}};
}

OpCase rms_norm_backward_case(bool want_dw) {
  return {
      .name = "kernels::rms_norm_backward",
      .variant = want_dw ? "with dw" : "without dw",
      .sizes = {{{3, 37}, {37}, {3}, {3, 37}},
                {{1, 1}, {1}, {1}, {1, 1}},
                {{0, 4}, {4}, {0}, {0, 4}},
                {{150, 129}, {129}, {150}, {150, 129}}},
      .inputs = {{}, {}, accumulated, {}},
      .run =
          [want_dw](const Tensors& in) {
            auto [dx, dw] = kernels::rms_norm_backward(in[0], in[1], in[2], in[3], want_dw);
            return want_dw ? Tensors{dx, dw} : Tensors{dx};
          },
      .expected =
          [want_dw](const Arrays& in) {
            Arrays all = reference::rms_norm_backward(in[0], in[1], in[2], in[3]);
            if (!want_dw) all.pop_back();
            return all;
          },
      .wrong = {{{2, 3}, {3}, {2}, {3, 2}}, {{2, 3}, {2}, {2}, {2, 3}}, {{2, 3}, {3}, {3}, {2, 3}}},
      .wrong_calls = {[] {
        const Tensor x({2, 3}, Dtype::f32), w({3}, Dtype::f32), half({2}, Dtype::bf16);
        kernels::rms_norm_backward(x, w, half, x, true);
      }},
      .bench = {{{1024, 4096}, {4096}, {1024}, {1024, 4096}}}};
}

OpCase layer_norm_case() {
  const Tensor none;
  return {
      .name = "kernels::layer_norm",
      .sizes = {{{3, 37}, {37}, {37}},
                {{2, 3, 5}, {5}, {5}},
                {{1, 1}, {1}, {1}},
                {{0, 4}, {4}, {4}},
                {{9, 4099}, {4099}, {4099}}},
      .run =
          [](const Tensors& in) {
            const auto norm = kernels::layer_norm(in[0], in[1], in[2], norm_eps);
            return Tensors{norm.y, norm.mean, norm.inverse_deviation};
          },
      .expected =
          [](const Arrays& in) { return reference::layer_norm(in[0], &in[1], &in[2], norm_eps); },
      .wrong = {{{2, 3}, {2}, {3}}, {{2, 3}, {3}, {2}}, {{2, 3}, {3}, {1, 3}}, {{}, {1}, {1}}},
      .wrong_calls = {[=] {
                        const Tensor x({2, 3}, Dtype::f32), w({3}, Dtype::f64);
                        kernels::layer_norm(x, w, w, norm_eps);
                      },
                      [=] {
                        const Tensor x({2, 3}, Dtype::f32), w({3}, Dtype::f32);
                        kernels::layer_norm(x, w, none, norm_eps);
                      }},
      .bench = {{{1024, 4096}, {4096}, {4096}}}};
}

OpCase plain_layer_norm_case() {
  return {.name = "kernels::layer_norm",
          .variant = "without weight and bias",
          .sizes = alike(1, {{3, 37}, {1, 1}, {0, 4}}),
          .run =
              [](const Tensors& in) {
                return Tensors{kernels::layer_norm(in[0], Tensor(), Tensor(), norm_eps).y};
              },
          .expected =
              [](const Arrays& in) {
                return Arrays{reference::layer_norm(in[0], nullptr, nullptr, norm_eps)[0]};
              },
          .wrong = {{{}}}};
}

// The mean is far from that of x, so that a formula which recomputes it is seen.
OpCase layer_norm_backward_case(bool weighted, bool want_dw) {
  const auto shapes = [](int64_t rows, int64_t n) {
    return Shapes{{rows, n}, {n}, {rows}, {rows}, {rows, n}};
  };
  const Shapes good = shapes(2, 3);
  return {.name = "kernels::layer_norm_backward",
          .variant = concat(weighted ? "with weight" : "without weight", want_dw ? ", dw" : ""),
          .sizes = {shapes(3, 37), shapes(1, 1), shapes(0, 4), shapes(150, 129)},
          .inputs = {{}, {}, accumulated, accumulated, {}},
          .run =
              [=](const Tensors& in) {
                auto [dx, dw] = kernels::layer_norm_backward(in[0], weighted ? in[1] : Tensor(),
                                                             in[2], in[3], in[4], want_dw);
                return want_dw ? Tensors{dx, dw} : Tensors{dx};
              },
          .expected =
              [=](const Arrays& in) {
                Arrays all = reference::layer_norm_backward(in[0], weighted ? &in[1] : nullptr,
                                                            in[2], in[3], in[4]);
                if (!want_dw) all.pop_back();
                return all;
              },
          .wrong = {{good[0], good[1], good[2], good[3], {3, 2}},
                    {good[0], good[1], {3}, good[3], good[4]},
                    {good[0], good[1], good[2], {3}, good[4]}},
          .wrong_calls = {[=] {
            const Tensor x({2, 3}, Dtype::f32), half({2}, Dtype::bf16);
            kernels::layer_norm_backward(x, Tensor(), half, half, x, true);
          }},
          .bench = weighted && want_dw ? std::vector<Shapes>{shapes(1024, 4096)}
                                       : std::vector<Shapes>{}};
}

OpCase softmax_case() {
  return {.name = "kernels::softmax",
          .sizes = alike(1, {{3, 37}, {2, 3, 5}, {1}, {1, 1}, {0, 4}, {3, 0}, {9, 4099}}),
          .run = [](const Tensors& in) { return Tensors{kernels::softmax(in[0])}; },
          .expected = [](const Arrays& in) { return Arrays{reference::softmax(in[0])}; },
          .wrong = {{{}}},
          .bench = {{{1024, 4096}}}};
}

OpCase softmax_backward_case() {
  return {.name = "kernels::softmax_backward",
          .sizes = alike(2, {{3, 37}, {2, 3, 5}, {1, 1}, {0, 4}, {50, 400}}),
          .inputs = {positive},
          .run = [](const Tensors& in) { return Tensors{kernels::softmax_backward(in[0], in[1])}; },
          .expected =
              [](const Arrays& in) { return Arrays{reference::softmax_backward(in[0], in[1])}; },
          .wrong = {{{2, 3}, {3, 2}}, {{}, {}}},
          .bench = alike(2, {{1024, 4096}})};
}

OpCase cross_entropy_case() {
  return {
      .name = "kernels::cross_entropy",
      .sizes = {{{3, 37}, {3}}, {{1, 5}, {1}}, {{0, 5}, {0}}, {{5, 4099}, {5}}},
      .inputs = {{}, ids_below(5)},
      .run = [](const Tensors& in) { return Tensors{kernels::cross_entropy(in[0], in[1])}; },
      .expected = [](const Arrays& in) { return Arrays{reference::cross_entropy(in[0], in[1])}; },
      .wrong = {{{3, 37}, {4}}, {{3, 37}, {3, 1}}, {{6}, {6}}, {{3, 1}, {3}}},
      .wrong_calls =
          {[] {
             const auto ids = Tensor::from(std::vector<int32_t>{0, -1}, {2});
             kernels::cross_entropy(Tensor({2, 3}, Dtype::f32), ids);
           },
           [] {
             kernels::cross_entropy(Tensor({2, 3}, Dtype::f32), Tensor::zeros({2}, Dtype::f32));
           }},
      .bench = {{{512, 32000}, {512}}}};
}

OpCase cross_entropy_backward_case() {
  return {.name = "kernels::cross_entropy_backward",
          .sizes = {{{3, 37}, {3}, {3}},
                    {{1, 5}, {1}, {1}},
                    {{0, 5}, {0}, {0}},
                    {{40, 500}, {40}, {40}}},
          .inputs = {{}, ids_below(5), accumulated},
          .run =
              [](const Tensors& in) {
                return Tensors{kernels::cross_entropy_backward(in[0], in[1], in[2])};
              },
          .expected =
              [](const Arrays& in) {
                return Arrays{reference::cross_entropy_backward(in[0], in[1], in[2])};
              },
          .wrong = {{{3, 37}, {4}, {3}}, {{3, 37}, {3}, {2}}, {{3, 37}, {3}, {3, 1}}},
          .wrong_calls = {[] {
            kernels::cross_entropy_backward(Tensor({2, 3}, Dtype::f32),
                                            Tensor::zeros({2}, Dtype::i32),
                                            Tensor({2}, Dtype::bf16));
          }},
          .bench = {{{512, 32000}, {512}, {512}}}};
}

OpCase divergence_case() {
  return {.name = "kernels::divergence",
          .sizes = alike(2, {{3, 37}, {1, 1}, {0, 4}, {50, 400}, {5, 4099}}),
          .run =
              [](const Tensors& in) {
                const auto result = kernels::divergence(in[0], in[1]);
                return Tensors{result.kl, result.agrees};
              },
          .expected = [](const Arrays& in) { return reference::divergence(in[0], in[1]); },
          .wrong = {{{2, 3}, {3, 2}}, {{2, 3}, {2, 4}}, {{6}, {6}}, {{}, {}}},
          .bench = alike(2, {{512, 32000}})};
}

OpCase row_error_case(const char* variant, double l2, kernels::L2Form form, double kl,
                      bool gradient) {
  return {.name = "kernels::row_error",
          .variant = variant,
          .sizes = alike(2, {{3, 37}, {2, 3, 5}, {1, 1}, {0, 4}, {50, 400}}),
          .run =
              [=](const Tensors& in) {
                const auto error = kernels::row_error(in[0], in[1], l2, form, kl, gradient);
                return gradient ? Tensors{error.loss, error.gradient} : Tensors{error.loss};
              },
          .expected =
              [=](const Arrays& in) {
                Arrays all = reference::row_error(in[0], in[1], l2, form, kl);
                if (!gradient) all.pop_back();
                return all;
              },
          .wrong = {{{2, 3}, {3, 2}}, {{}, {}}},
          .bench = alike(2, {{1024, 4096}})};
}

}  // namespace

std::vector<OpCase> rowwise_cases() {
  return {rms_norm_case(),
          rms_norm_backward_case(true),
          rms_norm_backward_case(false),
          layer_norm_case(),
          plain_layer_norm_case(),
          layer_norm_backward_case(true, true),
          layer_norm_backward_case(true, false),
          layer_norm_backward_case(false, false),
          softmax_case(),
          softmax_backward_case(),
          cross_entropy_case(),
          cross_entropy_backward_case(),
          divergence_case()};
}

std::vector<OpCase> loss_cases() {
  return {row_error_case("L2", 0.5, kernels::L2Form::sum, 0.0, true),
          row_error_case("L2 norm", 0.5, kernels::L2Form::norm, 0.0, true),
          row_error_case("L2 relative", 0.5, kernels::L2Form::relative, 0.0, true),
          row_error_case("L2 relative + KL", 0.5, kernels::L2Form::relative, 2.0, true),
          row_error_case("KL", 0.0, kernels::L2Form::sum, 2.0, true),
          row_error_case("L2 + KL", 0.5, kernels::L2Form::sum, 2.0, true),
          row_error_case("value only", 1.0, kernels::L2Form::sum, 1.0, false)};
}

}  // namespace cbq::test
