// Folders with "quant_method": "compressed-tensors", as llm-compressor and
// cbq/exporters/compressed_tensors.cpp write them: the formats pack-quantized (described there; up
// to version 0.17 of the package a code did not cross the end of a word) and int-quantized:
//
//   <layer>.weight             I8 [out, in]: signed codes
//   <layer>.weight_scale       as in pack-quantized, or of one element
//   <layer>.weight_zero_point  I8, like the scale; only of asymmetric grids
//   <layer>.weight_g_idx       I32 [in]: the group of each input ("actorder": "group")
//   <layer>.input_scale, .input_zero_point  of one element, where the range of inputs is static
#include <algorithm>
#include <charconv>

#include "cbq/exporters/compressed_scheme.h"
#include "cbq/exporters/packed_words.h"
#include "kernels/ops.h"
#include "nn/formats/json.h"

using nlohmann::json;

namespace cbq {
namespace {

/// "0.9.4", "0.17.1.dev3": a version before 0.18, in which codes began to cross the ends of words.
/// Other texts are taken for later ones.
bool is_before_0_18(const std::string& version) {
  int major = 0, minor = 0;
  const char* const end = version.data() + version.size();
  const auto dot = std::from_chars(version.data(), end, major);
  if (dot.ec != std::errc() || dot.ptr == end || *dot.ptr != '.') return false;
  if (std::from_chars(dot.ptr + 1, end, minor).ec != std::errc()) return false;
  return major == 0 && minor < 18;
}

class CompressedTensorsReader final : public LayoutReader {
 public:
  std::string method() const override { return "compressed-tensors"; }
  std::vector<std::string> code_parts() const override { return {"weight_packed", "weight_scale"}; }
  std::vector<std::string> parts() const override {
    return {"weight",       "weight_packed", "weight_shape",    "weight_scale", "weight_zero_point",
            "weight_g_idx", "input_scale",   "input_zero_point"};
  }

  void read_section(const json& section, const std::string& what) override {
    what_ = what;
    schemes_ = CompressedSchemes(section, what);
    const json& version = json_find(section, "version", what);
    if (!version.is_null()) {
      wrote_whole_words_ = is_before_0_18(json_string(version, "version", what));
    }
  }
  /// Signed bytes are codes, too.
  bool has_codes(const LayerTensors& layer) const override {
    return LayoutReader::has_codes(layer) ||
           (layer.has("weight") && layer.info("weight").dtype == "I8");
  }
  bool quantizes(const std::string& path) const override {
    return schemes_.of(path) != nullptr && !schemes_.ignores(path);
  }
  LayerCodes codes_of(const LayerTensors& layer) const override;
  PackedWeight read(const LayerTensors& layer, const LayerCodes& codes) const override;
  std::unique_ptr<ActivationQuantizer> read_input(const LayerTensors& layer,
                                                  const LayerCodes& codes,
                                                  Device device) const override;

 private:
  void look_at_weight(const LayerTensors& layer, LayerCodes& codes) const;
  void look_at_zero_point(const LayerTensors& layer, const LayerCodes& codes) const;
  void expect_no_zero_point(const LayerTensors& layer, const LayerCodes& codes) const;
  Tensor packed_rows(const Tensor& words, int64_t codes, int bits) const;
  void look_at_input(const LayerTensors& layer, const LayerCodes& codes) const;
  Tensor read_codes(const LayerTensors& layer, const LayerCodes& codes) const;
  Tensor read_zero_point(const LayerTensors& layer, const LayerCodes& codes,
                         const Shape& groups) const;

