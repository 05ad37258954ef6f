// Ops that move data without arithmetic: parts, transposes, embedding rows.
#include "kernels/launch/check_device.h"
#include "kernels/launch/launch.h"
#include "kernels/launch/rows.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

// Row r of [rows, groups, parts, dim] <-> row r of [rows, groups, dim], one part.
template <class T>
struct MovePart {
  const T* x;
  T* y;
  int64_t groups, parts, part, dim;
  bool take;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t fused = (r * groups + g) * parts * dim, plain = (r * groups + g) * dim;
      if (take) {
        const T* in = x + fused + part * dim;
        for (int64_t j = row.lane(); j < dim; j += row.lanes()) y[plain + j] = in[j];
        continue;
      }
      for (int64_t j = row.lane(); j < parts * dim; j += row.lanes()) {
        const bool here = j / dim == part;
        y[fused + j] = here ? x[plain + j % dim] : T(acc_t<T>(0));
      }
    }
  }
};

// Row r of x [rows, width of x] -> row r of y: y's column j is x's column j + first, or 0 where x
// has none.
template <class T>
struct MoveColumns {
  const T* x;
  T* y;
  int64_t from_width, to_width, first;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    for (int64_t j = row.lane(); j < to_width; j += row.lanes()) {
      const int64_t from = j + first;
      const bool here = from >= 0 && from < from_width;
      y[r * to_width + j] = here ? x[r * from_width + from] : T(acc_t<T>(0));
    }
  }
};

// A square tile per call: what is read across stays in the cache until its neighbours are read.
constexpr int64_t tile_side = 32;

template <class T>
struct Transpose {
  const T* x;
  T* y;
  int64_t rows, cols;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t tile) const {
    const int64_t tiles_across = (cols + tile_side - 1) / tile_side;
    const int64_t r0 = tile / tiles_across * tile_side, c0 = tile % tiles_across * tile_side;
    const int64_t r1 = math::min(r0 + tile_side, rows), c1 = math::min(c0 + tile_side, cols);
    // Workers stand side by side along r, where they write; beyond a tile's side they take further
    // c.
    const int64_t beside = math::min(row.lanes(), tile_side);
    for (int64_t c = c0 + row.lane() / beside; c < c1; c += row.lanes() / beside) {
      for (int64_t r = r0 + row.lane() % beside; r < r1; r += beside) {
        y[c * rows + r] = x[r * cols + c];
      }
    }
  }
};

template <class T>
struct Embedding {
  const int32_t* ids;
  const T* table;
  T* y;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const T* in = table + ids[r] * n;
    for (int64_t j = row.lane(); j < n; j += row.lanes()) y[r * n + j] = in[j];
  }
};

// One row of the table per call: it looks for its id among the tokens. No atomics, and the order of
// addition is the order of the tokens.
template <class T>
struct EmbeddingBackward {
  const int32_t* ids;
  const T* dy;
  acc_t<T>* dtable;  // a frequent token is added thousands of times: too often for bf16
  int64_t tokens, n;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t id) const {
    for (int64_t j = row.lane(); j < n; j += row.lanes()) dtable[id * n + j] = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      if (ids[t] != id) continue;
      for (int64_t j = row.lane(); j < n; j += row.lanes()) {
        dtable[id * n + j] += acc_t<T>(dy[t * n + j]);
      }
    }
  }
};

Tensor move_part(const char* op, const Tensor& x, int64_t parts, int64_t part, int64_t dim,
                 bool take) {
  const int64_t unit = take ? parts * dim : dim;
  check(x.rank() == 2 && dim > 0 && part >= 0 && part < parts && x.size(1) % unit == 0, op, ": ",
        x.shape(), " for part ", part, " of ", parts, ", size ", dim);
  const int64_t groups = x.size(1) / unit;
  Tensor y({x.size(0), groups * (take ? dim : parts * dim)}, x.dtype(), x.device());
  dispatch_float(x.dtype(), op, [&]<class T>() {
    map_rows(op, x.device(), x.size(0), groups * parts * dim,
             MovePart<T>{x.data<T>(), y.data<T>(), groups, parts, part, dim, take});
  });
  return y;
}

Tensor move_columns(const char* op, const Tensor& x, int64_t first, int64_t width) {
  Tensor y({x.size(0), width}, x.dtype(), x.device());
  dispatch_float(x.dtype(), op, [&]<class T>() {
    map_rows(op, x.device(), x.size(0), width,
             MoveColumns<T>{x.data<T>(), y.data<T>(), x.size(1), width, first});
  });
  return y;
}
}  // namespace

