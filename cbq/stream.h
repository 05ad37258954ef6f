// Streams: the residual stream of every calibration segment at one block boundary, and how it
// moves through blocks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cbq/watch.h"
#include "cbq/window.h"
#include "nn/transformer.h"
#include "quant/quantized_linear.h"
#include "tensor/runtime/device_memory.h"

namespace cbq {

using Segments = std::vector<std::vector<int32_t>>;

/// Throws std::invalid_argument, naming the segment, unless there are segments, all of one length
/// that the model's context holds, and every id is in its vocabulary.
void check_segments(const Transformer& model, const Segments& segments);

/// Where calibration streams lie: on the model's device, or in page-locked host memory, from where
/// a step's segments are copied while the step before is running. CBQ_STREAMS=auto (the default),
/// device or host; throws std::invalid_argument for anything else.
enum class StreamPlace { automatic, device, host };
StreamPlace stream_place();
/// Whether a further stream of this size goes to the host: where it would leave less than a third
/// of the device's memory for windows. An unknown amount (total 0) leaves it on the device.
bool belongs_on_host(int64_t bytes, StreamPlace place, const DeviceMemory& memory);
/// The same for a stream of tensors on `device`, as things stand; false on the CPU.
bool belongs_on_host(int64_t bytes, Device device);
/// Uninitialized stream on the device or in host memory, as said above.
Tensor make_stream(const Shape& shape, Dtype dtype, Device device);
/// A stream that was read from a file into host memory, where make_stream puts one of its size.
Tensor place_stream(const Tensor& stream, Device device);

/// Segments per forward pass through blocks in which nothing is learned, for segments of `tokens`
/// ids: as many as make about a thousand tokens (small matrix products waste the processor), at
/// least one. The last bits of a stream depend on this number, because a product of another size
/// may sum in another order. So everything that moves a stream asks here, and the original model's
/// activations have the same bits, cached or not.
int64_t segments_per_pass(int64_t tokens);

/// Segments per forward pass of an evaluation inside a window: `batch`, which fits into memory with
/// its gradients, or more, as above.
int64_t evaluation_batch(int64_t batch, int64_t tokens);

/// Residual stream before block 0 for all segments: [segments, tokens, hidden]. `poll` is called
/// between passes, here and below.
Tensor embed_segments(Transformer& model, const Segments& segments, const Poll& poll = {});

/// Calls f(rows, sequence, begin, end) for one part of x [segments, tokens, hidden] after the
/// other, segments_per_pass at a time: `rows` [(end - begin) * tokens, hidden] are segments
/// [begin, end) on `device`. Nothing is recorded.
void for_each_pass(const Tensor& x, Device device, const Poll& poll,
                   const std::function<void(const Var& rows, const Sequence& sequence,
                                            int64_t begin, int64_t end)>& f);

/// x [segments, tokens, hidden] through one block, which lies on `device`, as it stands.
Tensor run_block(Block& block, const Tensor& x, Device device, const Poll& poll = {});

/// x [segments, tokens, hidden] through the window's blocks as they stand (with their quantizers);
/// nothing is recorded.
Tensor run_blocks(Transformer& model, const Window& window, const Tensor& x, const Poll& poll = {});

/// A linear of a window's blocks and its place in the model. (NamedLinear knows its block alone.)
struct WindowLinear {
  std::string path;  // of the checkpoint: "model.layers.0.mlp.down_proj"
  int64_t block;
  int64_t index;  // another one for every linear of the model
  bool fc2;
  Linear* linear;
  /// nullptr before the layer has quantizers, or when it stays in floating point.
  QuantizedTransform* quantizers() const { return linear->quantizers(); }
};
std::vector<WindowLinear> linears_of(Transformer& model, const Window& window);
/// The linears of `block`, named as those of block `number`.
std::vector<WindowLinear> linears_of(const Transformer& model, Block& block, int64_t number);

/// While it lives, nothing in the window's blocks is quantized, and no factor that is being learned
/// acts.
class FloatBlocks {
 public:
  FloatBlocks(Transformer& model, const Window& window);
  ~FloatBlocks();
  FloatBlocks(const FloatBlocks&) = delete;
  FloatBlocks& operator=(const FloatBlocks&) = delete;

 private:
  std::vector<std::pair<Linear*, std::shared_ptr<LinearTransform>>> saved_;
  std::vector<std::pair<Block*, std::shared_ptr<AttentionTransform>>> saved_attention_;
};

/// While it lives, the window's quantized weights are computed once instead of at every forward
/// pass: for evaluations over many batches.
class FrozenWeights {
 public:
  FrozenWeights(Transformer& model, const Window& window);
  ~FrozenWeights();
  FrozenWeights(const FrozenWeights&) = delete;
  FrozenWeights& operator=(const FrozenWeights&) = delete;

 private:
  std::vector<std::pair<Linear*, std::shared_ptr<LinearTransform>>> saved_;
};

}  // namespace cbq
