// Causal attention in tiles of queries: batched products with the keys up to the tile's end, and
// one kernel between them. There is no [tokens, tokens] matrix, forward or backward, and the part
// of the products behind the causal mask is left out but for the tile's own triangle.
//
// On a GPU, bf16 with usual head sizes goes to kernels of its own instead
// (kernels/attention/fused_attention.h).
#include <omp.h>

#include <cmath>

#include "kernels/attention/fused_attention.h"
#include "kernels/formulas/activation.h"
#include "kernels/launch/check_device.h"
#include "kernels/launch/launch.h"
#include "kernels/launch/parallel_errors.h"
#include "kernels/launch/rows.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

using formulas::NoCap;
using formulas::SoftCap;

/// The sizes of one call.
struct Sizes {
  int64_t batch, heads, kv_heads, tokens, dim;
  CBQ_HD int64_t group() const { return heads / kv_heads; }
};

/// Rows of scores start at whole vectors, and at addresses that tensor cores like.
int64_t padded(int64_t keys) { return (keys + 15) / 16 * 16; }

/// Queries begin .. begin + rows of query head `member` of each of the groups kv .. kv + count, of
/// one element of the batch. Query heads of one group read the same keys and values.
struct Tile {
  Sizes sizes;
  int64_t element, kv, count, member;
  int64_t begin, rows;
  int64_t scratch;  // offset of this tile's scores

  int64_t keys() const { return begin + rows; }
  /// True for the first tile that adds to the gradients of its keys: it reads all of them.
  bool is_first() const { return member == 0 && keys() == sizes.tokens; }

  /// The tile's rows of queries, output, or their gradients.
  Matrices queries_of(const Tensor& t) const {
    const int64_t head = kv * sizes.group() + member, width = sizes.heads * sizes.dim;
    const int64_t row = element * sizes.tokens + begin;
    return {t, row * width + head * sizes.dim, sizes.group() * sizes.dim, width, rows, sizes.dim};
  }
  /// The rows of keys, values, or their gradients that the tile sees.
  Matrices keys_of(const Tensor& t) const {
    const int64_t width = sizes.kv_heads * sizes.dim, row = element * sizes.tokens;
    return {t, row * width + kv * sizes.dim, sizes.dim, width, keys(), sizes.dim};
  }
  Matrices scores_of(const Tensor& t) const {
    return {t, scratch, rows * padded(keys()), padded(keys()), rows, keys()};
  }
};

/// What a kernel must know of row r of a tile's scores [count * rows, row_stride].
struct TileRows {
  Sizes sizes;
  int64_t element, first_head, begin, rows, row_stride;
  const float* slopes;  // or null

  TileRows(const Tile& t, const Tensor& alibi)
      : sizes(t.sizes),
        element(t.element),
        first_head(t.kv * t.sizes.group() + t.member),
        begin(t.begin),
        rows(t.rows),
        row_stride(padded(t.keys())),
        slopes(alibi.defined() ? alibi.data<float>() : nullptr) {}

  CBQ_HD int64_t head(int64_t r) const { return first_head + r / rows * sizes.group(); }
  CBQ_HD int64_t query(int64_t r) const { return begin + r % rows; }
  CBQ_HD RowPrefix seen(int64_t r) const { return {query(r) + 1, row_stride}; }
  CBQ_HD float slope(int64_t r) const { return slopes == nullptr ? 0.0f : slopes[head(r)]; }
  /// The row's place in [batch * heads, tokens].
  CBQ_HD int64_t statistic(int64_t r) const {
    return (element * sizes.heads + head(r)) * sizes.tokens + query(r);
  }
  /// The first of its dim elements in [batch * tokens, heads * dim].
  CBQ_HD int64_t output(int64_t r) const {
    return ((element * sizes.tokens + query(r)) * sizes.heads + head(r)) * sizes.dim;
  }
  /// Capped score j with ALiBi's bias, which is rounded as a tensor of dtype T would be.
  template <class T>
  CBQ_HD static acc_t<T> biased(acc_t<T> capped, int64_t j, float slope) {
    const T bias = T(acc_t<T>(slope) * acc_t<T>(static_cast<int32_t>(j)));
    return capped + acc_t<T>(bias);
  }
};

