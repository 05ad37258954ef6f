// GGUF: the file as such, a model's configuration and weights, its tokenizer.
#include "nn/gguf/gguf.h"

#include "nn/formats/json.h"
#include "nn/gguf/gguf_model.h"
#include "nn/gguf/gguf_tokenizer.h"
#include "nn/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/gguf_writer.h"

namespace fs = std::filesystem;

namespace cbq::fuzz {
namespace {

void copy_seed(const fs::path& folder, const std::string& name) {
  write_bytes(folder / name / "model.gguf",
              read_bytes(fs::path(CBQ_SOURCE_DIR) / "tests/fixtures/gguf" / (name + ".gguf")));
}

/// Most bytes of a file are weights, and every weight is valid. This changes what stands before
/// them: fields and the list of tensors.
std::string damage_begin(const std::string& bytes, Random& random) {
  const size_t size = std::min(bytes.size(), random.any_size(16384) + 24);
  return mutated_bytes(bytes.substr(0, size), "", random) + bytes.substr(size);
}

void file_seeds(const fs::path& folder) {
  copy_seed(folder, "blocks");  // a tensor of every type
  const std::string lists = test::GgufBytes()
                                .text("general.architecture", "llama")
                                .integers("integers", {1, -2, 3})
                                .texts("texts", {"a", "", "c"})
                                .flag("flag", true)
                                .real("real", 0.5f)
                                .bytes();
  write_seed(folder, 1, "model.gguf", lists);
}

void read_everything(const fs::path& path) {
  const GgufFile file = GgufFile::open(path);
  for (const auto& [name, tensor] : file.tensors()) file.load(name);
  if (file.has("integers")) file.integers("integers", -10, 10);
  if (file.has("texts")) file.texts("texts");
  if (file.has("real")) file.number("real");
  file.flag("flag", false);
}

const bool gguf_file = add_target({.name = "gguf_file",
                                   .format = Format::binary,
                                   .file = "model.gguf",
                                   .seeds = file_seeds,
                                   .run = read_everything,
                                   .damage = damage_begin});

void model_seeds(const fs::path& folder) {
  copy_seed(folder, "llama");
  copy_seed(folder, "qwen3");
}

void read_model(const fs::path& path) {
  const GgufModel model(GgufFile::open(path));
  for (const GgufWeight& weight : model.weights()) {
    model.read(weight, [](std::span<const float>) {});
  }
  // Every value that was accepted can be written and read again.
  write_bytes(path.parent_path() / "config.json", model.config().to_json().dump());
  ModelConfig::load(path.parent_path());
}

const bool gguf_model = add_target({.name = "gguf_model",
                                    .format = Format::binary,
                                    .file = "model.gguf",
                                    .seeds = model_seeds,
                                    .run = read_model,
                                    .damage = damage_begin});

void read_tokenizer(const fs::path& path) {
  const fs::path folder = path.parent_path() / "tokenizer";
  fs::remove_all(folder);  // the files of the case before
  for (const auto& [name, text] : gguf_tokenizer_files(GgufFile::open(path))) {
    write_bytes(folder / name, text);
  }
  const auto tokenizer = load_tokenizer(folder);
  tokenizer->decode(tokenizer->encode("Hello, wörld 123\n"));
}

const bool gguf_tokenizer = add_target({.name = "gguf_tokenizer",
                                        .format = Format::binary,
                                        .file = "model.gguf",
                                        .seeds = model_seeds,
                                        .run = read_tokenizer,
                                        .damage = damage_begin});

}  // namespace
}  // namespace cbq::fuzz