Tensor take_part(const Tensor& x, int64_t parts, int64_t part, int64_t dim) {
  return move_part("take_part", x, parts, part, dim, true);
}
Tensor put_part(const Tensor& y, int64_t parts, int64_t part, int64_t dim) {
  return move_part("put_part", y, parts, part, dim, false);
}

Tensor take_columns(const Tensor& x, int64_t first, int64_t count) {
  check(x.rank() == 2 && first >= 0 && count > 0 && first + count <= x.size(1),
        "take_columns: ", count, " columns from column ", first, " of ", x.shape());
  return move_columns("take_columns", x, first, count);
}
Tensor put_columns(const Tensor& y, int64_t first, int64_t width) {
  check(y.rank() == 2 && first >= 0 && first + y.size(1) <= width, "put_columns: ", y.shape(),
        " at column ", first, " of ", width);
  return move_columns("put_columns", y, -first, width);
}

Tensor transpose(const Tensor& x) {
  check(x.rank() == 2, "transpose: expected a matrix, got ", x.shape());
  Tensor y({x.size(1), x.size(0)}, x.dtype(), x.device());
  dispatch_float(x.dtype(), "transpose", [&]<class T>() {
    const int64_t down = (x.size(0) + tile_side - 1) / tile_side;
    const int64_t across = (x.size(1) + tile_side - 1) / tile_side;
    map_rows("transpose", x.device(), down * across, tile_side * tile_side,
             Transpose<T>{x.data<T>(), y.data<T>(), x.size(0), x.size(1)});
  });
  return y;
}

namespace {
void check_ids(const char* op, const Tensor& ids, int64_t vocabulary) {
  check(ids.dtype() == Dtype::i32 && ids.rank() == 1, op, ": expected i32 ids [n], got ",
        ids.dtype(), ids.shape());
  if (!is_host(ids.device())) return;  // the model checks ids before they travel
  const int32_t* id = ids.data<int32_t>();
  for (int64_t t = 0; t < ids.count(); ++t) {
    check(id[t] >= 0 && id[t] < vocabulary, op, ": token id ", id[t], " at position ", t,
          " is outside the vocabulary of ", vocabulary);
  }
}
}  // namespace

Tensor embedding(const Tensor& ids, const Tensor& table) {
  check(table.rank() == 2, "embedding: expected a table [vocabulary, width], got ", table.shape());
  check_ids("embedding", ids, table.size(0));
  check_device("embedding", "ids", ids, table.device());
  const int64_t n = table.size(1);
  Tensor y({ids.size(0), n}, table.dtype(), table.device());
  dispatch_float(table.dtype(), "embedding", [&]<class T>() {
    map_rows("embedding", table.device(), ids.size(0), n,
             Embedding<T>{ids.data<int32_t>(), table.data<T>(), y.data<T>(), n});
  });
  return y;
}

Tensor embedding_backward(const Tensor& ids, const Tensor& dy, int64_t vocabulary) {
  check(dy.rank() == 2 && dy.size(0) == ids.count(), "embedding_backward: ids ", ids.shape(),
        " do not fit gradient ", dy.shape());
  check(vocabulary >= 0, "embedding_backward: vocabulary of ", vocabulary);
  check_ids("embedding_backward", ids, vocabulary);
  check_device("embedding_backward", "ids", ids, dy.device());
  Tensor dtable;
  dispatch_float(dy.dtype(), "embedding_backward", [&]<class T>() {
    dtable = Tensor({vocabulary, dy.size(1)}, dtype_of<acc_t<T>>::value, dy.device());
    map_rows("embedding_backward", dy.device(), vocabulary, ids.count() + dy.size(1),
             EmbeddingBackward<T>{ids.data<int32_t>(), dy.data<T>(), dtable.data<acc_t<T>>(),
                                  ids.count(), dy.size(1)});
  });
  return cast(dtable, dy.dtype());
}

Tensor gather_rows(const Tensor& x, const std::vector<int64_t>& indices) {
  check(x.rank() >= 1, "gather_rows: expected at least one axis");
  Shape shape = x.shape();
  shape[0] = static_cast<int64_t>(indices.size());
  Tensor y(shape, x.dtype(), x.device());
  for (size_t r = 0; r < indices.size(); ++r) {
    check(indices[r] >= 0 && indices[r] < x.size(0), "gather_rows: index ", indices[r],
          " of a tensor of ", x.size(0), " rows");
    const auto row = static_cast<int64_t>(r);
    y.slice(row, row + 1).copy_from(x.slice(indices[r], indices[r] + 1));
  }
  return y;
}

}  // namespace cbq::kernels
