#include "experiments/figures/input_hessian.h"

#include <algorithm>
#include <cmath>

namespace cbq {
namespace {

/// Adds what a layer multiplies with to a Gram matrix; else the layer is what it was.
class GramWatch : public LinearTransform {
 public:
  GramWatch(std::shared_ptr<LinearTransform> watched, InputGram& gram)
      : watched_(std::move(watched)), gram_(gram) {}
  Var weight(const Var& w) override { return watched_ ? watched_->weight(w) : w; }
  Var input(const Var& x) override {
    const Var read = watched_ ? watched_->input(x) : x;
    gram_.add(read.value());
    return read;
  }

 private:
  std::shared_ptr<LinearTransform> watched_;
  InputGram& gram_;
};

/// While it lives, `linear` has a GramWatch.
class Watched {
 public:
  Watched(Linear& linear, InputGram& gram) : linear_(linear), transform_(linear.transform) {
    linear.transform = std::make_shared<GramWatch>(transform_, gram);
  }
  ~Watched() { linear_.transform = transform_; }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

 private:
  Linear& linear_;
  std::shared_ptr<LinearTransform> transform_;
};

}  // namespace

void for_each_input_gram(Transformer& model, const Segments& segments, size_t index,
                         const Poll& poll,
                         const std::function<void(int64_t block, const InputGram& gram)>& f) {
  Tensor stream = embed_segments(model, segments, poll);
  for (int64_t b = 0; b < model.block_count(); ++b) {
    Linear& linear = *model.block(b).linears().at(index).linear;
    InputGram gram(linear.in_features());
    {
      const Watched watched(linear, gram);
      stream = run_blocks(model, {b, 1}, stream, poll);
    }
    f(b, gram);
  }
}

Matrix input_hessian(const InputGram& gram) {
  const std::vector<double> sums = gram.value().to_vector<double>();
  const auto n = static_cast<size_t>(gram.value().size(0));
  const double factor = 2.0 / static_cast<double>(std::max<int64_t>(1, gram.tokens()));
  Matrix h(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) h[i][j] = factor * sums[i * n + j];
  }
  return h;
}

Matrix absolute_block_means(const Matrix& h, size_t cells) {
  const size_t n = h.size(), size = std::min(n, cells);
  Matrix means(size, std::vector<double>(size, 0.0));
  for (size_t r = 0; r < size; ++r) {
    for (size_t c = 0; c < size; ++c) {
      const size_t top = r * n / size, bottom = (r + 1) * n / size;
      const size_t left = c * n / size, right = (c + 1) * n / size;
      double sum = 0.0;
      for (size_t i = top; i < bottom; ++i) {
        for (size_t j = left; j < right; ++j) sum += std::abs(h[i][j]);
      }
      means[r][c] = sum / static_cast<double>((bottom - top) * (right - left));
    }
  }
  return means;
}

}  // namespace cbq
