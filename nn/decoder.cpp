#include "nn/decoder.h"

#include "kernels/ops.h"
#include "nn/block_walk.h"

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

Var Decoder::begin(const Tensor& ids) {
  check(ids.count() > 0 && ids.count() % batch_ == 0, "Decoder: ", ids.count(), " ids for ", batch_,
        " sequences");
  reading_ = {batch_, ids.count() / batch_};
  reading_.past = length_;
  return model_.embed(ids, reading_);
}

Var Decoder::pass(Block& block, int64_t number, const Var& x) {
  reading_.cache = &blocks_[static_cast<size_t>(number)];
  return block.forward(x, reading_);
}

Tensor Decoder::end(const Var& x, bool last_only) {
  length_ += reading_.tokens;
  if (!last_only || reading_.tokens == 1) return model_.head(x).value();
  std::vector<int64_t> last;
  for (int64_t s = 1; s <= batch_; ++s) last.push_back(s * reading_.tokens - 1);
  return model_.head(Var(kernels::gather_rows(x.value(), last))).value();
}

Tensor Decoder::advance(const Tensor& ids, bool last_only) {
  NoGrad none;
  Var x = begin(ids);
  for_each_block(model_, [&](Block& block, int64_t b) { x = pass(block, b, x); });
  return end(x, last_only);
}

std::vector<Tensor> Decoder::next_of_each(std::vector<Decoder>& decoders,
                                          const std::vector<Tensor>& ids) {
  check(!decoders.empty() && ids.size() == decoders.size(), "Decoder: ids for ", ids.size(), " of ",
        decoders.size(), " decoders");
  NoGrad none;
  std::vector<Var> x;
  for (size_t i = 0; i < decoders.size(); ++i) x.push_back(decoders[i].begin(ids[i]));
  for_each_block(decoders.front().model_, [&](Block& block, int64_t b) {
    for (size_t i = 0; i < decoders.size(); ++i) x[i] = decoders[i].pass(block, b, x[i]);
  });
  std::vector<Tensor> logits;
  for (size_t i = 0; i < decoders.size(); ++i) logits.push_back(decoders[i].end(x[i], true));
  return logits;
}

}  // namespace cbq
