// What passes over a row give: several sums or maxima at once, values with their sum or maximum.
#pragma once

#include "tensor/dtype.h"

namespace cbq {

/// What the function of row.sum (k = 2) or row.max (k = 2, 3) returns where several are taken in
/// one pass.
template <class A, int k>
struct MultiReduce {
  A at[k];
};

/// What the function of row.put (k = 1) or row.put2 returns: what is stored in k places; and, for
/// put_sum and put_sum2, the term of a sum.
template <class A, int k>
struct Stored {
  A value[k];
  A term = 0;
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
/// What row.keep_max returns: f(x_j, ...) likewise, and the maxima of what was asked of them.
template <class Elements, class A>
struct Ranged {
  Elements values;
  MultiReduce<A, 2> largest;
};

}  // namespace cbq
