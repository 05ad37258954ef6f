#include "nn/block_walk.h"

#include <optional>

#include "tensor/runtime/device_memory.h"

namespace cbq {

void for_each_block(Transformer& model, const BlockVisitor& visit,
                    const std::function<void()>& poll) {
  for (int64_t i = 0; i < model.block_count(); ++i) {
    if (poll) poll();
    const LoadedBlock loaded(model, i);
    visit(model.block(i), i);
  }
}

void for_each_opened_block(const Transformer& model, int64_t begin, int64_t end,
                           const BlockVisitor& visit) {
  for (int64_t i = begin; i < end; ++i) visit(*model.fetch_block(i), i);
}

void load_all_blocks(Transformer& model, const std::function<void(int64_t)>& poll) {
  for (int64_t i = 0; i < model.block_count(); ++i) {
    poll(i);
    model.load_block(i);
  }
  model.load_all_blocks();
}

namespace {

/// Where residual streams wait between two blocks, and how many bytes of them.
struct WaitingRoom {
  Device place;
  int64_t bytes = 0;
};

int64_t stream_bytes(const Transformer& model, const TokenBatch& batch) {
  return static_cast<int64_t>(batch.ids.size()) * model.config.hidden_size * size_of(model.dtype());
}

WaitingRoom waiting_room(const Transformer& model, const std::vector<TokenBatch>& batches,
                         int64_t wanted) {
  const Device device = model.device();
  if (wanted > 0 || !model.on_demand()) return {device, wanted};
  int64_t all = 0;
  for (const TokenBatch& batch : batches) all += stream_bytes(model, batch);
  const int64_t here = device_memory(device).free / 4;
  if (all <= here || device == Device::cpu()) return {device, here};
  const int64_t on_host = device_memory(Device::cpu()).free / 4;
  return on_host > here ? WaitingRoom{Device::cpu(), on_host} : WaitingRoom{device, here};
}

/// Which batches, from `first` on, pass the blocks together: every batch by itself where all blocks
/// are in memory; as many as may wait where a block has to be read for them.
size_t end_of_round(const Transformer& model, const std::vector<TokenBatch>& batches, size_t first,
                    int64_t waiting_bytes) {
  size_t end = first + 1;
  if (!model.on_demand()) return end;
  int64_t bytes = stream_bytes(model, batches[first]);
  while (end < batches.size() && (bytes += stream_bytes(model, batches[end])) <= waiting_bytes) {
    ++end;
  }
  return end;
}

/// A batch on its way.
class Walker {
 public:
  Walker(Transformer& model, const TokenBatch& batch, Device place)
      : sequence_(batch.sequence), place_(place) {
    if (!batch.groups.empty()) {
      varlen_ = std::make_unique<VarlenRows>(batch.groups, model.device());
      sequence_.varlen = varlen_.get();
    }
    const auto rows = static_cast<int64_t>(batch.ids.size());
    const Tensor ids = Tensor::from(batch.ids, {rows}, Dtype::i32, model.device());
    hidden_ = model.embed(ids, sequence_).value().to(place_);
  }

  void pass(Block& block, Device device) {
    hidden_ = block.forward(Var(hidden_.to(device)), sequence_).value().to(place_);
  }
  const Tensor& hidden() const { return hidden_; }

 private:
  Sequence sequence_;
  std::unique_ptr<VarlenRows> varlen_;
  Device place_;
  Tensor hidden_;
};

}  // namespace

void walk_batches(Transformer& model, const std::vector<TokenBatch>& batches,
                  const BatchVisitor& arrived, const BatchWalkOptions& options) {
  NoGrad none;
  const Device device = model.device();
  const WaitingRoom room = waiting_room(model, batches, options.waiting_bytes);
  for (size_t first = 0, end = 0; first < batches.size(); first = end) {
    end = end_of_round(model, batches, first, room.bytes);
    std::vector<std::optional<Walker>> walkers(end - first);
    for (size_t i = first; i < end; ++i) {
      walkers[i - first].emplace(model, batches[i], room.place);
    }
    for_each_block(model, [&](Block& block, int64_t /*number*/) {
      for (size_t i = first; i < end; ++i) {
        walkers[i - first]->pass(block, device);
        if (options.passed) options.passed(i);
      }
    });
    for (size_t i = first; i < end; ++i) {
      arrived(i, walkers[i - first]->hidden().to(device));
      walkers[i - first].reset();
    }
  }
}

}  // namespace cbq
