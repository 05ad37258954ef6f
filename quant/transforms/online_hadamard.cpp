#include "quant/transforms/online_hadamard.h"

#include <nlohmann/json.hpp>

#include "autograd/functions.h"
#include "nn/formats/json.h"
#include "quant/transforms/stored_transforms.h"

namespace cbq {

Registry<StoredTransformReader>& stored_transforms() {
  static Registry<StoredTransformReader> registry("stored transform");
  return registry;
}

std::shared_ptr<const OnlineHadamard> OnlineHadamard::of_width(int64_t width, Device device) {
  const HadamardShape shape = hadamard_shape(width);
  check(shape.block > 1, "a Hadamard transform of ", width, " inputs: an odd number has none");
  return std::make_shared<OnlineHadamard>(shape.block, hadamard_matrix(shape.order).to(device));
}

nlohmann::json OnlineHadamard::record() const {
  return {{"block", block_}, {"order", matrix_.size(0)}};
}

std::vector<std::pair<std::string, Tensor>> OnlineHadamard::tensors() const {
  return {{"matrix", matrix_}};
}

Var OnlineHadamard::apply(const Var& x) const {
  if (x.size(-1) == block_) return ag::hadamard(x, matrix_, false);
  return ag::reshape(ag::hadamard(ag::reshape(x, {-1, block_}), matrix_, false), x.shape());
}

Tensor OnlineHadamard::folded_into(const Tensor& w) const {
  const Tensor rows = kernels::cast(w, Dtype::f64).reshape({-1, block_});
  return kernels::hadamard(rows, matrix_, true).reshape(w.shape());
}

namespace {

class Reader : public StoredTransformReader {
 public:
  std::vector<std::pair<std::string, Shape>> shapes(const StoredRecord& record) const override {
    const auto [block, order] = sizes(record);
    return {{"matrix", {order, order}}};
  }

  std::shared_ptr<const StoredTransform> read(const StoredRecord& record,
                                              const std::function<Tensor(const std::string&)>& load,
                                              Device device) const override {
    const auto [block, order] = sizes(record);
    const Tensor matrix = load("matrix");
    const std::vector<float> values = matrix.to_vector<float>();
    const auto row = [&](int64_t i) { return values.data() + i * order; };
    for (int64_t i = 0; i < order; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        float product = 0.0f;
        for (int64_t c = 0; c < order; ++c) product += row(i)[c] * row(j)[c];
        const float expected = i == j ? static_cast<float>(order) : 0.0f;
        if (product != expected || std::abs(row(i)[j]) != 1.0f) {
          fail(record.what,
               ": the stored matrix is no Hadamard matrix; the file is damaged, quantize again");
        }
      }
    }
    return std::make_shared<OnlineHadamard>(block, matrix.to(device));
  }

 private:
  static HadamardShape sizes(const StoredRecord& record) {
    HadamardShape shape;
    shape.block =
        json_int(json_at(record.json, "block", record.what), "block", record.what, 2, record.width);
    shape.order =
        json_int(json_at(record.json, "order", record.what), "order", record.what, 1, 1024);
    const int64_t runs = shape.block / shape.order;
    if (record.width % shape.block != 0 || shape.block % shape.order != 0 ||
        (runs & (runs - 1)) != 0) {
      fail(record.what, ": a Hadamard transform of blocks of ", shape.block, " and order ",
           shape.order, " does not divide rows of ", record.width);
    }
    return shape;
  }
};

[[maybe_unused]] const bool registered =
    stored_transforms().add(OnlineHadamard::kind_name, [] { return std::make_unique<Reader>(); });

}  // namespace
}  // namespace cbq