/// Scores become probabilities.
template <class T, class Cap>
struct TileSoftmax {
  TileRows tile;
  Cap cap;
  T* scores;
  acc_t<T>* log_sum;
  CBQ_HD acc_t<T> score(const T* x, int64_t j, float slope) const {
    return TileRows::biased<T>(cap.value(acc_t<T>(x[j])), j, slope);
  }
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    T* x = scores + r * tile.row_stride;
    const RowPrefix seen = tile.seen(r);
    const float slope = tile.slope(r);
    A largest = -INFINITY;
#pragma omp simd reduction(max : largest)
    for (int64_t j = row.lane(); j < seen.padded; j += row.lanes()) {
      const A s = seen.choose(j, score(x, j, slope), A(-INFINITY));
      largest = s > largest ? s : largest;
    }
    largest = row.max(largest);
    // The exponential waits in its place, or is computed again where that would round it.
    constexpr bool exact = std::is_same_v<T, A>;
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = row.lane(); j < seen.padded; j += row.lanes()) {
      const A e = seen.choose(j, math::exp(score(x, j, slope) - largest), A(0));
      if constexpr (exact) x[j] = e;
      sum += e;
    }
    sum = row.sum(sum);
    if (row.lane() == 0) log_sum[tile.statistic(r)] = largest + math::log(sum);
    const A inverse = A(1) / sum;
#pragma omp simd
    for (int64_t j = row.lane(); j < seen.padded; j += row.lanes()) {
      if constexpr (exact) {
        x[j] *= inverse;
      } else {
        const A e = math::exp(score(x, j, slope) - largest) * inverse;
        x[j] = T(seen.choose(j, e, A(0)));
      }
    }
    for (int64_t j = seen.padded + row.lane(); j < tile.row_stride; j += row.lanes())
      x[j] = T(A(0));
  }
};

/// Scores become probabilities again, and gradients of probabilities those of scores.
template <class T, class Cap>
struct TileSoftmaxBackward {
  TileRows tile;
  Cap cap;
  const acc_t<T>* log_sum;
  const T* o;
  const T* d_o;
  T* scores;
  T* gradient;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    T* x = scores + r * tile.row_stride;
    T* dx = gradient + r * tile.row_stride;
    const RowPrefix seen = tile.seen(r);
    const float slope = tile.slope(r);
    const A log_of_sum = log_sum[tile.statistic(r)];
    const int64_t at = tile.output(r);
    const A mean = row_dot(row, o + at, d_o + at, tile.sizes.dim);  // = sum_j p_j dp_j
#pragma omp simd
    for (int64_t j = row.lane(); j < seen.padded; j += row.lanes()) {
      const A capped = cap.value(A(x[j]));
      const A p = math::exp(TileRows::biased<T>(capped, j, slope) - log_of_sum);
      x[j] = T(seen.choose(j, p, A(0)));
      dx[j] = T(seen.choose(j, cap.gradient(capped, p * (A(dx[j]) - mean)), A(0)));
    }
    for (int64_t j = seen.padded + row.lane(); j < tile.row_stride; j += row.lanes()) {
      x[j] = T(A(0));
      dx[j] = T(A(0));
    }
  }
};

constexpr int64_t cpu_queries = 64;      // docs/performance.md
constexpr int64_t device_queries = 256;  // one to two tiles of a tensor core's product
constexpr int64_t scratch_bytes = 16
                                  << 20;  // two of them fit into the second-level cache of an H200

/// How a call is divided.
struct Plan {
  Sizes sizes;
  AttentionTiles tiles;
  int workers;               // threads that work on tiles of their own
  int64_t scratch_elements;  // of one worker

  int64_t chunks() const { return (sizes.kv_heads + tiles.kv_heads - 1) / tiles.kv_heads; }
};

Plan plan_of(const Sizes& s, AttentionTiles tiles, const Tensor& q) {
  const bool on_host = is_host(q.device());
  const int64_t row_bytes = padded(s.tokens) * size_of(q.dtype());
  if (tiles.queries == 0) {
    const int64_t fit = scratch_bytes / row_bytes / 16 * 16;
    tiles.queries = std::clamp<int64_t>(fit, 16, on_host ? cpu_queries : device_queries);
  }
  tiles.queries = std::min(tiles.queries, s.tokens);
  if (tiles.kv_heads == 0) {
    tiles.kv_heads =
        on_host ? 1 : std::max<int64_t>(1, scratch_bytes / (row_bytes * tiles.queries));
  }
  tiles.kv_heads = std::min(tiles.kv_heads, s.kv_heads);
  Plan plan{s, tiles, 1, tiles.kv_heads * tiles.queries * padded(s.tokens)};
  // On a device the order of its stream is the only one, and half types allocate inside a product.
  if (on_host && size_of(q.dtype()) >= 4) {
    const int64_t threads = launching_threads(omp_get_max_threads());
    plan.workers = static_cast<int>(std::min<int64_t>(s.batch * plan.chunks(), threads));
  }
  return plan;
}

