// Where tests run CUDA kernels: on a GPU, or, in cbq_simt_tests, as grids that the CPU emulates.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "kernels/ops.h"
#include "nn/transformer.h"

namespace cbq::test {

/// What is compared with the CPU's loops, because functors become grids there: a CUDA device, in
/// cbq_simt_tests the CPU; none elsewhere.
std::optional<Device> compared_device();
/// Calls f, with functors as loops on the CPU, in cbq_simt_tests too.
void on_the_host(const std::function<void()>& f);

/// First line of a test that compares the two.
#define SKIP_WITHOUT_GRIDS()                                                              \
  if (!::cbq::test::compared_device()) {                                                  \
    GTEST_SKIP() << "no CUDA device: cbq_simt_tests runs this with the kernels emulated"; \
  }

/// The model with its parameters cast to `dtype`, on `device`.
inline std::unique_ptr<Transformer> model_on(Transformer& model, Dtype dtype, Device device) {
  std::map<std::string, Tensor> values;
  model.visit("", [&](const std::string& path, Var& p) {
    values[path] = kernels::cast(p.value(), dtype).to(device);
  });
  std::unique_ptr<Transformer> moved = make_model(model.config, dtype, device);
  moved->visit("", [&](const std::string& path, Var& p) { p.set_value(values.at(path)); });
  return moved;
}

}  // namespace cbq::test
