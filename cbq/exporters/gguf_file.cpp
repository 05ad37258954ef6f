#include "cbq/exporters/gguf_file.h"

#include <algorithm>
#include <numeric>

#include "cbq/exporters/packed_words.h"
#include "cbq/quantized_folder.h"
#include "kernels/ops.h"
#include "nn/gguf/gguf_config.h"
#include "nn/gguf/gguf_tokenizer_writer.h"

namespace cbq {
namespace {

std::string tokenizer_obstacle(const ExportPlan& plan) {
  if (plan.tokenizer.empty()) return "";
  try {
    read_gguf_tokenizer(plan.tokenizer, plan.model.vocab_size);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

const std::filesystem::path& created(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  return folder;
}

const GgufBlockFormat& format_of(Dtype dtype) {
  return *find_gguf_format(std::string(dtype == Dtype::f16    ? "F16"
                                       : dtype == Dtype::bf16 ? "BF16"
                                                              : "F32"));
}

}  // namespace

std::string gguf_model_obstacle(const ExportPlan& plan) {
  if (const std::string obstacle = gguf_config_obstacle(plan.model); !obstacle.empty()) {
    return obstacle;
  }
  if (plan.quantizes_activations()) {
    return "it has no place for quantizers of activations (with --abits 16 there are none)";
  }
  return tokenizer_obstacle(plan);
}

GgufGrid gguf_grid_of(const WeightConfig& config, int64_t in) {
  const bool grouped = config.granularity == Granularity::per_group;
  return {config.bits, config.symmetric, in, grouped ? config.group_size : in,
          config.scale_type == ScaleType::e5m6};
}

GgufModelFile::GgufModelFile(const Transformer& model, const ExportTarget& target)
    : model_(model), target_(target), writer_(created(target.folder) / gguf_file_name) {
  write_gguf_config(model.config, writer_);
  if (target.tokenizer.empty()) {
    writer_.text("tokenizer.ggml.model", "no_vocab");
    return;
  }
  write_gguf_tokenizer(read_gguf_tokenizer(target.tokenizer, model.config.vocab_size), writer_);
}

std::vector<int64_t> GgufModelFile::rows_of(const std::string& path) const {
  const int64_t heads = gguf_interleaved_heads(model_.config, path);
  return heads > 0 ? gguf_interleaved_rows(heads, model_.config.head_dim) : std::vector<int64_t>();
}

void GgufModelFile::add(const std::string& path, const Tensor& values) {
  const Dtype dtype = values.rank() == 1 ? Dtype::f32 : target_.dtype;
  Tensor written = kernels::cast(values, dtype);
  check(!kernels::has_non_finite(written), "export: ", path, ": a value is too large for ", dtype,
        "; give another --dtype");
  if (const std::vector<int64_t> rows = rows_of(path); !rows.empty()) {
    written = kernels::gather_rows(written, rows);
  }
  written = written.to(Device::cpu());
  writer_.begin_tensor(gguf_tensor_name(path), values.shape(), format_of(dtype));
  writer_.append(
      {static_cast<const std::byte*>(written.raw()), static_cast<size_t>(written.bytes())});
}

void GgufModelFile::add(const std::string& path, const PackedWeight& packed,
                        const WeightConfig& config) {
  const GgufGrid grid = gguf_grid_of(config, packed.in);
  const GgufBlockFormat* format = gguf_format_of(grid);
  check(format != nullptr, "export: ", path, ": ", [&] { return gguf_grid_obstacle(grid); });
  const Tensor codes = unpack_codes(packed.codes.to(Device::cpu()), packed.bits, packed.in);
  const std::vector<float> scale = packed.scale.to_vector<float>();
  const std::vector<uint8_t> zero = packed.zero_point.to_vector<uint8_t>();
  if (config.symmetric) check_symmetric(packed, path);
  check(std::all_of(zero.begin(), zero.end(), [&](uint8_t z) { return z < 1 << packed.bits; }),
        "export: ", path, ": a zero point is larger than the codes; the result is damaged, ",
        "quantize again");
  const int64_t groups = scale.size() == 1 ? 0 : packed.in / grid.shared;  // 0: one for all rows
  std::vector<int64_t> rows = rows_of(path);
  if (rows.empty()) {
    rows.resize(static_cast<size_t>(packed.out));
    std::iota(rows.begin(), rows.end(), int64_t{0});
  }
  writer_.begin_tensor(gguf_tensor_name(path), {packed.out, packed.in}, *format);
  std::vector<std::byte> blocks(static_cast<size_t>(packed.in / format->values * format->bytes));
  for (const int64_t row : rows) {
    const GgufGridRow values = {codes.data<uint8_t>() + row * packed.in,
                                scale.data() + row * groups, zero.data() + row * groups};
    try {
      encode_gguf_row(*format, grid, values, blocks.data());
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(message_of("export: ", path, ": ", error.what()));
    }
    writer_.append(blocks);
  }
}

void GgufModelFile::finish() {
  writer_.finish();
  nlohmann::json config = plain_config(model_, target_.dtype);
  config[quantization_section] = {{"quant_method", gguf_method}, {"file", gguf_file_name}};
  write_config(target_.folder, config);
}

}  // namespace cbq
