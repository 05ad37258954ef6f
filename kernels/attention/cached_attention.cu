#include "kernels/attention/cached_attention.h"
#include "kernels/attention/row_attention.h"
#include "kernels/formulas/math.h"
#include "kernels/launch/launch.h"

namespace cbq::kernels {
namespace {

template <class T>
struct AppendRow {
  const T* x;
  T* cache;
  int64_t tokens, capacity, past, width;

  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const int64_t to = r / tokens * capacity + past + r % tokens;
    for (int64_t c = row.lane(); c < width; c += row.lanes()) {
      cache[to * width + c] = x[r * width + c];
    }
  }
};

/// Call r is head r % heads of row first + r / heads.
template <class T>
struct AttendCached {
  using A = acc_t<T>;
  const T* q;
  const T* keys;
  const T* values;
  T* y;
  const float* slopes;  // of the heads, or null
  A* scores;            // [calls, longest]: what this call keeps between its two passes
  int64_t first, tokens, past, capacity, heads, kv_heads, dim, longest;
  A factor;
  double cap;  // c, or 0: none

  /// What call r reads and writes.
  struct Place {
    RowAttention<T> attention;
    const T* key;    // of the first position; the next one is `stride` further
    const T* value;  // likewise
    int64_t stride;
  };
  CBQ_HD Place place_of(int64_t r) const {
    const int64_t i = first + r / heads, h = r % heads;
    const int64_t stride = kv_heads * dim;
    const int64_t at = i / tokens * capacity * stride + h / (heads / kv_heads) * dim;
    const int64_t own = (i * heads + h) * dim;
    return {{q + own, y + own, scores + r * longest, past + i % tokens + 1, dim, factor,
             slopes != nullptr ? slopes + h : nullptr, cap},
            keys + at,
            values + at,
            stride};
  }

  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const Place p = place_of(r);
    p.attention.attend(
        row, [&](int64_t j) { return p.key + j * p.stride; },
        [&](int64_t j) { return p.value + j * p.stride; });
  }

  /// The same for one worker, in whole vectors: a dot product in partial sums, and values row by
  /// row, as they lie in memory.
  void operator()(SerialRow&, int64_t r) const {
    const Place p = place_of(r);
    const RowAttention<T>& of = p.attention;
    A* weights = of.weights;
    A largest = -INFINITY;
    for (int64_t j = 0; j < of.count; ++j) {
      const T* key = p.key + j * p.stride;
      A dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t c = 0; c < dim; ++c) dot += A(of.query[c]) * A(key[c]);
      weights[j] = of.score(dot, j);
      largest = math::max(largest, weights[j]);
    }
    A total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < of.count; ++j) {
      weights[j] = formulas::Softmax<formulas::PortableMath>::power(weights[j], largest);
      total += weights[j];
    }
    constexpr int64_t part = 64;
    for (int64_t begin = 0; begin < dim; begin += part) {
      const int64_t width = math::min(part, dim - begin);
      A o[part] = {};
      for (int64_t j = 0; j < of.count; ++j) {
        const T* value = p.value + j * p.stride + begin;
        const A weight = weights[j];
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) o[c] += weight * A(value[c]);
      }
      for (int64_t c = 0; c < width; ++c) of.result[begin + c] = T(o[c] / total);
    }
  }
};

// Elements of the scores that are kept at a time: 64 MiB in f32.
constexpr int64_t most_scores = int64_t{1} << 24;

}  // namespace

void append_rows(const Tensor& cache, const Tensor& x, int64_t batch, int64_t past) {
  const char* op = "append_rows";
  check(cache.rank() == 2 && x.rank() == 2 && batch > 0 && cache.size(0) % batch == 0 &&
            x.size(0) % batch == 0 && x.size(0) > 0 && cache.size(1) == x.size(1),
        op, ": ", x.shape(), " does not go into ", cache.shape(), " for ", batch, " sequences");
  check(x.dtype() == cache.dtype() && x.device() == cache.device(), op, ": ", x.dtype(), " on ",
        x.device(), " into ", cache.dtype(), " on ", cache.device());
  const int64_t tokens = x.size(0) / batch, capacity = cache.size(0) / batch;
  check(past >= 0 && past + tokens <= capacity, op, ": ", tokens, " tokens behind ", past,
        " exceed the capacity of ", capacity);
  dispatch_float(x.dtype(), op, [&]<class T>() {
    map_rows(op, x.device(), x.size(0), x.size(1),
             AppendRow<T>{x.data<T>(), cache.data<T>(), tokens, capacity, past, x.size(1)});
  });
}

Tensor cached_attention(const Tensor& q, const Tensor& keys, const Tensor& values, int64_t batch,
                        int64_t past, int64_t heads, int64_t kv_heads,
                        const AttentionScores& of_scores) {
  const char* op = "cached_attention";
  of_scores.check_cap(op);
  const Tensor& slopes = of_scores.slopes;
  check(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, op, ": ", heads,
        " query heads cannot share ", kv_heads, " key-value heads");
  check(q.rank() == 2 && keys.rank() == 2 && keys.shape() == values.shape() && batch > 0 &&
            q.size(0) % batch == 0 && q.size(0) > 0 && keys.size(0) % batch == 0 &&
            q.size(1) % heads == 0 && keys.size(1) == q.size(1) / heads * kv_heads,
        op, ": q ", q.shape(), ", keys ", keys.shape(), ", values ", values.shape(), " for ", batch,
        " sequences, ", heads, " heads, ", kv_heads, " for keys");
  check(q.dtype() == keys.dtype() && q.dtype() == values.dtype() && q.device() == keys.device() &&
            q.device() == values.device(),
        op, ": q ", q.dtype(), " on ", q.device(), ", keys ", keys.dtype(), " on ", keys.device(),
        ", values ", values.dtype(), " on ", values.device());
  check(!slopes.defined() || (slopes.rank() == 1 && slopes.size(0) == heads &&
                              slopes.dtype() == Dtype::f32 && slopes.device() == q.device()),
        op, ": ", heads, " heads need as many f32 slopes on ", q.device());
  const int64_t tokens = q.size(0) / batch, capacity = keys.size(0) / batch;
  const int64_t longest = past + tokens, dim = q.size(1) / heads;
  check(past >= 0 && longest <= capacity, op, ": ", tokens, " tokens behind ", past,
        " exceed the capacity of ", capacity);
  const int64_t step = math::clamp<int64_t>(most_scores / (heads * longest), 1, q.size(0));
  Tensor y(q.shape(), q.dtype(), q.device());
  dispatch_float(q.dtype(), op, [&]<class T>() {
    using A = acc_t<T>;
    const Tensor scores({step * heads, longest}, dtype_of<A>::value, q.device());
    for (int64_t first = 0; first < q.size(0); first += step) {
      const int64_t calls = math::min(step, q.size(0) - first) * heads;
      map_rows(op, q.device(), calls, longest * dim,
               AttendCached<T>{q.data<T>(), keys.data<T>(), values.data<T>(), y.data<T>(),
                               slopes.defined() ? slopes.data<float>() : nullptr, scores.data<A>(),
                               first, tokens, past, capacity, heads, kv_heads, dim, longest,
                               static_cast<A>(1.0 / std::sqrt(static_cast<double>(dim))),
                               of_scores.cap});
    }
  });
  return y;
}

}  // namespace cbq::kernels
