#include "cbq/stream.h"

#include <algorithm>
#include <string>
#include <utility>

#include "tensor/runtime/environment.h"

namespace cbq {

void check_segments(const Transformer& model, const Segments& segments) {
  check(!segments.empty(), "calibration: no segments; the text is empty or shorter than a segment");
  const size_t length = segments.front().size();
  check(length >= 1 && static_cast<int64_t>(length) <= model.config.context(),
        "calibration: segments of ", length, " tokens; the model takes 1 to ",
        model.config.context(), " (--segment-length)");
  for (size_t s = 0; s < segments.size(); ++s) {
    check(segments[s].size() == length, "calibration: segment ", s, " has ", segments[s].size(),
          " tokens, the first one ", length, "; all must be equally long");
    for (const int32_t id : segments[s]) {
      check(id >= 0 && id < model.config.vocab_size, "calibration: segment ", s, " holds token id ",
            id, ", outside the model's vocabulary of ", model.config.vocab_size,
            " (was the text tokenized for another model?)");
    }
  }
}

StreamPlace stream_place() {
  const std::string name = environment_value("CBQ_STREAMS");
  if (name == "device") return StreamPlace::device;
  return name == "host" ? StreamPlace::host : StreamPlace::automatic;
}

bool belongs_on_host(int64_t bytes, StreamPlace place, const DeviceMemory& memory) {
  if (place != StreamPlace::automatic) return place == StreamPlace::host;
  return memory.total > 0 && memory.free - bytes < memory.total / 3;
}

bool belongs_on_host(int64_t bytes, Device device) {
  if (device == Device::cpu()) return false;
  DeviceMemory memory = device_memory(device);
  const MemoryStatistics own = memory_statistics(device);
  memory.free += own.reserved_bytes - own.current_bytes;  // cached blocks, free to us
  return belongs_on_host(bytes, stream_place(), memory);
}

Tensor make_stream(const Shape& shape, Dtype dtype, Device device) {
  const bool host = belongs_on_host(element_count(shape) * size_of(dtype), device);
  return host ? Tensor::page_locked(shape, dtype) : Tensor(shape, dtype, device);
}

Tensor place_stream(const Tensor& stream, Device device) {
  if (stream.device() == device) return stream;
  const Tensor placed = make_stream(stream.shape(), stream.dtype(), device);
  placed.copy_from(stream);
  return placed;
}

Tensor embed_segments(Transformer& model, const Segments& segments, const Poll& poll) {
  check_segments(model, segments);
  NoGrad none;
  const int64_t count = static_cast<int64_t>(segments.size());
  const int64_t tokens = static_cast<int64_t>(segments.front().size());
  const int64_t batch = segments_per_pass(tokens);
  const Tensor all =
      make_stream({count, tokens, model.config.hidden_size}, model.dtype(), model.device());
  for (int64_t begin = 0; begin < count; begin += batch) {
    if (poll) poll();
    const int64_t end = std::min(count, begin + batch);
    std::vector<int32_t> ids;
    for (int64_t s = begin; s < end; ++s) {
      const std::vector<int32_t>& segment = segments[static_cast<size_t>(s)];
      ids.insert(ids.end(), segment.begin(), segment.end());
    }
    const Sequence sequence{end - begin, tokens};
    const Tensor id_tensor =
        Tensor::from(ids, {(end - begin) * tokens}, Dtype::i32, model.device());
    const Tensor part = all.slice(begin, end);
    part.copy_from(model.embed(id_tensor, sequence).value().reshape(part.shape()));
  }
  return all;
}

void for_each_pass(const Tensor& x, Device device, const Poll& poll,
                   const std::function<void(const Var&, const Sequence&, int64_t, int64_t)>& f) {
  NoGrad none;
  const int64_t tokens = x.size(1), hidden = x.size(2);
  const int64_t batch = segments_per_pass(tokens);
  for (int64_t begin = 0; begin < x.size(0); begin += batch) {
    if (poll) poll();
    const int64_t end = std::min(x.size(0), begin + batch);
    const Tensor in = x.slice(begin, end).to(device);
    f(Var(in.reshape({(end - begin) * tokens, hidden})), {end - begin, tokens}, begin, end);
  }
}

namespace {

/// x through what `forward` does to a batch.
template <class Forward>
Tensor run_batches(const Tensor& x, Device device, const Poll& poll, Forward&& forward) {
  const Tensor result = make_stream(x.shape(), x.dtype(), device);
  for_each_pass(x, device, poll,
                [&](const Var& rows, const Sequence& s, int64_t begin, int64_t end) {
                  const Tensor part = result.slice(begin, end);
                  part.copy_from(forward(rows, s).value().reshape(part.shape()));
                });
  return result;
}

}  // namespace

Tensor run_block(Block& block, const Tensor& x, Device device, const Poll& poll) {
  return run_batches(x, device, poll,
                     [&](const Var& h, const Sequence& s) { return block.forward(h, s); });
}

Tensor run_blocks(Transformer& model, const Window& window, const Tensor& x, const Poll& poll) {
  return run_batches(x, model.device(), poll, [&](Var h, const Sequence& s) {
    for (int64_t b = window.first; b <= window.last(); ++b) h = model.block(b).forward(h, s);
    return h;
  });
}

int64_t segments_per_pass(int64_t tokens) {
  return std::max<int64_t>(1, 1024 / std::max<int64_t>(tokens, 1));
}

int64_t evaluation_batch(int64_t batch, int64_t tokens) {
  return std::max(batch, segments_per_pass(tokens));
}

std::vector<WindowLinear> linears_of(const Transformer& model, Block& block, int64_t number) {
  std::vector<WindowLinear> all;
  const std::vector<NamedLinear> linears = block.linears();
  auto most = static_cast<int64_t>(linears.size());
  // Blocks with experts and those without have different numbers of linears: no less than both.
  if (model.config.num_experts > 0) most = 4 + 3 * model.config.num_experts;
  int64_t index = number * most;
  for (const NamedLinear& named : linears) {
    all.push_back({model.block_prefix(number) + named.name, number, index++,
                   block.is_fc2(named.name), named.linear});
  }
  return all;
}

std::vector<WindowLinear> linears_of(Transformer& model, const Window& window) {
  std::vector<WindowLinear> all;
  for (int64_t b = window.first; b <= window.last(); ++b) {
    for (WindowLinear& l : linears_of(model, model.block(b), b)) all.push_back(std::move(l));
  }
  return all;
}

FloatBlocks::FloatBlocks(Transformer& model, const Window& window) {
  for (const WindowLinear& l : linears_of(model, window)) {
    saved_.emplace_back(l.linear, std::exchange(l.linear->transform, nullptr));
  }
  for (int64_t b = window.first; b <= window.last(); ++b) {
    Block* block = &model.block(b);
    saved_attention_.emplace_back(block, std::exchange(block->attention_transform, nullptr));
    if (block->equivalent) block->equivalent->set_active(false);
  }
}

FloatBlocks::~FloatBlocks() {
  for (auto& [linear, transform] : saved_) linear->transform = transform;
  for (auto& [block, transform] : saved_attention_) {
    block->attention_transform = transform;
    if (block->equivalent) block->equivalent->set_active(true);
  }
}

namespace {

/// A weight that is a constant, and the layer's own quantizer of its input.
class FrozenTransform : public LinearTransform {
 public:
  FrozenTransform(Var weight, std::shared_ptr<LinearTransform> original)
      : weight_(std::move(weight)), original_(std::move(original)) {}
  Var weight(const Var&) override { return weight_; }
  Var input(const Var& x) override { return original_->input(x); }
  const FusedInput* fused_input() const override { return original_->fused_input(); }

 private:
  Var weight_;
  std::shared_ptr<LinearTransform> original_;
};

}  // namespace

FrozenWeights::FrozenWeights(Transformer& model, const Window& window) {
  NoGrad none;
  for (const WindowLinear& l : linears_of(model, window)) {
    std::shared_ptr<LinearTransform> transform = l.linear->transform;
    if (!transform) continue;
    saved_.emplace_back(l.linear, transform);
    const Var frozen(transform->weight(l.linear->current_weight()).value());
    l.linear->transform = std::make_shared<FrozenTransform>(frozen, transform);
  }
}

FrozenWeights::~FrozenWeights() {
  for (auto& [linear, transform] : saved_) linear->transform = transform;
}

}  // namespace cbq
