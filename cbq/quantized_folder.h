// A quantized model on disk, and back.
//
//   config.json        the model's own, with a section "quantization_config": quant_method "cbq",
//                      and per linear layer its grid and its input's quantizer
//   model.safetensors, or shards with an index (a file per block and one for the rest, from a model
//                      that was not in memory as a whole):
//                      <layer>.codes u8, <layer>.scale f32, <layer>.zero_point u8
//                      (quant/bit_packed.h), <layer>.group_index i32 where groups of inputs are no
//                      neighbours (format 4); <layer>.input_clip, <layer>.input_range f32 where
//                      inputs are quantized, <layer>.input_clusters f32, the channels of each,
//                      where clusters of channels have ranges; <layer>.online_* f32 where an online
//                      transform stands before a layer (format 2), <block>.attention.online_* f32
//                      where one stands before the products of attention (format 3),
//                      <block>.attention.queries.range and .clusters f32 (keys, values) where these
//                      have static ranges; every other parameter in the checkpoint's half type
//                      where that holds its values without a loss, else in f32
//
// A loaded model computes bit for bit what the model did that was saved.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "cbq/exporters/export_plan.h"
#include "cbq/watch.h"
#include "nn/transformer.h"

namespace cbq {

inline constexpr const char* quantization_section = "quantization_config";  // of config.json
inline constexpr const char* quantization_method = "cbq";                   // its "quant_method"
/// The exporter (cbq/exporters/) that writes such a folder.
inline constexpr const char* packed_format = "packed";
/// Format versions: of a model without online transforms, with some before linear layers, with some
/// of queries and keys, with groups of inputs that are no neighbours. Programs that do not know
/// these would not see them.
inline constexpr int64_t quantized_format = 1, quantized_format_online = 2,
                         quantized_format_attention_online = 3, quantized_format_group_index = 4,
                         newest_quantized_format = quantized_format_group_index;

/// Who quantized the model in this folder: "quant_method" of config.json's quantization section;
/// none for a floating-point model. Throws std::runtime_error for a missing or broken config.json.
std::optional<std::string> quantization_of(const std::filesystem::path& folder);
/// True if the model is quantized in a way that open_quantized reads: by this project, or in a
/// layout of cbq/exporters/layout_reader.h. Throws std::runtime_error for a missing or broken
/// config.json, and for a folder that another program quantized in another way.
bool is_quantized_folder(const std::filesystem::path& folder);
/// The method of that layout among layout_readers(), which folds the spellings of "auto-round" into
/// one; none where there is no reader.
std::optional<std::string> layout_of(const std::string& method);

/// What to give in the place of a folder with this "quant_method", in a sentence: the result in the
/// format "packed", or the original model.
std::string where_to_read(const std::string& method);

/// The exporter "packed": config.json and the weights of a model whose quantizers are hardened, or
/// that was read from such a folder; in one file, or a file per block where blocks are loaded on
/// demand. Throws std::invalid_argument naming a layer that is not hardened. `poll` is called
/// before every block.
void save_quantized(Transformer& model, const std::filesystem::path& folder, const Poll& poll = {});

/// Reads such a folder, or one in a layout of cbq/exporters/layout_reader.h; `dtype` must be the
/// one the model had when it was saved for the results to be the same bits. Everything is checked
/// against config.json before the first tensor is read; blocks stay on disk until load_block.
/// Throws std::runtime_error naming folder, layer and fault.
std::unique_ptr<Transformer> open_quantized(const std::filesystem::path& folder, Dtype dtype,
                                            Device device);
/// The same with all blocks in memory.
std::unique_ptr<Transformer> load_quantized(const std::filesystem::path& folder, Dtype dtype,
                                            Device device);

/// What the folder consists of, by config.json, which is compared with the headers of its files; no
/// tensor is read. Throws as open_quantized does.
ExportPlan export_plan_of(const std::filesystem::path& folder);

/// open_quantized or open_model, whichever the folder is.
std::unique_ptr<Transformer> open_any_model(const std::filesystem::path& folder, Dtype dtype,
                                            Device device);
/// load_quantized or load_model, whichever the folder is.
std::unique_ptr<Transformer> load_any_model(const std::filesystem::path& folder, Dtype dtype,
                                            Device device);

/// The exporter "dense": the model as a plain Hugging Face folder whose linear weights are s (q -
/// z), in `dtype`: what other programs can load (a file per block where blocks are loaded on
/// demand). Quantizers of activations have no place in it; an online transform T becomes a part of
/// the weight, W T; one of queries and keys changes nothing and is left out. `poll` is called
/// before every block.
void save_dense(Transformer& model, const std::filesystem::path& folder, Dtype dtype,
                const Poll& poll = {});

}  // namespace cbq
