// cbq convert: a GGUF file -> a model folder.
#include <CLI/CLI.hpp>
#include <cmath>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cbq/pipeline.h"
#include "experiments/progress.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/checkpoint_writer.h"
#include "nn/gguf/gguf_model.h"
#include "nn/gguf/gguf_tokenizer.h"
#include "nn/text/tokenizer.h"
#include "tools/cli/command.h"
#include "tools/cli/output_folder.h"

namespace cbq::cli {
namespace {

struct Options {
  std::string file, output, dtype = "f32", pre_tokenizer;
  double max_file_gb = 5.0;
  bool overwrite = false;
};

/// Values in the type that is written. Throws for one that is not finite, or would not be.
template <class T>
std::vector<T> narrowed(std::span<const float> values, const std::string& what, Dtype dtype) {
  std::vector<T> result;
  result.reserve(values.size());
  for (const float value : values) {
    const T narrow(value);
    if (!std::isfinite(static_cast<float>(narrow))) {
      if (!std::isfinite(value)) fail(what, " holds ", value, ", which is no weight");
      fail(what, " holds ", value, ", which is too large for ", name_of(dtype),
           "; give another --dtype");
    }
    result.push_back(narrow);
  }
  return result;
}

void append(CheckpointWriter& writer, std::span<const float> values, const std::string& what,
            Dtype dtype) {
  dispatch_float(dtype, "cbq convert", [&]<class T>() {
    const std::vector<T> narrow = narrowed<T>(values, what, dtype);
    writer.append(narrow.data(), static_cast<int64_t>(narrow.size() * sizeof(T)));
  });
}

void convert(const Options& o) {
  const Dtype dtype = weight_dtype("--dtype", o.dtype);
  const double max_bytes = o.max_file_gb * 1e9;
  check(max_bytes >= 1 && max_bytes < 1e18, "--max-file-size ", o.max_file_gb,
        ": expected gigabytes, more than 0");
  catch_interrupts();
  const GgufModel model(GgufFile::open(o.file));
  const auto tokenizer_files = gguf_tokenizer_files(model.file(), o.pre_tokenizer);

  OutputFolder folder(o.output, o.overwrite);
  for (const auto& [name, text] : tokenizer_files) {
    write_text_atomically(folder.partial() / name, text);
  }
  // What this program will read is read once now, before minutes of work.
  if (!tokenizer_files.empty()) {
    check_tokenizer_fits(*load_tokenizer(folder.partial()), model.config().vocab_size, o.file);
  }
  ModelConfig config = model.config();
  config.dtype = name_of(dtype);
  write_text_atomically(folder.partial() / "config.json", config.to_json().dump(2) + "\n");
  ModelConfig::load(folder.partial());

  std::vector<PlannedTensor> plan;
  for (const GgufWeight& weight : model.weights()) {
    plan.push_back({weight.name, dtype, weight.shape});
  }
  CheckpointWriter writer(folder.partial(), plan, static_cast<int64_t>(max_bytes));
  Progress progress(std::cerr, stderr_is_terminal());
  int64_t done = 0;
  const auto total = static_cast<int64_t>(model.weights().size());
  for (const GgufWeight& weight : model.weights()) {
    progress.update(done++, total, weight.name);
    model.read(weight, [&](std::span<const float> values) {
      if (interrupted()) throw Interrupted("interrupted; " + o.output + " was not written");
      append(writer, values, concat(o.file, ": tensor \"", weight.source, "\""), dtype);
    });
  }
  writer.finish();
  progress.finish();
  folder.publish();
  std::cout << o.output << ": " << config.architecture << ", " << config.num_layers << " blocks, "
            << total << " tensors in " << writer.files() << " file(s), "
            << writer.total_bytes() / 1'000'000 << " MB of " << o.dtype << "\n";
}

}  // namespace

Action setup_convert(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("file", o->file, "GGUF file (llama, qwen2, qwen3)")->required();
  app.add_option("-o,--output", o->output, "model folder to write")->required();
  app.add_option("--dtype", o->dtype, "type of the weights written: f32, bf16, f16")
      ->capture_default_str();
  app.add_option("--max-file-size", o->max_file_gb, "gigabytes per file of weights")
      ->capture_default_str();
  app.add_option("--pre-tokenizer", o->pre_tokenizer,
                 "how texts are divided into words, where the file does not say: " +
                     known_gguf_pre_tokenizers());
  app.add_flag("--overwrite", o->overwrite, "replace a model folder that is there");
  return [o] { convert(*o); };
}

}  // namespace cbq::cli
