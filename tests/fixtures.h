// Small random models of every family with what transformers computes with them
// (tools/fixtures/make_model_fixtures.py says what is in a folder).
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "autograd/worst_error.h"
#include "nn/formats/safetensors.h"
#include "nn/transformer.h"

namespace cbq::test {

inline std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(CBQ_SOURCE_DIR) / "tests/fixtures/models" / name;
}

/// Sorted.
inline std::vector<std::string> fixture_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(fixture(""))) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// Name of a parameterized test: letters and digits only.
inline std::string test_name(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

struct ExpectedResults {
  explicit ExpectedResults(const std::string& name)
      : file(SafetensorsFile::open(fixture(name) / "expected.safetensors")) {
    const Tensor ids = file.load("ids");
    sequence = {ids.size(0), ids.size(1) - 1};
    std::vector<int32_t> in, out;
    const auto all = ids.to_vector<int32_t>();
    for (int64_t i = 0; i < ids.count(); ++i) {
      if (i % ids.size(1) < sequence.tokens) in.push_back(all[static_cast<size_t>(i)]);
      if (i % ids.size(1) > 0) out.push_back(all[static_cast<size_t>(i)]);
    }
    const Shape shape = {sequence.batch * sequence.tokens};
    inputs = Tensor::from(in, shape);
    targets = Tensor::from(out, shape);
  }

  SafetensorsFile file;
  Sequence sequence;
  Tensor inputs, targets;  // i32 [batch * tokens]
};

inline std::vector<double> logits_of(Transformer& model, const ExpectedResults& expected) {
  return model.forward(expected.inputs, expected.sequence).value().to_vector<double>();
}

/// max|a - b| / max|b|; infinity for NaN in one of them, and where b is infinite.
inline double relative_distance(const std::vector<double>& a, const std::vector<double>& b) {
  const double size = largest_difference(b, std::vector<double>(b.size(), 0.0));
  return std::isfinite(size) ? largest_difference(a, b) / size : INFINITY;
}

}  // namespace cbq::test
