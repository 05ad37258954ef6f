#include "tests/fuzz/reseal.h"

#include "nn/formats/json.h"
#include "nn/formats/sealed_files.h"
#include "tests/fuzz/fuzz.h"

namespace cbq::fuzz {

void reseal_safetensors(const std::filesystem::path& file) {
  try {
    std::map<std::string, Tensor> tensors;
    std::map<std::string, std::string> metadata;
    {
      const SafetensorsFile damaged = SafetensorsFile::open(file);
      for (const std::string& name : damaged.names()) tensors[name] = damaged.load(name);
      metadata = damaged.metadata();
    }
    metadata.erase("checksum");
    write_sealed_safetensors(file, tensors, metadata);
  } catch (const std::exception&) {
    return;
  }
}

void reseal_json(const std::filesystem::path& file) {
  try {
    nlohmann::json json = read_json_file(file);
    json.erase("checksum");
    write_bytes(file, sealed(json).dump());
  } catch (const std::exception&) {
    return;
  }
}

}  // namespace cbq::fuzz
