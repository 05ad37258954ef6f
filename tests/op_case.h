// One description per op, from which everything mechanical follows: value against the naive
// reference in every dtype, guard bands, empty and size-1 shapes, f64 gradients, errors for wrong
// shapes, independence of the number of threads, CPU against CUDA (tests/test_ops.cpp) and a
// benchmark line (tools/bench/ops.cpp). docs/life-of-an-op.md shows one being written.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd/var.h"
#include "tensor/tensor.h"
#include "tests/reference/array.h"

namespace cbq::test {

using Tensors = std::vector<Tensor>;
using reference::Array;
using reference::Arrays;

using Shapes = std::vector<Shape>;

/// What an input holds.
struct Input {
  enum class Kind {
    normal,       // N(0, 1), the case's dtype
    positive,     // uniform on (0.5, 1.5), the case's dtype
    accumulated,  // positive, in the accumulation dtype: per-row statistics kept for backward
    angles,       // uniform on (-1, 1), always f32: tables of rope
    ids           // i32 in [0, below)
  };
  Kind kind = Kind::normal;
  int64_t below = 0;
};
inline constexpr Input positive{Input::Kind::positive};
inline constexpr Input accumulated{Input::Kind::accumulated};
inline constexpr Input angles{Input::Kind::angles};
constexpr Input ids_below(int64_t n) { return {Input::Kind::ids, n}; }

struct OpCase {
  /// As declared: "kernels::add", "ag::add". Several cases may serve one op; `variant` tells them
  /// apart.
  std::string name;
  std::string variant = "";

  /// Shapes of the inputs: an ordinary one of odd extents, size-1, empty where that is legal, and
  /// one above launch.h's threshold for threads.
  std::vector<Shapes> sizes;
  /// What the inputs hold; inputs not listed are normal.
  std::vector<Input> inputs = {};
  std::vector<Dtype> dtypes = {Dtype::f64, Dtype::f32, Dtype::bf16, Dtype::f16};
  /// Temporaries may be of an output's size class, and then write its block to a later byte, so
  /// that nothing can be told from the bytes behind outputs.
  bool large_temporaries = false;

  /// The op. An in-place op returns the tensors it wrote to.
  std::function<Tensors(const Tensors&)> run = nullptr;
  /// The same in double, from tests/reference/.
  std::function<Arrays(const Arrays&)> expected = nullptr;

  /// Differentiable form, for ops of autograd/functions.h: `run` is derived from it. Integer inputs
  /// arrive as constants.
  std::function<Var(const std::vector<Var>&)> apply = nullptr;
  /// Which inputs are differentiated; empty means all.
  std::vector<size_t> leaves = {};

  /// Input shapes that must throw std::invalid_argument with the op's name in the message.
  std::vector<Shapes> wrong = {};
  /// Further calls that must do the same: dtypes, ranges.
  std::vector<std::function<void()>> wrong_calls = {};

  /// Input shapes of the benchmark; none: no line. Bytes are those of inputs and outputs unless
  /// `flops` says that arithmetic is what counts.
  std::vector<Shapes> bench = {};
  std::function<double(const Shapes&)> flops = nullptr;

  /// "kernels::add", or "kernels::rope (5 tokens, dim 6)".
  std::string title() const { return variant.empty() ? name : name + " (" + variant + ")"; }
  /// Runs `run`, or `apply` on constants.
  Tensors call(const Tensors& arguments) const;
  Input input(size_t i) const { return i < inputs.size() ? inputs[i] : Input{}; }
};

/// Pseudo-random inputs of a case, the same in every run. Values are rounded to their dtype, so
/// what a reference computes from to_vector<double>() differs from the op by arithmetic only.
Tensor make_input(Input input, const Shape& shape, Dtype dtype, uint64_t seed,
                  Device device = Device::cpu());
Tensors make_inputs(const OpCase& op, const Shapes& shapes, Dtype dtype,
                    Device device = Device::cpu());
Array to_array(const Tensor& t);

/// For each of `shapes`, that shape for every one of `inputs` inputs.
std::vector<Shapes> alike(size_t inputs, const Shapes& shapes);

/// All cases, in the order of the headers.
const std::vector<OpCase>& op_cases();

// One function per file op_cases_*.cpp.
std::vector<OpCase> elementwise_cases();
std::vector<OpCase> rowwise_cases();
std::vector<OpCase> loss_cases();
std::vector<OpCase> reduce_cases();
std::vector<OpCase> move_cases();
std::vector<OpCase> matmul_cases();
std::vector<OpCase> random_and_optimizer_cases();
std::vector<OpCase> elementwise_gradient_cases();
std::vector<OpCase> model_gradient_cases();

}  // namespace cbq::test
