// GPTQ and GPTAQ on a model as naive loops that share nothing with quant/solvers/ and its driver:
// the reference of the solvers' tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cbq/stream.h"
#include "nn/transformer.h"

namespace cbq::naive {

using Matrix = std::vector<std::vector<double>>;

/// A: the type in which grids are computed, float for a model in f32, double for one in f64.
template <class A>
struct NaiveGrid {
  A scale, zero_point;
};

/// min/max, asymmetric, 0 inside.
template <class A>
NaiveGrid<A> naive_grid(const std::vector<double>& values, int bits) {
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  const A low = std::min(static_cast<A>(*least), A(0));
  const A high = std::max(static_cast<A>(*most), A(0));
  const auto largest = static_cast<A>((1 << bits) - 1);
  const A scale = (high - low) / largest;
  return {scale, std::clamp(std::nearbyint(-low / scale), A(0), largest)};
}

template <class A>
int naive_code(double value, const NaiveGrid<A>& grid, int bits) {
  const A code = std::nearbyint(static_cast<A>(value) / grid.scale) + grid.zero_point;
  return static_cast<int>(std::clamp(code, A(0), static_cast<A>((1 << bits) - 1)));
}

template <class A>
double naive_value(int code, const NaiveGrid<A>& grid) {
  return static_cast<double>(grid.scale * (static_cast<A>(code) - grid.zero_point));
}

/// Gauss and Jordan.
inline Matrix inverse_of(Matrix a) {
  const size_t n = a.size();
  Matrix b(n, std::vector<double>(n, 0.0));
  for (size_t i = 0; i < n; ++i) b[i][i] = 1.0;
  for (size_t p = 0; p < n; ++p) {
    const double pivot = a[p][p];
    for (size_t c = 0; c < n; ++c) {
      a[p][c] /= pivot;
      b[p][c] /= pivot;
    }
    for (size_t r = 0; r < n; ++r) {
      const double factor = a[r][p];
      for (size_t c = 0; c < n && r != p; ++c) {
        a[r][c] -= factor * a[p][c];
        b[r][c] -= factor * b[p][c];
      }
    }
  }
  return b;
}

/// (X~ - X)^T X, of which `alpha` counts.
struct NaiveCross {
  Matrix d;
  double alpha;
};

/// Optimal brain surgery, one column after the other, with the inverse of the Hessian of the
/// columns that remain (Frantar et al. 2023, equations 2 and 3): no Cholesky factor, no blocks.
/// With `cross` the columns that remain also take up, by least squares, what the inputs of each
/// column differ from the original ones (Li et al. 2025). `w` becomes the quantized weight; returns
/// the codes.
template <class A>
std::vector<int> naive_gptq(Matrix& w, Matrix hessian, int bits,
                            const NaiveCross* cross = nullptr) {
  const size_t in = hessian.size();
  double mean = 0.0;
  for (size_t i = 0; i < in; ++i) mean += hessian[i][i] / static_cast<double>(in);
  for (size_t i = 0; i < in; ++i) hessian[i][i] += 0.01 * mean;
  Matrix inverse = inverse_of(hessian);
  std::vector<NaiveGrid<A>> grids;
  for (const auto& row : w) grids.push_back(naive_grid<A>(row, bits));
  std::vector<int> codes(w.size() * in);
  for (size_t j = 0; j < in; ++j) {
    std::vector<double> reached;
    for (size_t i = 0; i < w.size(); ++i) {
      reached.push_back(w[i][j]);
      const int code = naive_code(w[i][j], grids[i], bits);
      const double error = (w[i][j] - naive_value(code, grids[i])) / inverse[j][j];
      for (size_t k = j; k < in; ++k) w[i][k] -= error * inverse[j][k];
      w[i][j] = naive_value(code, grids[i]);
      codes[i * in + j] = code;
    }
    const Matrix before = inverse;  // without column j
    for (size_t r = 0; r < in; ++r) {
      for (size_t c = 0; c < in; ++c) inverse[r][c] -= before[r][j] * before[j][c] / before[j][j];
    }
    for (size_t k = j + 1; k < in && cross != nullptr; ++k) {
      double p = 0.0;
      for (size_t l = j + 1; l < in; ++l) p += cross->alpha * cross->d[j][l] * inverse[l][k];
      for (size_t i = 0; i < w.size(); ++i) w[i][k] += reached[i] * p;
    }
  }
  return codes;
}

/// Quantizes a layer's input per token where asked for, and keeps it.
template <class A>
class NaiveInput : public LinearTransform {
 public:
  explicit NaiveInput(int bits) : bits_(bits) {}
  Var weight(const Var& w) override { return w; }
  Var input(const Var& x) override {
    const Tensor y = x.value().clone();
    const int64_t in = y.size(1);
    for (int64_t t = 0; t < y.size(0); ++t) {
      A* values = y.data<A>() + t * in;
      if (bits_ < float_bits) {
        const NaiveGrid<A> grid = naive_grid<A>({values, values + in}, bits_);
        for (int64_t i = 0; i < in; ++i) {
          values[i] = static_cast<A>(naive_value(naive_code(values[i], grid, bits_), grid));
        }
      }
      if (keeps) rows.emplace_back(values, values + in);
    }
    return Var(y);
  }
  bool keeps = false;
  Matrix rows;

