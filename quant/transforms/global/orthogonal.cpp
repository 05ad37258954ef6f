#include "quant/transforms/global/orthogonal.h"

#include "kernels/formulas/philox.h"
#include "kernels/ops.h"

namespace cbq {
namespace {

std::vector<double> random_signs(int64_t n, uint64_t seed, uint64_t stream) {
  std::vector<double> signs;
  for (int64_t i = 0; i < n; ++i) {
    signs.push_back(philox_bits(seed, stream, static_cast<uint64_t>(i)) % 2 == 0 ? 1.0 : -1.0);
  }
  return signs;
}

}  // namespace

OrthogonalMatrix::OrthogonalMatrix(const HadamardShape& shape, std::vector<double> signs,
                                   bool keeps_ones)
    : block_(shape.block),
      matrix_(hadamard_matrix(shape.order)),
      signs_(std::move(signs)),
      keeps_ones_(keeps_ones) {
  for (int64_t i = 0; i < size() && keeps_ones; i += block_) signs_[static_cast<size_t>(i)] = 1.0;
}

OrthogonalMatrix OrthogonalMatrix::random(int64_t n, uint64_t seed, uint64_t stream,
                                          bool keeps_ones) {
  const HadamardShape shape = hadamard_shape(n);
  check(shape.block > 1, "rotation: ", n,
        " channels are an odd number, which has no Hadamard transform");
  return {shape, random_signs(n, seed, stream), keeps_ones};
}

OrthogonalMatrix OrthogonalMatrix::random_blocks(int64_t n, int64_t block, uint64_t seed,
                                                 uint64_t stream, bool keeps_ones) {
  const HadamardShape shape = hadamard_shape(block);
  check(shape.block == block, "rotation: blocks of ", block,
        " channels have no Hadamard transform as a whole");
  check(n > 0 && n % block == 0, "rotation: blocks of ", block, " do not divide ", n, " channels");
  return {shape, random_signs(n, seed, stream), keeps_ones};
}

OrthogonalMatrix OrthogonalMatrix::random_per_head(int64_t heads, int64_t head_dim, uint64_t seed,
                                                   uint64_t stream) {
  OrthogonalMatrix q = random(head_dim, seed, stream, false);
  q.signs_ = random_signs(heads * head_dim, seed, stream);
  return q;
}

OrthogonalMatrix OrthogonalMatrix::repeated(int64_t head_dim, int64_t group) const {
  OrthogonalMatrix q = *this;
  q.signs_.clear();
  for (int64_t c = 0; c < size() * group; ++c) {
    q.signs_.push_back(
        signs_[static_cast<size_t>(c / (group * head_dim) * head_dim + c % head_dim)]);
  }
  return q;
}

Tensor OrthogonalMatrix::rows(const Tensor& x) const {
  check(x.rank() >= 1 && x.size(-1) == size() && x.dtype() == Dtype::f64, "rotation: ", x.dtype(),
        x.shape(), "; expected f64 rows of ", size());
  const auto transform = [&](const Tensor& t, bool transposed) {
    return kernels::hadamard(t.reshape({-1, block_}), matrix_, transposed).reshape(x.shape());
  };
  const Tensor signs = Tensor::from(signs_, {size()});
  return transform(kernels::mul_row(keeps_ones_ ? transform(x, true) : x, signs), false);
}

Tensor OrthogonalMatrix::columns(const Tensor& w) const {
  return kernels::transpose(rows(kernels::transpose(w)));
}

}  // namespace cbq
