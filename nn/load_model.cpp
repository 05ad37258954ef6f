// open_model, load_model: a Hugging Face folder -> Transformer (declared in nn/transformer.h).
#include <set>

#include "kernels/ops.h"
#include "nn/families/family.h"
#include "nn/safetensors.h"
#include "nn/transformer.h"

namespace cbq {
namespace {

std::string first_few(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < 4; ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > 4) text += concat(", ... (", names.size(), " in all)");
  return text;
}

class CheckpointReader : public BlockSource {
 public:
  CheckpointReader(const std::filesystem::path& folder, const ModelConfig& config, Dtype dtype,
                   Device device)
      : checkpoint_(folder),
        config_(config),
        family_(family_of(config.architecture)),
        dtype_(dtype),
        device_(device) {
    // Before anything is allocated: every layer has tensors of its own.
    const auto tensors = static_cast<int64_t>(checkpoint_.names().size());
    if (config.num_layers > tensors) {
      fail(where(), "config.json has ", config.num_layers, " layers, the checkpoint only ", tensors,
           " tensors");
    }
  }

  /// Names, shapes and dtypes of all tensors, from the headers alone.
  void check_headers(Transformer& model) const;

  ParameterVisitor reader() const {
    return [this](const std::string& path, Var& p) {
      p.set_value(kernels::cast(checkpoint_.load(name_of_parameter(path), device_), dtype_));
    };
  }
  void fill(Block& block, const std::string& prefix) const override {
    block.visit(prefix, reader());
  }

 private:
  std::string where() const { return checkpoint_.path().string() + ": "; }
  std::string name_of_parameter(const std::string& path) const {
    return family_.checkpoint_name(checkpoint_, path);
  }
  /// Tensors that no parameter uses and the family does not know to be superfluous.
  std::vector<std::string> unexpected(const std::set<std::string>& used) const {
    std::vector<std::string> others;
    for (const std::string& name : checkpoint_.names()) {
      if (!used.count(name) && !family_.ignores(config_, name)) others.push_back(name);
    }
    return others;
  }

  Checkpoint checkpoint_;
  ModelConfig config_;
  const Family& family_;
  Dtype dtype_;
  Device device_;
};

void CheckpointReader::check_headers(Transformer& model) const {
  std::vector<std::string> missing, misshapen;
  std::set<std::string> used;
  visit_shapes(model, [&](const std::string& path, const Shape& expected) {
    const std::string name = name_of_parameter(path);
    if (!checkpoint_.has(name)) {
      missing.push_back(name);
      return;
    }
    used.insert(name);
    const Shape& shape = checkpoint_.info(name).shape;
    if (shape != expected) {
      misshapen.push_back(
          concat(name, " ", to_string(shape), " (expected ", to_string(expected), ")"));
      return;
    }
    const Dtype dtype = checkpoint_.file_of(name).dtype(name);
    if (!is_float(dtype)) {
      fail(where(), name, " holds ", name_of(dtype),
           ", not floating-point weights; is it a quantized model?");
    }
  });
  const std::vector<std::string> others = unexpected(used);
  if (!missing.empty()) {
    fail(where(), "tensors are missing: ", first_few(missing),
         others.empty() ? "" : "; present but not expected: " + first_few(others));
  }
  if (!misshapen.empty()) {
    fail(where(), "tensors have the wrong shape for config.json: ", first_few(misshapen));
  }
  if (!others.empty()) {
    fail(where(), "tensors that ", config_.architecture,
         " with this config.json does not have: ", first_few(others));
  }
}

}  // namespace

std::unique_ptr<Transformer> open_model(const std::filesystem::path& folder, Dtype dtype,
                                        Device device) {
  const ModelConfig config = ModelConfig::load(folder);
  auto reader = std::make_unique<CheckpointReader>(folder, config, dtype, device);
  std::unique_ptr<Transformer> model = make_without_blocks(config, dtype, device);
  const CheckpointReader& checkpoint = *reader;
  model->open_blocks(config.num_layers, std::move(reader));
  checkpoint.check_headers(*model);
  model->visit_embedding("", checkpoint.reader());
  model->visit_head("", checkpoint.reader());
  return model;
}

std::unique_ptr<Transformer> load_model(const std::filesystem::path& folder, Dtype dtype,
                                        Device device) {
  std::unique_ptr<Transformer> model = open_model(folder, dtype, device);
  model->load_all_blocks();
  return model;
}

}  // namespace cbq
