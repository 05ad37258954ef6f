// Weights and what describes them: safetensors, index files, config.json, quantized folders.
#include <nlohmann/json.hpp>

#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "nn/formats/safetensors.h"
#include "tests/fixtures.h"
#include "tests/fuzz/fuzz.h"
#include "tests/layout_folder.h"
#include "tests/tiny_model.h"

namespace fs = std::filesystem;

namespace cbq::fuzz {
namespace {

/// The fixture's config.json and weights, one folder per fixture that has the file `needed`.
void copy_fixtures(const fs::path& folder, const std::string& needed) {
  for (const std::string& name : test::fixture_names()) {
    if (!fs::exists(test::fixture(name) / needed)) continue;
    fs::create_directories(folder / name);
    for (const auto& entry : fs::directory_iterator(test::fixture(name))) {
      if (entry.path().filename() == "expected.safetensors") continue;
      fs::copy_file(entry.path(), folder / name / entry.path().filename());
    }
  }
}

void load_all(const Checkpoint& checkpoint) {
  for (const std::string& name : checkpoint.names()) checkpoint.load(name);
  (void)checkpoint.total_bytes();
}

void safetensors_seeds(const fs::path& folder) {
  const Tensor matrix = Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3});
  std::map<std::string, Tensor> tensors;
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16}) {
    tensors[concat("a.", name_of(dtype))] = kernels::cast(matrix, dtype);
  }
  tensors["codes"] = Tensor::zeros({5}, Dtype::u8);
  tensors["ids"] = Tensor::zeros({2, 2}, Dtype::i32);
  tensors["empty"] = Tensor::zeros({0, 4}, Dtype::f32);
  tensors["scalar"] = Tensor::zeros({}, Dtype::f32);
  fs::create_directories(folder / "all");
  write_safetensors(folder / "all/model.safetensors", tensors, {{"format", "pt"}, {"step", "12"}});
  fs::create_directories(folder / "one");
  write_safetensors(folder / "one/model.safetensors", {{"w", matrix}}, {});
}

const bool safetensors =
    add_target({.name = "safetensors",
                .format = Format::safetensors,
                .file = "model.safetensors",
                .seeds = safetensors_seeds,
                .run = [](const fs::path& file) { load_all(Checkpoint(file)); }});

const bool safetensors_index = add_target(
    {.name = "safetensors_index",
     .format = Format::json,
     .file = "model.safetensors.index.json",
     .seeds = [](const fs::path& f) { copy_fixtures(f, "model.safetensors.index.json"); },
     .run = [](const fs::path& file) { load_all(Checkpoint(file.parent_path())); }});

const bool config = add_target({.name = "config",
                                .format = Format::json,
                                .file = "config.json",
                                .seeds = [](const fs::path& f) { copy_fixtures(f, "config.json"); },
                                .run =
                                    [](const fs::path& file) {
                                      const ModelConfig config = ModelConfig::load(file);
                                      ModelConfig::from_json(config.to_json(), file.string());
                                    }});

void load(const fs::path& file) { load_any_model(file.parent_path(), Dtype::f32, Device::cpu()); }

const bool model_config =
    add_target({.name = "model_config",
                .format = Format::json,
                .file = "config.json",
                .seeds = [](const fs::path& f) { copy_fixtures(f, "config.json"); },
                .run = load});

const bool model_weights =
    add_target({.name = "model_weights",
                .format = Format::safetensors,
                .file = "model.safetensors",
                .seeds = [](const fs::path& f) { copy_fixtures(f, "model.safetensors"); },
                .run = load});

void quantized_seeds(const fs::path& folder) {
  const nlohmann::json kinds[] = {{{"wbits", 2}},
                                  {{"wbits", 3}, {"granularity", "per_group"}, {"group_size", 8}},
                                  {{"wbits", 4}, {"abits", 4}, {"quantize_attention", true}},
                                  {{"wbits", 8},
                                   {"granularity", "per_tensor"},
                                   {"symmetric", true},
                                   {"abits", 8},
                                   {"act_granularity", "per_tensor"},
                                   {"act_dynamic", false}}};
  size_t number = 0;
  for (const nlohmann::json& kind : kinds) {
    Settings settings = method_settings("cbq_windows", 4, float_bits);
    apply_json(settings, kind);
    settings.reconstruct = "none";
    const auto model = tiny_model(2);
    quantize(*model, tiny_segments(2, 8), settings, nullptr, {});
    save_quantized(*model, folder / std::to_string(number++));
  }
}

/// One layer in each of the layouts of other programs.
void layout_seeds(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(test::layout_fixtures())) {
    if (entry.path().stem() == "expected") continue;
    const fs::path to = folder / entry.path().stem();
    fs::create_directories(to);
    fs::copy_file(entry.path(), to / "codes.safetensors");
    test::write_beside_codes(to, test::layout_config(entry.path()));
  }
}

const bool layout_config = add_target({.name = "layout_config",
                                       .format = Format::json,
                                       .file = "config.json",
                                       .seeds = layout_seeds,
                                       .run = load});

const bool layout_weights = add_target({.name = "layout_weights",
                                        .format = Format::safetensors,
                                        .file = "codes.safetensors",
                                        .seeds = layout_seeds,
                                        .run = load});

const bool quantized_config = add_target({.name = "quantized_config",
                                          .format = Format::json,
                                          .file = "config.json",
                                          .seeds = quantized_seeds,
                                          .run = load});

const bool quantized_weights = add_target({.name = "quantized_weights",
                                           .format = Format::safetensors,
                                           .file = "model.safetensors",
                                           .seeds = quantized_seeds,
                                           .run = load});

}  // namespace
}  // namespace cbq::fuzz
