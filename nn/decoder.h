// Decoder: a model read token by token, each at the cost of one token.
#pragma once

#include <vector>

#include "nn/transformer.h"

namespace cbq {

/// Keys and values of the tokens that a block has read.
struct BlockCache {
  Tensor keys, values;  // [batch * capacity, kv_heads * head_dim]; undefined before the first token
  int64_t capacity = 0;
};

/// `batch` sequences of equal length that grow together. Logits equal those of
/// Transformer::forward over the whole sequences, up to rounding, if activations are quantized
/// token by token. A quantizer that takes its range from all tokens of a tensor sees only the new
/// tokens here.
class Decoder {
 public:
  /// Room for `capacity` tokens per sequence, taken with the first. Throws std::invalid_argument if
  /// that is more than the model's context.
  Decoder(Transformer& model, int64_t batch, int64_t capacity);

  /// Reads the next tokens of every sequence, ids i32 [batch * tokens] -> logits behind the last of
  /// them, [batch, vocabulary].
  Tensor next(const Tensor& ids) { return advance(ids, true); }
  /// The same with the logits behind each: [batch * tokens, vocabulary].
  Tensor next_all(const Tensor& ids) { return advance(ids, false); }
  /// next() of every decoder with its ids, all of one model, block after block: where blocks are
  /// loaded on demand, each is read once for all of them. The bits are those of next().
  static std::vector<Tensor> next_of_each(std::vector<Decoder>& decoders,
                                          const std::vector<Tensor>& ids);

  /// Tokens that each sequence has.
  int64_t length() const { return length_; }
  /// Bytes of keys and values per sequence of so many tokens.
  static int64_t bytes(const Transformer& model, int64_t tokens);

 private:
  Tensor advance(const Tensor& ids, bool last_only);
  /// What advance() is made of: embedding, one block, head.
  Var begin(const Tensor& ids);
  Var pass(Block& block, int64_t number, const Var& x);
  Tensor end(const Var& x, bool last_only);

  Transformer& model_;
  int64_t batch_, length_ = 0;
  Sequence reading_;  // the tokens between begin() and end()
  std::vector<BlockCache> blocks_;
};

}  // namespace cbq
