// Attention of one query by its definition, for kernels that give a row of threads to each query
// and head.
#pragma once

#include "kernels/attention/attention_scores.h"
#include "kernels/formulas/activation.h"
#include "kernels/formulas/softmax.h"
#include "kernels/launch/launch.h"

namespace cbq::kernels {

/// One head of one query, which sees `count` positions.
template <class T>
struct RowAttention {
  using A = acc_t<T>;
  const T* query;  // [dim]
  T* result;       // [dim]
  A* weights;      // [count]: what is kept between the two passes
  int64_t count, dim;
  A factor;
  const float* slope;  // ALiBi: the head's, or null
  double cap;          // c, or 0: none

  /// s_j = c tanh(factor q . k_j / c) + slope j, with the dot product given; slope j is rounded as
  /// ag::attention rounds it.
  CBQ_HD A score(A dot, int64_t j) const {
    dot *= factor;
    if (cap > 0.0) dot = formulas::SoftCap{cap}.value(dot);
    return slope != nullptr ? dot + A(T(A(*slope) * A(j))) : dot;
  }

  /// y = sum_j e_j v_j / sum_j e_j,  e_j = exp(s_j - max s). `key` and `value` give the address of
  /// position j's vector.
  template <class Row, class Key, class Value>
  CBQ_HD void attend(Row& row, const Key& key, const Value& value) const {
    A largest = -INFINITY;
    for (int64_t j = row.lane(); j < count; j += row.lanes()) {
      const T* k = key(j);
      A dot = 0;
      for (int64_t c = 0; c < dim; ++c) dot += A(query[c]) * A(k[c]);
      weights[j] = score(dot, j);
      largest = math::max(largest, weights[j]);
    }
    largest = row.max(largest);
    A total = 0;
    for (int64_t j = row.lane(); j < count; j += row.lanes()) {
      weights[j] = formulas::Softmax<formulas::PortableMath>::power(weights[j], largest);
      total += weights[j];
    }
    total = row.sum(total);
    row.sync();  // from here on workers read each other's weights
    for (int64_t c = row.lane(); c < dim; c += row.lanes()) {
      A o = 0;
      for (int64_t j = 0; j < count; ++j) o += weights[j] * A(value(j)[c]);
      result[c] = T(o / total);
    }
  }
};

}  // namespace cbq::kernels
