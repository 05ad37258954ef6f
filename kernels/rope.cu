// Rotary position embedding: pairs of a head's first and second half are turned by the angles of
// the token's position.
#include "kernels/formulas/rotary.h"
#include "kernels/launch/check_device.h"
#include "kernels/launch/launch.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

template <class T>
struct Rope {
  using A = acc_t<T>;
  const T* x;
  const float* cosine;
  const float* sine;
  T* y;
  int64_t heads, tokens, dim, half;  // of a head's dim elements the first 2 half turn
  A direction;                       // +1 forward, -1 inverse

  bool fits_vectors() const {
    return 2 * half == dim && half % vector_width == 0 && aligned(x, cosine, sine, y);
  }

  using Pair = typename formulas::Rotary<T>::Pair;
  CBQ_HD Pair turned(A a, A b, float c, float s) const {
    return formulas::Rotary<T>::turned(a, b, c, s, direction);
  }

  /// All heads of token r of the batch.
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const int64_t position = r % tokens;
    const float* c = cosine + position * half;
    const float* s = sine + position * half;
    for (int64_t h = 0; h < heads; ++h) {
      const T* in = x + (r * heads + h) * dim;
      T* out = y + (r * heads + h) * dim;
#pragma omp simd
      for (int64_t j = row.lane(); j < half; j += row.lanes()) {
        const Pair pair = turned(in[j], in[j + half], c[j], s[j]);
        out[j] = device_math::round_to<T>(pair.a);
        out[j + half] = device_math::round_to<T>(pair.b);
      }
      for (int64_t j = 2 * half + row.lane(); j < dim; j += row.lanes()) out[j] = in[j];
    }
  }
};

/// The same for a CUDA thread that turns eight neighbouring pairs: of a row's few elements per head
/// most threads of a block would have none.
template <class T>
struct RopeVectors {
  using A = acc_t<T>;
  Rope<T> rope;
  CBQ_HD void operator()(int64_t i) const {
    const auto half = static_cast<uint32_t>(rope.half), of_head = half / vector_width;
    const auto vector = static_cast<uint32_t>(i), head = vector / of_head;  // of all rows
    const uint32_t position =
        head / static_cast<uint32_t>(rope.heads) % static_cast<uint32_t>(rope.tokens);
    const uint32_t j = vector % of_head * vector_width;
    const int64_t at = head * rope.dim + j, angle = int64_t{position} * half + j;
    const Vector<T> a = load_vector(rope.x + at), b = load_vector(rope.x + at + half);
    const Vector<float> c = load_vector(rope.cosine + angle), s = load_vector(rope.sine + angle);
    A first[vector_width], second[vector_width];
    CBQ_UNROLL
    for (int k = 0; k < vector_width; ++k) {
      const auto pair = rope.turned(a[k], b[k], c[k], s[k]);
      first[k] = pair.a;
      second[k] = pair.b;
    }
    store_vector(rope.y + at, round_vector<T>(first));
    store_vector(rope.y + at + half, round_vector<T>(second));
  }
};

}  // namespace

Tensor rope(const Tensor& x, const Tensor& cosine, const Tensor& sine, int64_t tokens, int64_t dim,
            bool inverse) {
  check(x.rank() == 2 && tokens > 0 && dim > 0 && dim % 2 == 0 && x.size(0) % tokens == 0 &&
            x.size(1) % dim == 0,
        "rope: ", x.shape(), " does not divide into ", tokens, " tokens, head size ", dim);
  check(cosine.rank() == 2 && cosine.size(0) >= tokens && cosine.size(1) > 0 &&
            2 * cosine.size(1) <= dim && cosine.shape() == sine.shape() &&
            cosine.dtype() == Dtype::f32 && sine.dtype() == Dtype::f32,
        "rope: tables of ", cosine.dtype(), cosine.shape(), " and ", sine.dtype(), sine.shape(),
        "; expected f32 for ", tokens, " tokens, head size ", dim);
  check_device("rope", "the table of cosines", cosine, x.device());
  check_device("rope", "the table of sines", sine, x.device());
  Tensor y(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), "rope", [&]<class T>() {
    const Rope<T> turn{x.data<T>(), cosine.data<float>(), sine.data<float>(),
                       y.data<T>(), x.size(1) / dim,      tokens,
                       dim,         cosine.size(1),       static_cast<acc_t<T>>(inverse ? -1 : 1)};
    const int64_t vectors = x.count() / 2 / vector_width;
    if (runs_on_grid(x.device()) && turn.fits_vectors() && vectors <= UINT32_MAX) {
      map("rope", x.device(), vectors, RopeVectors<T>{turn});
    } else {
      map_rows("rope", x.device(), x.size(0), x.size(1), turn);
    }
  });
  return y;
}

}  // namespace cbq::kernels
