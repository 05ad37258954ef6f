// Readers of folders with codes in the layouts of other programs. One file each in this folder,
// beside the exporter that writes the layout; it registers itself under the "quant_method" of
// config.json. What is read becomes the quantizers that a result of this program has, so whatever
// takes such a result (evaluate, inspect, export, generate) takes these folders.
//
// A reader is used in this order:
//
//   read_section  config.json's section, once
//   codes_of      for every layer with codes, from config.json and the headers of its tensors,
//                 before the first weight is read
//   read          for a layer whose block is needed
#pragma once

#include <initializer_list>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "nn/formats/safetensors.h"
#include "quant/activation_quantizer.h"
#include "quant/bit_packed.h"
#include "quant/registry.h"

namespace cbq {

/// The tensors of one linear layer: "qweight" for "model.layers.0.mlp.up_proj.qweight". Names may
/// lack the prefix of the body ("model."), as those of other parameters may.
class LayerTensors {
 public:
  LayerTensors(const Checkpoint& checkpoint, const std::string& body_prefix, std::string path,
               int64_t out, int64_t in);

  const std::string& path() const { return path_; }
  int64_t out() const { return out_; }
  int64_t in() const { return in_; }

  /// The name of a part in the folder.
  std::string name_of(const std::string& part) const;
  bool has(const std::string& part) const { return checkpoint_.has(name_of(part)); }
  /// Of a part that is there.
  const TensorInfo& info(const std::string& part) const { return checkpoint_.info(name_of(part)); }
  /// Throws std::runtime_error, naming file, tensor, what was expected and what came, unless the
  /// part has this shape and one of these dtypes of the format ("I32").
  void expect(const std::string& part, const Shape& shape,
              std::initializer_list<const char*> dtypes) const;
  /// The part on the host. A small one may be asked for before the layer is read.
  Tensor load(const std::string& part) const { return checkpoint_.load(name_of(part)); }
  /// A part of signed bytes, each plus 2^(bits - 1): u8 below 2^bits. Throws std::runtime_error for
  /// a value that has no such code.
  Tensor load_signed(const std::string& part, int bits) const;
  /// A part of I8, I32 or I64, for which there is no Tensor.
  std::vector<int64_t> load_integers(const std::string& part) const;
  /// "FOLDER: NAME", for messages.
  std::string where(const std::string& part) const;

 private:
  const Checkpoint& checkpoint_;
  std::string body_prefix_, path_;
  int64_t out_, in_;
};

/// What is known of a layer with codes before they are read.
struct LayerCodes {
  PackedWeight packed;  // without codes, scales and zero points
  WeightConfig weight;
  ActivationConfig input;  // bits: float_bits where it stays in floating point
};

/// Scales are in one of these types.
inline constexpr std::initializer_list<const char*> scale_dtypes = {"F16", "BF16", "F32"};

class LayoutReader {
 public:
  virtual ~LayoutReader() = default;
  /// The "quant_method" that it reads.
  virtual std::string method() const = 0;
  /// Throws std::runtime_error, naming `what`, the field and a remedy, for a section that is broken
  /// or asks for what cannot be read.
  virtual void read_section(const nlohmann::json& section, const std::string& what) = 0;
  /// Parts that only layers with codes have ("qweight").
  virtual std::vector<std::string> code_parts() const = 0;
  /// All parts that it reads of a layer with codes; a notice names what else there is of one.
  virtual std::vector<std::string> parts() const = 0;
  /// Whether config.json says that the layer at `path` has codes. The tensors decide.
  virtual bool quantizes(const std::string& path) const = 0;
  /// Whether the layer has codes. By default, whether it has a part of code_parts().
  virtual bool has_codes(const LayerTensors& layer) const;
  /// Throws std::runtime_error, naming file, tensor or field, for what does not fit.
  virtual LayerCodes codes_of(const LayerTensors& layer) const = 0;
  /// `codes` are those of codes_of(); on the host. Throws as it does.
  virtual PackedWeight read(const LayerTensors& layer, const LayerCodes& codes) const = 0;
  /// The quantizer of the layer's input, where codes.input quantizes. By default a dynamic one.
  virtual std::unique_ptr<ActivationQuantizer> read_input(const LayerTensors& layer,
                                                          const LayerCodes& codes,
                                                          Device device) const;
};

/// By quant_method.
Registry<LayoutReader>& layout_readers();

/// Registers T, which must be default-constructible, under its method.
template <class T>
bool register_layout_reader() {
  return layout_readers().add(T().method(), [] { return std::make_unique<T>(); });
}

/// A layer's grid as config.json states it; group_size -1: one group. The type of its scales is
/// that of the part `scales`. Throws std::runtime_error, naming `what`, for bits outside [1, 8] and
/// a group size that does not divide the inputs.
LayerCodes grid_of(const LayerTensors& layer, int64_t bits, int64_t group_size, bool symmetric,
                   const std::string& scales, const std::string& what);

/// Looks at the group of each input, a part I32 [in]; where the groups are no runs of neighbours,
/// codes.packed gets its group_index. Throws std::runtime_error for a number that is no group.
void read_group_index(const LayerTensors& layer, const std::string& part, LayerCodes& codes);

/// The scales of a part of such values as f32. Throws std::runtime_error for NaN and infinity.
Tensor read_scales(const LayerTensors& layer, const std::string& part);

/// Throws std::runtime_error, naming the part of the zero points and the field that says that the
/// grid is symmetric, unless all are the middle code.
void expect_middle(const LayerTensors& layer, const std::string& part, const Tensor& zero_point,
                   int bits, const std::string& field);

/// Throws std::runtime_error: `what` has `field` with a value that is not read here.
[[noreturn]] void refuse_field(const std::string& what, const std::string& field,
                               const nlohmann::json& value, const std::string& reason);

}  // namespace cbq
