#include "cbq/quantize_blockwise.h"

#include "cbq/exporters/exporter.h"
#include "cbq/quantized_folder.h"

namespace cbq {

RunResult quantize_any(std::unique_ptr<Transformer>& model,
                       const std::vector<std::vector<int32_t>>& segments, const Settings& settings,
                       std::shared_ptr<ActivationCache> original, RunHooks hooks,
                       const std::filesystem::path& packed_folder) {
  if (!model->on_demand()) return quantize(*model, segments, settings, std::move(original), hooks);
  check(!hooks.keep_block, "quantize_any: it keeps the blocks itself");
  const Dtype dtype = model->dtype();
  const Device device = model->device();
  const std::unique_ptr<Exporter> writer = exporters().make(packed_format);
  writer->begin(*model, {packed_folder, dtype, /*sharded=*/true});
  hooks.keep_block = [&](int64_t block) { writer->add_block(block); };
  RunResult result = quantize(*model, segments, settings, std::move(original), hooks);
  writer->finish();
  model = nullptr;
  model = open_quantized(packed_folder, dtype, device);
  return result;
}

}  // namespace cbq
