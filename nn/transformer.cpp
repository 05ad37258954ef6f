#include "nn/transformer.h"

#include <cmath>
#include <map>
#include <set>

#include "kernels/ops.h"
#include "nn/families/family.h"
#include "nn/json.h"
#include "nn/safetensors.h"

namespace cbq {

Var Transformer::forward(const Tensor& ids, const Sequence& sequence) {
  Var x = embed(ids, sequence);
  for (auto& block : blocks) x = block->forward(x, sequence);
  return head(x);
}

void Transformer::check_sequence(const Tensor& ids, const Sequence& s) const {
  check(ids.count() == s.batch * s.tokens, "embed: ", ids.count(), " ids for ", s.batch, " x ",
        s.tokens, " tokens");
  const bool windowed = config.context() < config.max_position_embeddings;
  check(s.tokens <= config.context(), "a sequence of ", s.tokens, " tokens exceeds the model's ",
        windowed ? "attention window of " : "context of ", config.context(),
        windowed ? " (sliding windows beyond it are not implemented)" : "",
        "; use shorter segments (--segment-length)");
}

std::unique_ptr<Transformer> make_model(const ModelConfig& config, Dtype dtype, Device device) {
  return family_of(config.architecture).make(config, dtype, device);
}

void initialize(Transformer& model, uint64_t seed) {
  const double deviation = 0.02;
  const double residual = deviation / std::sqrt(2.0 * static_cast<double>(model.block_count()));
  std::set<std::string> onto_residual;  // o_proj and down_proj: they write the residual stream
  for (int64_t i = 0; i < model.block_count(); ++i) {
    Block& block = *model.blocks[static_cast<size_t>(i)];
    onto_residual.insert(model.block_prefix(i) + block.fc2_name() + ".weight");
    onto_residual.insert(model.block_prefix(i) + block.attention_output_name() + ".weight");
  }
  uint64_t stream = 0;
  model.visit("", [&](const std::string& path, Var& p) {
    if (p.value().rank() == 2) {
      kernels::fill_normal(p.value(), 0.0, onto_residual.count(path) ? residual : deviation, seed,
                           stream);
    } else {
      kernels::fill(p.value(), path.ends_with("bias") ? 0.0 : 1.0);
    }
    ++stream;
  });
}

namespace {

std::string first_few(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < 4; ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > 4) text += concat(", ... (", names.size(), " in all)");
  return text;
}

}  // namespace

std::unique_ptr<Transformer> load_model(const std::filesystem::path& folder, Dtype dtype,
                                        Device device) {
  const ModelConfig config = ModelConfig::load(folder);
  const Family& family = family_of(config.architecture);
  const Checkpoint checkpoint(folder);
  // Before anything is allocated: every layer has tensors of its own.
  if (config.num_layers > static_cast<int64_t>(checkpoint.names().size())) {
    fail(folder.string(), ": config.json has ", config.num_layers, " layers, the checkpoint only ",
         checkpoint.names().size(), " tensors");
  }
  std::unique_ptr<Transformer> model = family.make(config, dtype, device);
  std::vector<std::string> missing, misshapen;
  std::set<std::string> used;
  model->visit("", [&](const std::string& path, Var& p) {
    const std::string name = family.checkpoint_name(checkpoint, path);
    if (!checkpoint.has(name)) {
      missing.push_back(name);
      return;
    }
    used.insert(name);
    const Shape shape = checkpoint.info(name).shape;
    if (shape != p.shape()) {
      misshapen.push_back(
          concat(name, " ", to_string(shape), " (expected ", to_string(p.shape()), ")"));
      return;
    }
    const Tensor value = checkpoint.load(name, device);
    if (!is_float(value.dtype())) {
      fail(folder.string(), ": ", name, " holds ", name_of(value.dtype()),
           ", not floating-point weights; is it a quantized model?");
    }
    p.set_value(kernels::cast(value, dtype));
  });
  if (!missing.empty()) {
    std::vector<std::string> others;
    for (const std::string& name : checkpoint.names()) {
      if (!used.count(name) && !family.ignores(config, name)) others.push_back(name);
    }
    fail(folder.string(), ": tensors are missing: ", first_few(missing),
         others.empty() ? "" : "; present but not expected: " + first_few(others));
  }
  if (!misshapen.empty()) {
    fail(folder.string(), ": tensors have the wrong shape for config.json: ", first_few(misshapen));
  }
  std::vector<std::string> unexpected;
  for (const std::string& name : checkpoint.names()) {
    if (!used.count(name) && !family.ignores(config, name)) unexpected.push_back(name);
  }
  if (!unexpected.empty()) {
    fail(folder.string(), ": tensors that ", config.architecture,
         " with this config.json does not ", "have: ", first_few(unexpected));
  }
  return model;
}

void save_model(Transformer& model, const std::filesystem::path& folder, Dtype dtype) {
  std::filesystem::create_directories(folder);
  std::map<std::string, Tensor> tensors;
  model.visit("", [&](const std::string& path, Var& p) {
    tensors[path] = kernels::cast(p.value(), dtype).to(Device::cpu());
  });
  ModelConfig config = model.config;
  config.dtype = name_of(dtype);
  write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
  write_text_atomically(folder / "config.json", config.to_json().dump(2) + "\n");
}

}  // namespace cbq
