#include "nn/block.h"

#include <map>
#include <utility>

#include "autograd/functions.h"
#include "kernels/attention/cached_attention.h"
#include "kernels/attention/varlen_attention.h"
#include "kernels/ops.h"
#include "nn/decoder.h"
#include "nn/rope.h"

namespace cbq {
namespace {

Tensor attend_cached(const Tensor& q, const Tensor& k, const Tensor& v, const Sequence& s,
                     int64_t heads, int64_t kv_heads, const kernels::AttentionScores& scores) {
  BlockCache& cache = *s.cache;
  if (!cache.keys.defined()) {
    const Shape shape = {s.batch * cache.capacity, k.size(1)};
    cache.keys = Tensor(shape, k.dtype(), k.device());
    cache.values = Tensor(shape, v.dtype(), v.device());
  }
  kernels::append_rows(cache.keys, k, s.batch, s.past);
  kernels::append_rows(cache.values, v, s.batch, s.past);
  if (s.past == 0 && s.tokens > 1) {  // nothing lies before them: large products are faster
    return kernels::attention(q, k, v, {s.batch, heads, kv_heads}, scores).o;
  }
  return kernels::cached_attention(q, cache.keys, cache.values, s.batch, s.past, heads, kv_heads,
                                   scores);
}

}  // namespace

const char* name_of(AttentionOperand operand) {
  switch (operand) {
    case AttentionOperand::queries:
      return "queries";
    case AttentionOperand::keys:
      return "keys";
    default:
      return "values";
  }
}

std::string attention_path(const std::string& block_prefix) { return block_prefix + "attention"; }

std::string attention_path(const std::string& block_prefix, AttentionOperand operand) {
  return attention_path(block_prefix) + "." + name_of(operand);
}

Var Block::rotate(const Var& x, const Rope& rope, const Sequence& s, int64_t head_dim) {
  if (s.varlen == nullptr) {
    // Where frequencies depend on the length (dynamic, longrope), cached keys keep those of the
    // length at which they were made, as in transformers.
    const int64_t end = s.past + s.tokens;
    const RopeTables tables = rope.tables(end);
    return ag::rope(x, tables.cosine.slice(s.past, tables.cosine.size(0)),
                    tables.sine.slice(s.past, tables.sine.size(0)), s.tokens, head_dim);
  }
  // A table with a row per row of x: position r of it is row r's.
  const RopeTables tables = rope.tables(*s.varlen);
  return ag::rope(x, tables.cosine, tables.sine, s.varlen->rows(), head_dim);
}

Var Block::attend(const Var& q, const Var& k, const Var& v, const Sequence& s, int64_t heads,
                  int64_t kv_heads, const kernels::AttentionScores& scores) const {
  check(heads > 0 && q.size(1) % heads == 0, "attend: q ", q.shape(), " for ", heads, " heads");
  const int64_t head_dim = q.size(1) / heads;
  const auto operand = [&](const Var& x, AttentionOperand which) {
    return attention_transform ? attention_transform->operand(x, head_dim, which) : x;
  };
  const auto online = [&](const Var& x) {
    if (!attention_online) return x;
    return ag::reshape(attention_online->apply(ag::reshape(x, {-1, head_dim})), x.shape());
  };
  const Var a = operand(online(q), AttentionOperand::queries);
  const Var b = operand(online(k), AttentionOperand::keys);
  const Var c = operand(v, AttentionOperand::values);
  if (s.cache != nullptr) {
    check(!should_record({&a, &b, &c}), "attend: cached keys have no backward pass");
    return Var(attend_cached(a.value(), b.value(), c.value(), s, heads, kv_heads, scores));
  }
  if (s.varlen == nullptr) return ag::attention(a, b, c, s.batch, heads, kv_heads, scores);
  check(!should_record({&a, &b, &c}), "attend: varlen rows have no backward pass");
  return Var(kernels::varlen_attention(a.value(), b.value(), c.value(), *s.varlen, heads, kv_heads,
                                       scores));
}

std::vector<std::vector<NamedLinear>> linears_by_input(Block& block) {
  std::map<const Linear*, size_t> site_of;  // a linear that no site feeds reads for itself
  const std::vector<ScalingSite> sites = block.scaling_sites();
  for (size_t i = 0; i < sites.size(); ++i) {
    for (const Linear* reader : sites[i].consumers) site_of.emplace(reader, i);
  }
  std::vector<std::vector<NamedLinear>> groups;
  std::map<std::pair<size_t, int64_t>, size_t> group_of;  // by site and expert
  for (const NamedLinear& l : block.linears()) {
    const auto site = site_of.find(l.linear);
    if (site == site_of.end()) {
      groups.push_back({l});
      continue;
    }
    const auto [group, is_new] =
        group_of.emplace(std::pair(site->second, l.linear->expert), groups.size());
    if (is_new) groups.emplace_back();
    groups[group->second].push_back(l);
  }
  return groups;
}

}  // namespace cbq
