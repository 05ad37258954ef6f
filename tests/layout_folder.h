// The fixtures of layouts (tools/fixtures/make_layout_fixtures.py) as model folders.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "nn/formats/safetensors.h"
#include "tests/tiny_model.h"

namespace cbq::test {

inline std::filesystem::path layout_fixtures() {
  return std::filesystem::path(CBQ_SOURCE_DIR) / "tests/fixtures/layouts";
}

/// The layer that the fixtures hold.
inline const std::string layout_layer = "model.layers.0.self_attn.o_proj";

/// config.json of a model of one block with a fixture's section.
inline nlohmann::json layout_config(const std::filesystem::path& fixture) {
  nlohmann::json config = cbq::tiny_config(1, 32).to_json();
  config["quantization_config"] =
      nlohmann::json::parse(SafetensorsFile::open(fixture).metadata().at("section"));
  return config;
}

/// Writes the other files of a folder that has a shard codes.safetensors already: config.json, a
/// shard with the other parameters, or all of them where `with_layer`, and the index.
inline void write_beside_codes(const std::filesystem::path& folder, const nlohmann::json& config,
                               bool with_layer = false) {
  std::map<std::string, Tensor> floats;
  cbq::tiny_model(1, 32)->visit("",
                                [&](const std::string& path, Var& p) { floats[path] = p.value(); });
  if (!with_layer) floats.erase(layout_layer + ".weight");
  write_safetensors(folder / "floats.safetensors", floats);
  nlohmann::json map;
  for (const auto& [name, tensor] : floats) map[name] = "floats.safetensors";
  for (const std::string& name : SafetensorsFile::open(folder / "codes.safetensors").names()) {
    map[name] = "codes.safetensors";
  }
  std::ofstream(folder / "model.safetensors.index.json")
      << nlohmann::json{{"weight_map", map}}.dump();
  std::ofstream(folder / "config.json") << config.dump();
}

}  // namespace cbq::test