/// Calls work(tile) for every tile. Tiles that add to the same keys come one after the other, the
/// one that sees all keys first; others may run side by side, each worker on scratch of its own.
template <class Work>
void for_each_tile(const Plan& plan, const Work& work) {
  const Sizes& s = plan.sizes;
  const int64_t queries = plan.tiles.queries, units = s.batch * plan.chunks();
  const auto work_on = [&](int64_t unit, int worker) {
    Tile tile{};
    tile.sizes = s;
    tile.element = unit / plan.chunks();
    tile.kv = unit % plan.chunks() * plan.tiles.kv_heads;
    tile.count = std::min(plan.tiles.kv_heads, s.kv_heads - tile.kv);
    tile.scratch = worker * plan.scratch_elements;
    for (tile.member = 0; tile.member < s.group(); ++tile.member) {
      for (int64_t begin = (s.tokens - 1) / queries * queries; begin >= 0; begin -= queries) {
        tile.begin = begin;
        tile.rows = std::min(queries, s.tokens - begin);
        work(tile);
      }
    }
  };
  if (plan.workers == 1) {
    // Also on a device: this thread launches everything.
    for (int64_t unit = 0; unit < units; ++unit) work_on(unit, 0);
    return;
  }
  ParallelErrors errors;
#pragma omp parallel for schedule(dynamic) num_threads(plan.workers)
  for (int64_t unit = 0; unit < units; ++unit) {
    errors.guard([&] { work_on(unit, omp_get_thread_num()); });
  }
  errors.rethrow();
}

Tensor scratch_of(const Plan& plan, const Tensor& like) {
  return Tensor({plan.workers, plan.scratch_elements}, like.dtype(), like.device());
}

Sizes sizes_of(const char* op, const Tensor& q, const Tensor& k, const Tensor& v,
               const AttentionHeads& h, const AttentionScores& scores,
               const AttentionTiles& tiles) {
  check(h.heads > 0 && h.kv_heads > 0 && h.heads % h.kv_heads == 0, op, ": ", h.heads,
        " query heads cannot share ", h.kv_heads, " key-value heads");
  check(q.rank() == 2 && k.rank() == 2 && k.shape() == v.shape() && h.batch > 0 &&
            q.size(0) % h.batch == 0 && q.size(1) % h.heads == 0 && k.size(0) == q.size(0),
        op, ": q ", q.shape(), ", k ", k.shape(), ", v ", v.shape(), " for batch ", h.batch, ", ",
        h.heads, " heads");
  const Sizes s{h.batch, h.heads, h.kv_heads, q.size(0) / h.batch, q.size(1) / h.heads};
  check(k.size(1) == s.kv_heads * s.dim, op, ": k ", k.shape(), " for ", s.kv_heads, " heads of ",
        s.dim);
  check(q.dtype() == k.dtype() && q.dtype() == v.dtype(), op, ": q is ", q.dtype(), ", k is ",
        k.dtype(), ", v is ", v.dtype());
  check_device(op, "k", k, q.device());
  check_device(op, "v", v, q.device());
  scores.check_cap(op);
  const Tensor& slopes = scores.slopes;
  if (slopes.defined()) {
    check_shape(op, "slopes", slopes, {h.heads});
    check(slopes.dtype() == Dtype::f32, op, ": slopes are f32, got ", slopes.dtype());
    check_device(op, "slopes", slopes, q.device());
  }
  check(tiles.queries >= 0 && tiles.kv_heads >= 0, op, ": tiles of ", tiles.queries, " queries of ",
        tiles.kv_heads, " heads");
  return s;
}

double score_factor(const Sizes& s) { return 1.0 / std::sqrt(static_cast<double>(s.dim)); }

/// True where `tiles` leave the choice and the fused kernels, which know no soft cap, cover the
/// operands.
bool takes_fused(const tuned::AttentionOperands& in, const AttentionScores& scores,
                 const AttentionTiles& tiles, std::initializer_list<const Tensor*> more = {}) {
  return scores.cap == 0.0 && tiles.queries == 0 && tiles.kv_heads == 0 &&
         tuned::covers_attention(in, more);
}

/// Calls launch(cap) with the formula of scores.cap.
template <class Launch>
void with_cap(const AttentionScores& scores, const Launch& launch) {
  if (scores.cap > 0.0) {
    launch(SoftCap{scores.cap});
  } else {
    launch(NoCap{});
  }
}

/// What tiles add to: f32 for half types, so that a sum over tiles is rounded once.
Tensor accumulator(const Tensor& like) {
  return Tensor(like.shape(), size_of(like.dtype()) < 4 ? Dtype::f32 : like.dtype(), like.device());
}

}  // namespace

