// open_model, load_model: a Hugging Face folder -> Transformer (declared in nn/transformer.h).
#include <algorithm>
#include <cstring>
#include <set>

#include "kernels/ops.h"
#include "nn/encoded_layers.h"
#include "nn/families/family.h"
#include "nn/formats/json.h"
#include "nn/formats/safetensors.h"
#include "nn/transformer.h"
#include "tensor/runtime/notice.h"
#include "tensor/runtime/shapes_only.h"

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
  /// Opens the files and compares all headers with config.json, before any tensor gets memory.
  /// `encoded`: null where all parameters are in floating point.
  CheckpointReader(const std::filesystem::path& folder, Dtype dtype, Device device,
                   std::unique_ptr<EncodedLayers> encoded)
      : checkpoint_(folder),
        config_(ModelConfig::load(folder)),
        family_(family_of(config_.architecture)),
        encoded_(std::move(encoded)),
        dtype_(dtype),
        device_(device) {
    const auto tensors = static_cast<int64_t>(checkpoint_.names().size());
    if (config_.num_layers > tensors) {
      fail(where(), "config.json has ", config_.num_layers, " layers, the checkpoint only ",
           tensors, " tensors");
    }
    untie_different_head();
    check_headers();
    report_ignored_config();
  }

  /// config.json, corrected where the tensors contradict it (tied head, dtype).
  const ModelConfig& config() const { return config_; }

  ParameterVisitor reader() const {
    return [this](const std::string& path, Var& p) {
      if (encoded_ && encoded_->encodes(path)) return;
      const Tensor stored = checkpoint_.load(name_of_parameter(path), device_);
      p.set_value(kernels::cast(as_stored(config_, path, stored), dtype_));
    };
  }
  void fill(Block& block, const std::string& prefix) const override {
    block.visit(prefix, reader());
    if (encoded_) encoded_->fill(block, prefix, checkpoint_);
  }

 private:
  std::string where() const { return checkpoint_.path().string() + ": "; }
  std::string name_of_parameter(const std::string& path) const {
    return family_.checkpoint_name(config_, checkpoint_, path);
  }
  /// config.json may tie the head to the embedding although the file holds another head, which then
  /// counts, as in transformers 5.
  void untie_different_head();
  bool has_equal_tensors(const std::string& a, const std::string& b) const;
  /// Names, shapes and dtypes of all tensors, from the headers alone.
  void check_headers();
  void report_ignored_config() const;

  Checkpoint checkpoint_;
  ModelConfig config_;
  const Family& family_;
  std::unique_ptr<EncodedLayers> encoded_;
  Dtype dtype_;
  Device device_;
};

bool CheckpointReader::has_equal_tensors(const std::string& a, const std::string& b) const {
  const SafetensorsFile &file_a = checkpoint_.file_of(a), &file_b = checkpoint_.file_of(b);
  if (file_a.same_tensor(a, file_b, b)) return true;
  const TensorInfo &info_a = file_a.info(a), &info_b = file_b.info(b);
  if (info_a.shape != info_b.shape || info_a.dtype == info_b.dtype) return false;
  const Tensor x = kernels::cast(file_a.load(a), dtype_), y = kernels::cast(file_b.load(b), dtype_);
  return std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.bytes())) == 0;
}

void CheckpointReader::untie_different_head() {
  const std::string head = family_.head_name();
  const std::string embedding = name_of_parameter(family_.embedding_name());
  if (!config_.tie_word_embeddings || !checkpoint_.has(head) || !checkpoint_.has(embedding) ||
      embedding == head || has_equal_tensors(embedding, head)) {
    return;
  }
  config_.tie_word_embeddings = false;
  notice_once(concat("warning: ", where(), "config.json ties the head to the embedding, but ", head,
                     " differs from ", embedding, "; ", head,
                     " is used, as in transformers. Set \"tie_word_embeddings\": false"));
}

