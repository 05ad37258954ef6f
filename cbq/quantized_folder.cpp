#include "cbq/quantized_folder.h"

#include "cbq/exporters/exporter.h"
#include "cbq/exporters/layout_reader.h"
#include "nn/formats/json.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace cbq {
namespace {

void save(const char* format, Transformer& model, const fs::path& folder, Dtype dtype,
          const Poll& poll) {
  export_model(*exporters().make(format), model, {folder, dtype, model.on_demand()}, poll);
}

}  // namespace

std::optional<std::string> quantization_of(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  std::error_code ignored;
  if (!fs::exists(folder, ignored))
    fail_to_open(ENOENT, "model folder ", folder.string(), " does not exist");
  const json config = read_json_file(path);
  const json& section = json_find(config, quantization_section, path.string());
  if (section.is_null()) return std::nullopt;
  const json& method = json_find(section, "quant_method", path.string());
  return method.is_string() ? method.get<std::string>() : "an unknown method";
}

bool is_quantized_folder(const fs::path& folder) {
  const std::optional<std::string> method = quantization_of(folder);
  if (!method) return false;
  if (*method == quantization_method || layout_of(*method)) return true;
  fail((folder / "config.json").string(), ": the model is quantized already, in the format of \"",
       *method, "\", which is not read here. ", where_to_read(*method));
}

std::optional<std::string> layout_of(const std::string& method) {
  const std::string name = method == "intel/auto-round" ? "auto-round" : method;
  return layout_readers().has(name) ? std::optional(name) : std::nullopt;
}

std::string where_to_read(const std::string& method) {
  const std::string convert =
      method == "gguf" ? "`cbq convert` makes a model folder of its file model.gguf. " : "";
  return concat(convert, "Where cbq wrote it, take the result in the format ", packed_format,
                " that it was exported from (`cbq quantize --export ", packed_format,
                "`, the default, makes one); else take the floating-point model");
}

void save_quantized(Transformer& model, const fs::path& folder, const Poll& poll) {
  save(packed_format, model, folder, Dtype::f32, poll);
}

void save_dense(Transformer& model, const fs::path& folder, Dtype dtype, const Poll& poll) {
  save("dense", model, folder, dtype, poll);
}

}  // namespace cbq
