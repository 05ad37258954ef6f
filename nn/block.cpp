#include "nn/block.h"

#include "autograd/functions.h"
#include "kernels/packed_attention.h"
#include "nn/rope.h"

namespace cbq {

Var Block::rotate(const Var& x, const Rope& rope, const Sequence& s, int64_t head_dim) {
  if (s.packed == nullptr) {
    const RopeTables tables = rope.tables(s.tokens);
    return ag::rope(x, tables.cosine, tables.sine, s.tokens, head_dim);
  }
  // A table with a row per row of x: position r of it is row r's.
  const RopeTables tables = rope.tables(*s.packed);
  return ag::rope(x, tables.cosine, tables.sine, s.packed->rows(), head_dim);
}

Var Block::attend(const Var& q, const Var& k, const Var& v, const Sequence& s, int64_t heads,
                  int64_t kv_heads, const Tensor& slopes) const {
  check(heads > 0 && q.size(1) % heads == 0, "attend: q ", q.shape(), " for ", heads, " heads");
  const int64_t head_dim = q.size(1) / heads;
  const auto operand = [&](const Var& x) {
    return attention_transform ? attention_transform->operand(x, head_dim) : x;
  };
  const Var a = operand(q), b = operand(k), c = operand(v);
  if (s.packed == nullptr) return ag::attention(a, b, c, s.batch, heads, kv_heads, slopes);
  check(!should_record({&a, &b, &c}), "attend: packed rows have no backward pass");
  return Var(kernels::packed_attention(a.value(), b.value(), c.value(), *s.packed, heads, kv_heads,
                                       slopes));
}

}  // namespace cbq