void CheckpointReader::check_headers() {
  std::vector<std::string> missing, misshapen;
  std::set<std::string> used;
  const auto compare = [&](const std::string& path, const Shape& shape_here) {
    if (encoded_ && encoded_->encodes(path)) return;
    const std::string name = name_of_parameter(path);
    if (!checkpoint_.has(name)) {
      const std::string reason = checkpoint_.missing_reason(name);
      missing.push_back(reason.empty() ? name : concat(name, " (", reason, ")"));
      return;
    }
    used.insert(name);
    Shape expected = shape_here;
    if (family_.is_transposed(path)) std::reverse(expected.begin(), expected.end());
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
  };
  try {
    std::unique_ptr<Transformer> model;
    {
      const ShapesOnly without_memory;
      model = make_without_blocks(config_, dtype_, device_);
      model->open_blocks(config_.num_layers, nullptr);
    }
    if (encoded_) encoded_->examine(*model, checkpoint_);  // it reads some tensors
    const ShapesOnly without_memory;
    visit_shapes(*model, compare);
  } catch (const std::invalid_argument& error) {  // sizes that no tensor can have
    fail(where(), error.what());
  }
  if (config_.tie_word_embeddings) used.insert(family_.head_name());
  std::vector<std::string> others;
  for (const std::string& name : checkpoint_.names()) {
    const bool is_code = encoded_ && encoded_->uses(name);
    if (!used.count(name) && !is_code && !family_.ignores(name)) others.push_back(name);
  }
  if (!missing.empty()) {
    const bool lacks_head = missing.size() == 1 && missing[0] == family_.head_name();
    fail(where(), "tensors are missing: ", first_few(missing),
         others.empty() ? "" : "; present but not expected: " + first_few(others),
         lacks_head ? "; if the embedding is the head, too, set \"tie_word_embeddings\": true in "
                      "config.json"
                    : "");
  }
  if (!misshapen.empty()) {
    fail(where(), "tensors have the wrong shape for config.json: ", first_few(misshapen));
  }
  if (!others.empty()) {
    notice_once(concat("warning: ", where(), "ignored tensors that ", config_.architecture,
                       " with this config.json does not have: ", first_few(others)));
  }
  if (!config_.states_dtype()) {
    const std::string embedding = name_of_parameter(family_.embedding_name());
    config_.dtype = name_of(checkpoint_.file_of(embedding).dtype(embedding));
  }
}

void CheckpointReader::report_ignored_config() const {
  if (encoded_) return;
  const nlohmann::json config = parse_json(config_.source, where() + "config.json");
  const nlohmann::json& section = json_find(config, "quantization_config", where());
  if (!section.is_object()) return;
  const nlohmann::json& method = json_find(section, "quant_method", where());
  notice_once(concat("warning: ", where(), "\"quantization_config\" of config.json (method ",
                     method.dump(), ") is ignored; the weights are used as they are stored"));
}

}  // namespace

std::unique_ptr<Transformer> open_encoded_model(const std::filesystem::path& folder, Dtype dtype,
                                                Device device,
                                                std::unique_ptr<EncodedLayers> encoded) {
  auto owned = std::make_unique<CheckpointReader>(folder, dtype, device, std::move(encoded));
  const CheckpointReader& reader = *owned;
  std::unique_ptr<Transformer> model = make_without_blocks(reader.config(), dtype, device);
  model->open_blocks(reader.config().num_layers, std::move(owned));
  model->visit_embedding("", reader.reader());
  model->visit_head("", reader.reader());
  return model;
}

std::unique_ptr<Transformer> open_model(const std::filesystem::path& folder, Dtype dtype,
                                        Device device) {
  return open_encoded_model(folder, dtype, device, nullptr);
}

std::unique_ptr<Transformer> load_model(const std::filesystem::path& folder, Dtype dtype,
                                        Device device) {
  std::unique_ptr<Transformer> model = open_model(folder, dtype, device);
  model->load_all_blocks();
  return model;
}

}  // namespace cbq
