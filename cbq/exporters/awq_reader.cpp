// Folders with "quant_method": "awq" (cbq/exporters/awq_tensors.h), as AutoAWQ, GPTQModel and
// cbq/exporters/awq.cpp write them.
#include <algorithm>

#include "cbq/exporters/awq_tensors.h"
#include "nn/formats/json.h"

using nlohmann::json;

namespace cbq {
namespace {

class AwqReader final : public LayoutReader {
 public:
  std::string method() const override { return "awq"; }
  std::vector<std::string> code_parts() const override { return {"qweight"}; }
  std::vector<std::string> parts() const override { return {"qweight", "qzeros", "scales"}; }

  void read_section(const json& section, const std::string& what) override;
  /// A name that occurs in the path leaves the layer in floating point, as in AutoAWQ.
  bool quantizes(const std::string& path) const override {
    return std::none_of(left_out_.begin(), left_out_.end(), [&](const std::string& name) {
      return path.find(name) != std::string::npos;
    });
  }
  LayerCodes codes_of(const LayerTensors& layer) const override {
    const LayerCodes codes = grid_of(layer, awq_bits, group_size_, symmetric_, "scales", what_);
    look_at_awq_layer(layer, codes);
    return codes;
  }
  PackedWeight read(const LayerTensors& layer, const LayerCodes& codes) const override {
    return read_awq_layer(layer, codes, "\"zero_point\": false");
  }

 private:
  void read_layout(const json& section);

  std::string what_;
  int64_t group_size_ = -1;
  bool symmetric_ = false;
  std::vector<std::string> left_out_;
};

void AwqReader::read_section(const json& section, const std::string& what) {
  what_ = what;
  // AutoAWQ's own file names them w_bit and q_group_size.
  const auto either = [&](const char* key, const char* other) -> const json& {
    return section.contains(other) && !section.contains(key) ? json_at(section, other, what)
                                                             : json_at(section, key, what);
  };
  if (const json& bits = either("bits", "w_bit"); json_int(bits, "bits", what) != awq_bits) {
    refuse_field(what, "bits", bits, "AWQ's layout has 4 bits");
  }
  group_size_ = json_int(either("group_size", "q_group_size"), "group_size", what, -1, 1 << 20);
  if (const json& zero = json_find(section, "zero_point", what); !zero.is_null()) {
    symmetric_ = !json_bool(zero, "zero_point", what);
  }
  read_layout(section);
  if (const json& head = json_find(section, "lm_head", what); !head.is_null() && head != false) {
    refuse_field(what, "lm_head", head, "a quantized output head is not read");
  }
  const json& names = json_find(section, "modules_to_not_convert", what);
  if (names.is_null()) return;
  if (!names.is_array()) fail(what, ": \"modules_to_not_convert\" must be a list of names");
  for (const json& name : names) {
    left_out_.push_back(json_string(name, "modules_to_not_convert", what));
  }
}

/// "version" of AutoAWQ, "checkpoint_format" or "format" of GPTQModel.
void AwqReader::read_layout(const json& section) {
  for (const char* key : {"version", "checkpoint_format", "format"}) {
    const json& layout = json_find(section, key, what_);
    if (layout.is_null()) continue;
    std::string name = json_string(layout, key, what_);
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return std::tolower(c); });
    if (name != "gemm") refuse_field(what_, key, layout, "the layout gemm is read");
  }
}

[[maybe_unused]] const bool registered = register_layout_reader<AwqReader>();

}  // namespace
}  // namespace cbq