AttentionResult attention(const Tensor& q, const Tensor& k, const Tensor& v,
                          const AttentionHeads& heads, const AttentionScores& scores,
                          const AttentionTiles& tiles) {
  const Sizes s = sizes_of("attention", q, k, v, heads, scores, tiles);
  return dispatch_float(q.dtype(), "attention", [&]<class T>() {
    AttentionResult result{
        Tensor(q.shape(), q.dtype(), q.device()),
        Tensor({s.batch * s.heads, s.tokens}, dtype_of<acc_t<T>>::value, q.device())};
    if (q.count() == 0) return result;
    const OpTimer timer("attention", q.device());
    const tuned::AttentionOperands operands{q, k, v, scores.slopes, heads};
    if (takes_fused(operands, scores, tiles)) {
      tuned::attention_forward(operands, result);
      return result;
    }
    const Plan plan = plan_of(s, tiles, q);
    const Tensor p = scratch_of(plan, q);
    for_each_tile(plan, [&](const Tile& tile) {
      gemm_strided(tile.queries_of(q), Trans::no, tile.keys_of(k), Trans::yes, tile.scores_of(p),
                   tile.count, score_factor(s), 0.0);
      with_cap(scores, [&]<class Cap>(Cap cap) {
        map_rows("attention", q.device(), tile.count * tile.rows, tile.keys(),
                 TileSoftmax<T, Cap>{TileRows(tile, scores.slopes), cap, p.data<T>() + tile.scratch,
                                     result.log_sum.data<acc_t<T>>()});
      });
      gemm_strided(tile.scores_of(p), Trans::no, tile.keys_of(v), Trans::no,
                   tile.queries_of(result.o), tile.count, 1.0, 0.0);
    });
    return result;
  });
}

AttentionGradient attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                     const AttentionResult& forward, const Tensor& d_o,
                                     const AttentionHeads& heads, const AttentionScores& scores,
                                     const AttentionTiles& tiles) {
  constexpr const char* op = "attention_backward";
  const Sizes s = sizes_of(op, q, k, v, heads, scores, tiles);
  check_same(op, q, d_o);
  check_same(op, q, forward.o);
  check_shape(op, "log_sum", forward.log_sum, {s.batch * s.heads, s.tokens});
  check_device(op, "log_sum", forward.log_sum, q.device());
  const tuned::AttentionOperands operands{q, k, v, scores.slopes, heads};
  if (takes_fused(operands, scores, tiles, {&forward.o, &d_o})) {
    const OpTimer timer(op, q.device());
    const AttentionGradient gradient{Tensor(q.shape(), q.dtype(), q.device()),
                                     Tensor(k.shape(), k.dtype(), k.device()),
                                     Tensor(v.shape(), v.dtype(), v.device())};
    tuned::attention_backward(operands, forward, d_o, gradient);
    return gradient;
  }
  return dispatch_float(q.dtype(), op, [&]<class T>() {
    const Tensor dq(q.shape(), q.dtype(), q.device()), dk = accumulator(k), dv = accumulator(v);
    if (q.count() == 0) return AttentionGradient{dq, cast(dk, q.dtype()), cast(dv, q.dtype())};
    const OpTimer timer(op, q.device());
    const Plan plan = plan_of(s, tiles, q);
    const Tensor probabilities = scratch_of(plan, q), gradient = scratch_of(plan, q);
    const double factor = score_factor(s);
    for_each_tile(plan, [&](const Tile& tile) {
      const Matrices q_t = tile.queries_of(q), do_t = tile.queries_of(d_o);
      const Matrices k_t = tile.keys_of(k), p = tile.scores_of(probabilities);
      const Matrices ds = tile.scores_of(gradient);
      gemm_strided(q_t, Trans::no, k_t, Trans::yes, p, tile.count, factor, 0.0);
      gemm_strided(do_t, Trans::no, tile.keys_of(v), Trans::yes, ds, tile.count, 1.0, 0.0);
      with_cap(scores, [&]<class Cap>(Cap cap) {
        map_rows(op, q.device(), tile.count * tile.rows, tile.keys(),
                 TileSoftmaxBackward<T, Cap>{TileRows(tile, scores.slopes), cap,
                                             forward.log_sum.data<acc_t<T>>(), forward.o.data<T>(),
                                             d_o.data<T>(), probabilities.data<T>() + tile.scratch,
                                             gradient.data<T>() + tile.scratch});
      });
      const double before = tile.is_first() ? 0.0 : 1.0;
      gemm_strided(p, Trans::yes, do_t, Trans::no, tile.keys_of(dv), tile.count, 1.0, before);
      gemm_strided(ds, Trans::yes, q_t, Trans::no, tile.keys_of(dk), tile.count, factor, before);
      gemm_strided(ds, Trans::no, k_t, Trans::no, tile.queries_of(dq), tile.count, factor, 0.0);
    });
    return AttentionGradient{dq, cast(dk, q.dtype()), cast(dv, q.dtype())};
  });
}

}  // namespace cbq::kernels