 private:
  int bits_;
};

inline Matrix rows_of(const Tensor& t) {
  Matrix rows;
  const auto values = t.to_vector<double>();
  for (auto at = values.begin(); at != values.end(); at += t.size(1)) {
    rows.emplace_back(at, at + t.size(1));
  }
  return rows;
}

/// A^T B.
inline Matrix product_of(const Matrix& a, const Matrix& b) {
  Matrix sum(a.front().size(), std::vector<double>(b.front().size(), 0.0));
  for (size_t t = 0; t < a.size(); ++t) {
    for (size_t i = 0; i < a[t].size(); ++i) {
      for (size_t j = 0; j < b[t].size(); ++j) sum[i][j] += a[t][i] * b[t][j];
    }
  }
  return sum;
}

inline Matrix difference_of(const Matrix& a, const Matrix& b) {
  Matrix difference = a;
  for (size_t t = 0; t < a.size(); ++t) {
    for (size_t i = 0; i < a[t].size(); ++i) difference[t][i] -= b[t][i];
  }
  return difference;
}

using Groups = std::vector<std::vector<std::string>>;
inline const Groups llama_groups = {{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
                                    {"self_attn.o_proj"},
                                    {"mlp.gate_proj", "mlp.up_proj"},
                                    {"mlp.down_proj"}};
inline const Groups opt_groups = {{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
                                  {"self_attn.out_proj"},
                                  {"fc1"},
                                  {"fc2"}};
inline const Groups bloom_groups = {{"self_attention.query_key_value"},
                                    {"self_attention.dense"},
                                    {"mlp.dense_h_to_4h"},
                                    {"mlp.dense_4h_to_h"}};

using Codes = std::map<std::string, std::vector<int>>;

/// The inputs of one linear, kept while the segments pass the whole model one by one.
template <class A>
Matrix kept_inputs(Transformer& model, const Segments& segments, NaiveInput<A>& input) {
  input.keeps = true;
  for (const auto& ids : segments) {
    const auto tokens = static_cast<int64_t>(ids.size());
    model.forward(Tensor::from(ids, {tokens}), Sequence{1, tokens});
  }
  input.keeps = false;
  return input.rows;
}

/// What the linear `path` reads in a model in which nothing is quantized.
template <class A>
Matrix original_inputs(Transformer& model, const Segments& segments, const std::string& path) {
  for (const WindowLinear& l : linears_of(model, {0, model.block_count()})) {
    if (l.path != path) continue;
    const auto input = std::make_shared<NaiveInput<A>>(float_bits);
    l.linear->transform = input;
    const Matrix rows = kept_inputs(model, segments, *input);
    l.linear->transform = nullptr;
    return rows;
  }
  return {};
}

/// Quantizes `model` group by group; the whole model is run for every group, one segment at a time.
/// With `original`, the same model, by GPTAQ with this alpha.
template <class A>
Codes naive_path(Transformer& model, const Segments& segments, const Groups& groups, int wbits,
                 int abits, Transformer* original = nullptr, double alpha = 0.0) {
  NoGrad none;
  Codes codes;
  std::map<std::string, std::shared_ptr<NaiveInput<A>>> inputs;
  std::map<std::string, Linear*> linears;
  for (const WindowLinear& l : linears_of(model, {0, model.block_count()})) {
    linears[l.path] = l.linear;
    l.linear->transform = inputs[l.path] = std::make_shared<NaiveInput<A>>(abits);
  }
  for (int64_t b = 0; b < model.block_count(); ++b) {
    for (const std::vector<std::string>& group : groups) {
      const std::string first = model.block_prefix(b) + group.front();
      const Matrix x = kept_inputs(model, segments, *inputs.at(first));
      const Matrix hessian = product_of(x, x);
      NaiveCross cross{{}, alpha};
      if (original != nullptr) {
        cross.d = product_of(difference_of(original_inputs<A>(*original, segments, first), x), x);
      }
      for (const std::string& name : group) {
        const std::string path = model.block_prefix(b) + name;
        Var& weight = linears.at(path)->weight;
        Matrix w = rows_of(weight.value());
        codes[path] = naive_gptq<A>(w, hessian, wbits, original != nullptr ? &cross : nullptr);
        std::vector<double> flat;
        for (const auto& row : w) flat.insert(flat.end(), row.begin(), row.end());
        weight.set_value(Tensor::from(flat, weight.shape(), dtype_of<A>::value));
      }
    }
  }
  return codes;
}

}  // namespace cbq::naive
