// What passes over a row give: several sums or maxima at once, values with their sum.
#pragma once

#include "tensor/dtype.h"

namespace cbq {

/// What the function of row.sum (k = 2) or row.max (k = 3) returns where several are taken in one
/// pass.
template <class A, int k>
struct MultiReduce {
  A at[k];
};

namespace detail {

template <class V>
struct Fold {  // of one value
  using Value = V;
  static constexpr int count = 1;
  CBQ_HD static V get(V v, int) { return v; }
  CBQ_HD static V result(const V (&all)[1]) { return all[0]; }
};
template <class A, int k>
struct Fold<MultiReduce<A, k>> {
  using Value = A;
  static constexpr int count = k;
  CBQ_HD static A get(const MultiReduce<A, k>& v, int i) { return v.at[i]; }
  CBQ_HD static MultiReduce<A, k> result(const A (&all)[k]) {
    MultiReduce<A, k> values;
    for (int i = 0; i < k; ++i) values.at[i] = all[i];
    return values;
  }
};

}  // namespace detail

/// What row.keep_sum returns: f(x_j) as operand of further passes, and their sum.
template <class Elements, class A>
struct Summed {
  Elements values;
  A sum;
};

}  // namespace cbq