  std::string what_;
  CompressedSchemes schemes_;
  /// The section's "version" is one in which no code crossed the end of a word. Where it is
  /// missing, the folder is not of the package.
  bool wrote_whole_words_ = false;
};

/// Words of a row of codes that do not cross the ends of words.
int64_t whole_words_for(int64_t codes, int bits) {
  const int64_t per_word = 32 / bits;
  return (codes + per_word - 1) / per_word;
}

/// I32 [rows, words] -> packed rows. The number of words says in which way they are packed; where
/// both ways have the same, the package's version does.
Tensor CompressedTensorsReader::packed_rows(const Tensor& words, int64_t codes, int bits) const {
  const int64_t whole = whole_words_for(codes, bits), dense = words_for(codes, bits);
  const bool is_whole = whole == dense ? wrote_whole_words_ : words.size(1) == whole;
  return is_whole ? pack_codes(codes_in_whole_words(words, codes, bits), bits)
                  : bytes_of_words(words, codes, bits);
}

/// Throws std::runtime_error unless a part I32 has so many words along one axis, and `other` along
/// the other.
void expect_words(const LayerTensors& layer, const std::string& part, int64_t codes, int bits,
                  int axis, int64_t other) {
  const auto shape = [&](int64_t words) {
    return axis == 1 ? Shape{other, words} : Shape{words, other};
  };
  const Shape whole = shape(whole_words_for(codes, bits));
  const bool is_older = layer.has(part) && layer.info(part).shape == whole;
  layer.expect(part, is_older ? whole : shape(words_for(codes, bits)), {"I32"});
}

Shape scale_shape(const LayerCodes& codes) {
  if (codes.weight.granularity == Granularity::per_tensor) return {1, 1};
  return {codes.packed.out, codes.packed.in / codes.packed.group};
}

/// A part of one element may be of any rank up to 2.
void expect_one(const LayerTensors& layer, const std::string& part,
                std::initializer_list<const char*> dtypes) {
  const bool is_one = layer.has(part) && layer.info(part).shape.size() <= 2 &&
                      element_count(layer.info(part).shape) == 1;
  layer.expect(part, is_one ? layer.info(part).shape : Shape{1}, dtypes);
}

/// "weight_shape" says what the packed codes unpack to.
void expect_shape(const LayerTensors& layer) {
  const std::string part = "weight_shape";
  layer.expect(part, {2}, {"I64", "I32"});
  const std::vector<int64_t> shape = layer.load_integers(part);
  if (shape == std::vector{layer.out(), layer.in()}) return;
  fail(layer.where(part), " is [", shape[0], ", ", shape[1], "], and the model's layer is [",
       layer.out(), ", ", layer.in(), "]; take the folder from its source again");
}

LayerCodes CompressedTensorsReader::codes_of(const LayerTensors& layer) const {
  const CompressedScheme* scheme = schemes_.of(layer.path());
  if (scheme == nullptr) {
    fail(what_, ": no group of \"config_groups\" has ", layer.path(),
         " among its \"targets\", and the folder holds its codes; name it there");
  }
  const bool per_tensor = scheme->weights.strategy == "tensor";
  LayerCodes codes = grid_of(layer, scheme->weights.bits, scheme->weights.group_size,
                             scheme->weights.symmetric, "weight_scale", scheme->what);
  if (per_tensor) codes.weight.granularity = Granularity::per_tensor;
  codes.input = scheme->input;
  look_at_weight(layer, codes);
  if (codes.weight.symmetric) {
    expect_no_zero_point(layer, codes);
  } else {
    look_at_zero_point(layer, codes);
  }
  if (layer.has("weight_g_idx")) {
    read_group_index(layer, "weight_g_idx", codes);
  } else if (scheme->weights.act_order) {
    fail(layer.where("weight_g_idx"), " is missing, which \"actorder\": \"group\" asks for; the ",
         "folder is incomplete, take it from its source again");
  }
  if (codes.input.quantizes() && !codes.input.dynamic) look_at_input(layer, codes);
  return codes;
}

void CompressedTensorsReader::look_at_weight(const LayerTensors& layer, LayerCodes& codes) const {
  if (schemes_.of(layer.path())->is_packed) {
    expect_words(layer, "weight_packed", layer.in(), codes.packed.bits, 1, layer.out());
    expect_shape(layer);
  } else {
    layer.expect("weight", {layer.out(), layer.in()}, {"I8"});
  }
  if (codes.weight.granularity == Granularity::per_tensor) {
    expect_one(layer, "weight_scale", scale_dtypes);
  } else {
    layer.expect("weight_scale", scale_shape(codes), scale_dtypes);
  }
}

void CompressedTensorsReader::look_at_zero_point(const LayerTensors& layer,
                                                 const LayerCodes& codes) const {
  const std::string part = "weight_zero_point";
  if (codes.weight.granularity == Granularity::per_tensor) return expect_one(layer, part, {"I8"});
  const bool is_packed = layer.has(part) && layer.info(part).dtype == "I32";
  if (!is_packed) return layer.expect(part, scale_shape(codes), {"I8"});
  expect_words(layer, part, layer.out(), codes.packed.bits, 0, scale_shape(codes)[1]);
}

/// A symmetric grid may come with zero points, which then are 0.
void CompressedTensorsReader::expect_no_zero_point(const LayerTensors& layer,
                                                   const LayerCodes& codes) const {
  const std::string part = "weight_zero_point";
  if (!layer.has(part)) return;
  look_at_zero_point(layer, codes);
  const bool is_packed = layer.info(part).dtype == "I32";
  const std::vector<int64_t> stored = layer.load_integers(part);
  if (!is_packed && std::all_of(stored.begin(), stored.end(), [](int64_t z) { return z == 0; })) {
    return;
  }
  fail(layer.where(part), " holds zero points, and ", what_,
       " says \"symmetric\": true; correct the ", "one that is wrong");
}

void CompressedTensorsReader::look_at_input(const LayerTensors& layer,
                                            const LayerCodes& codes) const {
  expect_one(layer, "input_scale", scale_dtypes);
  if (!codes.input.symmetric) expect_one(layer, "input_zero_point", {"I8"});
}

Tensor CompressedTensorsReader::read_codes(const LayerTensors& layer,
                                           const LayerCodes& codes) const {
  const int bits = codes.packed.bits;
  if (!schemes_.of(layer.path())->is_packed) {
    return pack_codes(layer.load_signed("weight", bits), bits);
  }
  return packed_rows(layer.load("weight_packed"), layer.in(), bits);
}

Tensor CompressedTensorsReader::read_zero_point(const LayerTensors& layer, const LayerCodes& codes,
                                                const Shape& groups) const {
  const int bits = codes.packed.bits;
  if (codes.weight.symmetric) {
    const Tensor middle(groups, Dtype::u8, Device::cpu());
    std::fill_n(middle.data<uint8_t>(), middle.count(), static_cast<uint8_t>(1 << (bits - 1)));
    return middle;
  }
  if (layer.info("weight_zero_point").dtype == "I8") {
    return layer.load_signed("weight_zero_point", bits).reshape(groups);
  }
  const Tensor words = transposed_on_host(layer.load("weight_zero_point"));
  const Tensor zero = unpack_codes(packed_rows(words, layer.out(), bits), bits, layer.out());
  return transposed_on_host(zero);
}

PackedWeight CompressedTensorsReader::read(const LayerTensors& layer,
                                           const LayerCodes& codes) const {
  PackedWeight p = codes.packed;
  p.codes = read_codes(layer, codes);
  p.scale = read_scales(layer, "weight_scale").reshape(scale_shape(codes));
  p.zero_point = read_zero_point(layer, codes, p.scale.shape());
  return p;
}

/// A static range as that of the smallest and the largest code: s (0 - z) to s (2^b - 1 - z).
std::unique_ptr<ActivationQuantizer> CompressedTensorsReader::read_input(const LayerTensors& layer,
                                                                         const LayerCodes& codes,
                                                                         Device device) const {
  auto quantizer = LayoutReader::read_input(layer, codes, device);
  if (codes.input.dynamic) return quantizer;
  const double scale = read_scales(layer, "input_scale").to_vector<double>()[0];
  const int bits = codes.input.bits, largest = (1 << bits) - 1;
  double low = -scale * largest / 2.0, high = scale * largest / 2.0;
  if (!codes.input.symmetric) {
    const int zero = layer.load_signed("input_zero_point", bits).to_vector<uint8_t>()[0];
    low = -scale * zero;
    high = scale * (largest - zero);
  }
  if (!(scale > 0.0)) {
    fail(layer.where("input_scale"), " is ", scale, "; a scale is positive. Take the folder from ",
         "its source again");
  }
  quantizer->restore({{"range", Tensor::from(std::vector<double>{low, high}, {2}, Dtype::f32)}});
  return quantizer;
}

[[maybe_unused]] const bool registered = register_layout_reader<CompressedTensorsReader>();

}  // namespace
}  // namespace cbq
