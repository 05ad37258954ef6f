#include "tools/bench/workload.h"

#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cbq/methods.h"
#include "cbq/quantizers.h"
#include "experiments/command_line.h"
#include "kernels/ops.h"
#include "nn/formats/safetensors.h"

namespace cbq::bench {

const std::vector<NamedShape>& named_shapes() {
  static const std::vector<NamedShape> shapes = {
      {"tiny", 16, 32, 4, 4, 12, 2},
      {"embedded", 128, 256, 4, 12, 128, 4},
      {"embedded-384", 128, 384, 4, 12, 128, 4},
      {"smollm2-135m", 576, 1536, 9, 30, 256, 1, 3},
      {"opt-1.3b", 2048, 5504, 32, 24, 2048, 1},
      {"7b", 4096, 11008, 32, 32, 2048, 1},
      {"13b", 5120, 13824, 40, 40, 2048, 1},
      {"30b", 6656, 17920, 52, 60, 2048, 1},
      {"65b", 8192, 22016, 64, 80, 2048, 1},
  };
  return shapes;
}

const NamedShape& shape_of(const std::string& name) {
  std::string known;
  for (const NamedShape& shape : named_shapes()) {
    if (name == shape.name) return shape;
    known += (known.empty() ? "" : ", ") + shape.name;
  }
  throw std::invalid_argument(message_of("unknown shape '", name, "'; known: ", known));
}

NamedShape shape_of_model(const std::filesystem::path& folder) {
  const ModelConfig config = ModelConfig::load(folder / "config.json");
  const std::string name = folder.lexically_normal().filename().string();
  check(config.head_dim * config.num_heads == config.hidden_size, folder.string(), ": ",
        config.num_heads, " heads of ", config.head_dim, " are not as wide as the model (",
        config.hidden_size, "); bench step cannot make such blocks, take a --shape");
  constexpr int64_t tokens = 256;
  return {name.empty() ? folder.string() : name,
          config.hidden_size,
          config.intermediate_size,
          config.num_heads,
          config.num_layers,
          std::min(tokens, config.max_position_embeddings),
          1,
          config.num_kv_heads};
}

void WorkloadOptions::add_to(CLI::App& app) {
  const auto option = [&app](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->capture_default_str();
  };
  app.add_option("--model", model, "model folder whose sizes are taken in place of --shape");
  option("--window", window, "blocks reconstructed together")->check(expect_positive);
  option("--tokens", tokens, "of a segment; 0: the shape's usual ones");
  option("--batch", batch, "segments per step; 0: the shape's usual ones");
  option("--wbits", wbits, "bits of the weights");
  option("--abits", abits, "bits of the inputs of linear layers; 16 leaves them alone");
  option("--rounding", rounding, "variables of SignRound: dense, rank (A1 A2)")
      ->check(CLI::IsMember({"dense", "rank"}));
  option("--rank", rank, "of A1 A2");
  option("--dtype", dtype, "f32, bf16; auto: bf16 on CUDA, else f32");
  option("--device", device, "auto, cpu, cuda or cuda:N");
  option("--threads", threads, "on the CPU; 0: one per core")->check(expect_from_zero);
}

namespace {

ModelConfig config_of(const NamedShape& shape, int64_t blocks, int64_t tokens) {
  ModelConfig config;
  config.vocab_size = 1;
  config.hidden_size = shape.hidden;
  config.intermediate_size = shape.intermediate;
  config.num_layers = blocks;
  config.num_heads = shape.heads;
  config.num_kv_heads = shape.kv_heads > 0 ? shape.kv_heads : shape.heads;
  config.head_dim = shape.hidden / shape.heads;
  config.max_position_embeddings = tokens;
  config.tie_word_embeddings = true;
  return config;
}

Settings settings_of(const WorkloadOptions& options) {
  Settings settings = method_settings("cbq_windows", options.wbits, options.abits);
  settings.window = options.window;
  settings.overlap = std::min<int64_t>(settings.overlap, options.window - 1);
  settings.batch = options.batch;
  settings.epochs = 5000;             // no benchmark gets to where the rates fall
  settings.scale_search = "min_max";  // on random weights a search only costs time
  settings.rounding = "signround";
  settings.parameterization = options.rounding == "rank" ? "low_rank" : "dense";
  settings.rank = options.rank;
  return settings;
}

void fill_parameters(Transformer& model) {
  uint64_t stream = 0;
  model.visit("", [&](const std::string&, Var& p) {
    if (p.value().rank() == 2) {
      const double deviation = 1.0 / std::sqrt(static_cast<double>(p.size(1)));
      kernels::fill_normal(p.value(), 0.0, deviation, 0, stream);
    } else {
      kernels::fill(p.value(), 1.0);
    }
    ++stream;
  });
}

}  // namespace

Workload::Workload(const WorkloadOptions& given)
    : options(given),
      shape(given.model.empty() ? shape_of(given.shape) : shape_of_model(given.model)),
      device(device_from_name(given.device)) {
  if (options.threads > 0) omp_set_num_threads(options.threads);
  options.threads = omp_get_max_threads();
  if (options.tokens == 0) options.tokens = shape.tokens;
  if (options.batch == 0) options.batch = shape.batch;
  if (options.segments == 0) options.segments = 2 * options.batch;
  if (options.dtype == "auto") options.dtype = device.is_cuda() ? "bf16" : "f32";
  dtype = dtype_from_name(options.dtype);
  settings = settings_of(options);
  // A window inside the model: the next one shares its last blocks.
  window = {{0, options.window}, options.window - settings.overlap};
  validate(settings, options.window);
  model = make_model(config_of(shape, options.window, options.tokens), dtype, device);
  fill_parameters(*model);
  data.inputs = Tensor({options.segments, options.tokens, shape.hidden}, dtype, device);
  kernels::fill_normal(data.inputs, 0.0, 1.0, 1, 0);
  data.targets = {run_blocks(*model, window.window, data.inputs)};
  attach_quantizers(*model, window.window, settings, data.inputs);
  reconstructor = std::make_unique<Reconstructor>(*model, settings, window, 0, data);
}

int64_t Workload::weights() const {
  int64_t count = 0;
  for (const WindowLinear& l : linears_of(*model, window.window)) {
    count += l.linear->weight.value().count();
  }
  return count;
}

int64_t Workload::first_weights() const {
  const ScalingSite first = model->blocks.front()->scaling_sites().front();
  int64_t count = 0;
  for (const Linear* consumer : first.consumers) count += consumer->weight.value().count();
  return count;
}

int64_t Workload::stream_bytes() const {
  int64_t bytes = data.inputs.bytes();
  for (const Tensor& t : data.targets) bytes += t.bytes();
  return bytes;
}

std::vector<int64_t> Workload::segments_of(int64_t step) const {
  std::vector<int64_t> segments;
  for (int64_t i = 0; i < options.batch; ++i) {
    segments.push_back((step * options.batch + i) % options.segments);
  }
  return segments;
}

nlohmann::json Workload::description() const {
  return {{"shape", shape.name},       {"window", options.window},     {"tokens", options.tokens},
          {"batch", options.batch},    {"wbits", options.wbits},       {"abits", options.abits},
          {"rank", options.rank},      {"rounding", options.rounding}, {"dtype", options.dtype},
          {"device", name_of(device)}, {"threads", options.threads}};
}

void Workload::dump(const std::filesystem::path& path,
                    const std::map<std::string, std::string>& metadata) const {
  std::map<std::string, Tensor> tensors = {{"inputs", data.inputs}, {"targets", data.targets[0]}};
  for (const WindowLinear& l : linears_of(*model, window.window)) {
    tensors[l.path + ".weight"] = l.linear->weight.value();
    const QuantizedTransform* quantizers = l.quantizers();
    if (quantizers == nullptr || !quantizers->weight_quantizer) continue;
    const WeightGrid& grid = quantizers->weight_quantizer->start_grid();
    tensors[l.path + ".scale"] = grid.scale;
    tensors[l.path + ".zero_point"] = grid.zero_point;
    for (const auto& [name, value] : quantizers->weight_quantizer->snapshot()) {
      if (name == "a1") tensors[l.path + ".a1"] = value;  // all other variables start at zero
    }
  }
  write_safetensors(path, tensors, metadata);
}

Floor floor_of(const Workload& w) {
  const auto weights = static_cast<double>(w.weights());
  const double rows = static_cast<double>(w.options.tokens * w.options.batch);
  const auto element = static_cast<double>(size_of(w.dtype));
  Floor floor;
  // Forward, dL/dW, and dL/dX but for the window's input.
  floor.linear_flops = 2.0 * rows * (3.0 * weights - static_cast<double>(w.first_weights()));
  // Two products forward, four backward, half of each behind the causal mask.
  floor.attention_flops = 6.0 * rows * static_cast<double>(w.options.tokens * w.shape.hidden) *
                          static_cast<double>(w.options.window);
  // W and W^ forward, dW^ and W backward.
  floor.bytes = 4.0 * element * weights;
  // p forward and backward, dp; Adam reads p, dp and two moments and writes all but dp.
  if (w.options.rounding == "dense") floor.bytes += (3.0 + 7.0) * 4.0 * weights;
  return floor;
}

}  // namespace cbq::bench
