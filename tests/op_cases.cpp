#include <cmath>

#include "tests/op_case.h"

namespace cbq::test {
namespace {

// SplitMix64 (Steele et al. 2014): the tests' own generator, so that a broken Philox cannot produce
// the inputs that fail to notice it.
class Generator {
 public:
  explicit Generator(uint64_t seed) : state_(seed) {}
  double uniform() {
    state_ += 0x9E3779B97F4A7C15ull;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return (static_cast<double>((z ^ (z >> 31)) >> 12) + 0.5) / 4503599627370496.0;
  }
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  }

 private:
  uint64_t state_;
};

double draw(Input input, Generator& random) {
  switch (input.kind) {
    case Input::Kind::normal:
      return random.normal();
    case Input::Kind::positive:
    case Input::Kind::accumulated:
      return 0.5 + random.uniform();
    case Input::Kind::angles:
      return 2.0 * random.uniform() - 1.0;
    case Input::Kind::ids:
      return std::floor(random.uniform() * static_cast<double>(input.below));
  }
  return 0.0;
}

Dtype dtype_of_input(Input input, Dtype dtype) {
  if (input.kind == Input::Kind::ids) return Dtype::i32;
  if (input.kind == Input::Kind::angles) return Dtype::f32;
  if (input.kind == Input::Kind::accumulated && dtype != Dtype::f64) return Dtype::f32;
  return dtype;
}

}  // namespace

Tensor make_input(Input input, const Shape& shape, Dtype dtype, uint64_t seed, Device device) {
  Generator random(seed);
  std::vector<double> values(static_cast<size_t>(element_count(shape)));
  for (double& value : values) value = draw(input, random);
  return Tensor::from(values, shape, dtype_of_input(input, dtype), device);
}

Tensors make_inputs(const OpCase& op, const Shapes& shapes, Dtype dtype, Device device) {
  Tensors made;
  for (size_t i = 0; i < shapes.size(); ++i) {
    made.push_back(make_input(op.input(i), shapes[i], dtype, 1000 + i, device));
  }
  return made;
}

Array to_array(const Tensor& t) { return Array(t.shape(), t.to_vector<double>()); }

std::vector<Shapes> alike(size_t inputs, const Shapes& shapes) {
  std::vector<Shapes> sizes;
  for (const Shape& shape : shapes) sizes.emplace_back(inputs, shape);
  return sizes;
}

Tensors OpCase::call(const Tensors& arguments) const {
  if (run) return run(arguments);
  std::vector<Var> constants;
  for (const Tensor& argument : arguments) constants.emplace_back(argument);
  return {apply(constants).value()};
}

const std::vector<OpCase>& op_cases() {
  static const std::vector<OpCase> all = [] {
    std::vector<OpCase> cases;
    for (auto* part : {&elementwise_cases, &rowwise_cases, &loss_cases, &reduce_cases, &move_cases,
                       &matmul_cases, &random_and_optimizer_cases, &elementwise_gradient_cases,
                       &model_gradient_cases}) {
      for (OpCase& op : part()) cases.push_back(std::move(op));
    }
    return cases;
  }();
  return all;
}

}  // namespace cbq::test
