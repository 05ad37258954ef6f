#include "cbq/exporters/layout_reader.h"

#include <algorithm>
#include <cstring>

#include "kernels/ops.h"
#include "tensor/error.h"

namespace cbq {
namespace {

std::string shape_text(std::initializer_list<const char*> dtypes, const Shape& shape) {
  std::string text;
  for (const char* dtype : dtypes) text += concat(text.empty() ? "" : " or ", dtype);
  return concat(text, " ", shape);
}

ScaleType scale_type_of(const std::string& dtype) {
  if (dtype == "F16") return ScaleType::f16;
  return dtype == "BF16" ? ScaleType::bf16 : ScaleType::f32;
}

}  // namespace

LayerTensors::LayerTensors(const Checkpoint& checkpoint, const std::string& body_prefix,
                           std::string path, int64_t out, int64_t in)
    : checkpoint_(checkpoint),
      body_prefix_(body_prefix),
      path_(std::move(path)),
      out_(out),
      in_(in) {}

std::string LayerTensors::name_of(const std::string& part) const {
  const std::string full = path_ + "." + part;
  if (checkpoint_.has(full) || !full.starts_with(body_prefix_)) return full;
  const std::string bare = full.substr(body_prefix_.size());
  return checkpoint_.has(bare) ? bare : full;
}

std::string LayerTensors::where(const std::string& part) const {
  return concat(checkpoint_.path(), ": ", name_of(part));
}

void LayerTensors::expect(const std::string& part, const Shape& shape,
                          std::initializer_list<const char*> dtypes) const {
  if (!has(part)) {
    const std::string reason = checkpoint_.missing_reason(name_of(part));
    fail(where(part), " is missing", reason.empty() ? "" : " (" + reason + ")",
         "; the folder is incomplete, or config.json speaks of another layout");
  }
  const TensorInfo& found = info(part);
  const bool fits = std::any_of(dtypes.begin(), dtypes.end(),
                                [&](const char* dtype) { return found.dtype == dtype; });
  if (fits && found.shape == shape) return;
  fail(where(part), " is ", found.dtype, " ", found.shape, ", with the bits and the group size of ",
       "config.json it is ", shape_text(dtypes, shape),
       "; correct config.json, or take the folder from its source again");
}

Tensor LayerTensors::load_signed(const std::string& part, int bits) const {
  const std::string name = name_of(part);
  const std::span<const std::byte> bytes = checkpoint_.file_of(name).bytes(name);
  const Tensor codes(info(part).shape, Dtype::u8, Device::cpu());
  const int half = 1 << (bits - 1);
  for (size_t i = 0; i < bytes.size(); ++i) {
    const int value = static_cast<int8_t>(bytes[i]);
    if (value < -half || value >= half) {
      fail(where(part), " holds ", value, ", which has no place in ", bits,
           " bits; the file is damaged, or config.json states other bits");
    }
    codes.data<uint8_t>()[i] = static_cast<uint8_t>(value + half);
  }
  return codes;
}

std::vector<int64_t> LayerTensors::load_integers(const std::string& part) const {
  const std::string name = name_of(part), dtype = info(part).dtype;
  const std::span<const std::byte> bytes = checkpoint_.file_of(name).bytes(name);
  const auto integers = [&]<class T>(T) {
    std::vector<int64_t> all;
    for (size_t at = 0; at + sizeof(T) <= bytes.size(); at += sizeof(T)) {
      T value;  // a tensor may begin anywhere in the file
      std::memcpy(&value, bytes.data() + at, sizeof(T));
      all.push_back(value);
    }
    return all;
  };
  if (dtype == "I8") return integers(int8_t{});
  if (dtype == "I32") return integers(int32_t{});
  check(dtype == "I64", where(part), " is ", dtype, "; expected I8, I32 or I64");
  return integers(int64_t{});
}

bool LayoutReader::has_codes(const LayerTensors& layer) const {
  const std::vector<std::string> parts = code_parts();
  return std::any_of(parts.begin(), parts.end(),
                     [&](const std::string& part) { return layer.has(part); });
}

std::unique_ptr<ActivationQuantizer> LayoutReader::read_input(const LayerTensors& layer,
                                                              const LayerCodes& codes,
                                                              Device device) const {
  auto quantizer = std::make_unique<ActivationQuantizer>(codes.input, device, layer.path());
  for (Var& variable : quantizer->variables()) variable.set_requires_grad(false);
  return quantizer;
}

Registry<LayoutReader>& layout_readers() {
  static Registry<LayoutReader> registry("quantization method");
  return registry;
}

LayerCodes grid_of(const LayerTensors& layer, int64_t bits, int64_t group_size, bool symmetric,
                   const std::string& scales, const std::string& what) {
  if (bits < 1 || bits > 8) {
    fail(what, ": layer ", layer.path(), " has ", bits, " bits, codes of 1 to 8 bits are read");
  }
  const int64_t group = group_size == -1 ? layer.in() : group_size;
  if (group < 1 || layer.in() % group != 0) {
    fail(what, ": group size ", group, " does not divide the ", layer.in(), " inputs of ",
         layer.path(), "; folders with an incomplete last group are not read");
  }
  LayerCodes codes;
  codes.packed.bits = static_cast<int>(bits);
  codes.packed.out = layer.out();
  codes.packed.in = layer.in();
  codes.packed.group = group;
  codes.weight.bits = static_cast<int>(bits);
  codes.weight.symmetric = symmetric;
  codes.weight.granularity = group_size == -1 ? Granularity::per_channel : Granularity::per_group;
  codes.weight.group_size = group_size == -1 ? 0 : group;
  if (layer.has(scales)) codes.weight.scale_type = scale_type_of(layer.info(scales).dtype);
  return codes;
}

void read_group_index(const LayerTensors& layer, const std::string& part, LayerCodes& codes) {
  layer.expect(part, {layer.in()}, {"I32"});
  const Tensor index = layer.load(part);
  const int64_t group = codes.packed.group, groups = layer.in() / group;
  bool neighbours = true;
  for (int64_t j = 0; j < layer.in(); ++j) {
    const int64_t of = index.data<int32_t>()[j];
    if (of < 0 || of >= groups) {
      fail(layer.where(part), ": input ", j, " is of group ", of, ", there are ", groups,
           "; the file is damaged, take the folder from its source again");
    }
    neighbours = neighbours && of == j / group;
  }
  if (!neighbours) codes.packed.group_index = index;
}

Tensor read_scales(const LayerTensors& layer, const std::string& part) {
  const Tensor scales = kernels::cast(layer.load(part), Dtype::f32);
  if (kernels::has_non_finite(scales)) {
    fail(layer.where(part), ": a scale is NaN or infinite; the file is damaged, take the folder ",
         "from its source again");
  }
  return scales;
}

void expect_middle(const LayerTensors& layer, const std::string& part, const Tensor& zero_point,
                   int bits, const std::string& field) {
  const int middle = 1 << (bits - 1);
  for (int64_t i = 0; i < zero_point.count(); ++i) {
    const int zero = zero_point.data<uint8_t>()[i];
    if (zero == middle) continue;
    fail(layer.where(part), ": a zero point is ", zero, ", and ", field,
         " says that the grid is symmetric, with ", middle, " in all places; correct ", field,
         " or the version of the layout in config.json");
  }
}

void refuse_field(const std::string& what, const std::string& field, const nlohmann::json& value,
                  const std::string& reason) {
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() > 100) text = text.substr(0, 100) + "...";
  fail(what, ": \"", field, "\" is ", text, ": ", reason,
       "; take a folder without it, or the floating-point model");
}

}  // namespace cbq
