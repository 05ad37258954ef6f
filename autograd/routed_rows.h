// Rows that go different ways and come together again: what the experts of a model read and write
// (nn/experts.h).
#pragma once

#include <vector>

#include "autograd/var.h"

namespace cbq::ag {

/// Part p is the rows ids[p] of x: x [rows, n], ids[p] i32 [m_p] -> [m_p, n]. A row may be in any
/// number of parts; its gradient is the sum of theirs, in the order of the parts.
/// Throws std::invalid_argument for ids that are no rows of x.
std::vector<Var> split_rows(const Var& x, const std::vector<Tensor>& ids);

/// The transpose: y_t = sum of the rows r of parts p with ids[p]_r = t, in the order of the parts
/// and their rows, 0 where there are none. parts[p] [m_p, n], ids[p] i32 [m_p] -> [rows, n]. The
/// sum is rounded to the parts' dtype once. Throws std::invalid_argument without parts, and for
/// parts and ids that do not fit each other.
Var merge_rows(const std::vector<Var>& parts, const std::vector<Tensor>& ids, int64_t rows);

}  // namespace cbq::ag
