#include "nn/decoder.h"

#include "kernels/ops.h"

namespace cbq {

Decoder::Decoder(Transformer& model, int64_t batch, int64_t capacity)
    : model_(model),
      batch_(batch),
      blocks_(static_cast<size_t>(model.block_count()), BlockCache{{}, {}, capacity}) {
  check(batch >= 1, "Decoder: ", batch, " sequences");
  check(capacity >= 1 && capacity <= model.config.context(), "Decoder: room for ", capacity,
        " tokens; expected 1 to the model's context of ", model.config.context());
}

int64_t Decoder::bytes(const Transformer& model, int64_t tokens) {
  const ModelConfig& c = model.config;
  return 2 * c.num_layers * tokens * c.num_kv_heads * c.head_dim * size_of(model.dtype());
}

Tensor Decoder::advance(const Tensor& ids, bool last_only) {
  check(ids.count() > 0 && ids.count() % batch_ == 0, "Decoder: ", ids.count(), " ids for ", batch_,
        " sequences");
  NoGrad none;
  Sequence sequence{batch_, ids.count() / batch_};
  sequence.past = length_;
  Var x = model_.embed(ids, sequence);
  for (int64_t b = 0; b < model_.block_count(); ++b) {
    const LoadedBlock loaded(model_, b);
    sequence.cache = &blocks_[static_cast<size_t>(b)];
    x = model_.block(b).forward(x, sequence);
  }
  length_ += sequence.tokens;
  if (last_only && sequence.tokens > 1) {
    std::vector<int64_t> last;
    for (int64_t s = 1; s <= batch_; ++s) last.push_back(s * sequence.tokens - 1);
    x = Var(kernels::gather_rows(x.value(), last));
  }
  return model_.head(x).value();
}

}  // namespace cbq
