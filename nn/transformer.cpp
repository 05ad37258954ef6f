#include "nn/transformer.h"

#include <cmath>
#include <map>
#include <set>

#include "kernels/attention/varlen_rows.h"
#include "kernels/ops.h"
#include "nn/block_walk.h"
#include "nn/families/family.h"
#include "nn/formats/json.h"
#include "nn/formats/safetensors.h"
#include "tensor/runtime/shapes_only.h"

namespace cbq {

Var Transformer::forward(const Tensor& ids, const Sequence& sequence) {
  Var x = embed(ids, sequence);
  for_each_block(*this, [&](Block& block, int64_t /*i*/) { x = block.forward(x, sequence); });
  return head(x);
}

void Transformer::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  visit_embedding(prefix, visitor);
  for (int64_t i = 0; i < block_count(); ++i) block(i).visit(prefix + block_prefix(i), visitor);
  visit_head(prefix, visitor);
}

Block& Transformer::block(int64_t i) const {
  check(i >= 0 && i < block_count(), "block ", i, " of a model of ", block_count(), " blocks");
  const std::unique_ptr<Block>& found = blocks[static_cast<size_t>(i)];
  check(
      found != nullptr, "block ", i, " (", [&] { return block_prefix(i); },
      "*) is not in memory; load_block(", i, ") brings it there");
  return *found;
}

std::unique_ptr<Block> Transformer::make_block_at(int64_t /*i*/) const { return make_block(); }

void Transformer::load_block(int64_t i) {
  std::unique_ptr<Block>& place = blocks.at(static_cast<size_t>(i));
  if (!place) place = fetch_block(i);
}

void Transformer::release_block(int64_t i) {
  check(on_demand(), "release_block: block ", i, " has no file to come back from");
  blocks.at(static_cast<size_t>(i)).reset();
}

std::unique_ptr<Block> Transformer::fetch_block(int64_t i) const {
  check(on_demand(), "fetch_block: block ", i, " has no file to come from");
  std::unique_ptr<Block> fetched = make_block_at(i);
  source_->fill(*fetched, block_prefix(i));
  for (const auto& change : changes_) change(*fetched, i);
  return fetched;
}

ResidualEnds Transformer::residual_ends() {
  ResidualEnds ends;
  ends.obstacle = "the family does not say what reads and writes its residual stream";
  return ends;
}

void Transformer::untie_head() {
  check(!config.tie_word_embeddings, config.architecture, ": the head cannot be untied");
}

void Transformer::change_blocks(std::function<void(Block&, int64_t)> change) {
  for (int64_t i = 0; i < block_count(); ++i) {
    if (is_loaded(i)) change(block(i), i);
  }
  if (on_demand()) changes_.push_back(std::move(change));
}

void Transformer::load_all_blocks() {
  for (int64_t i = 0; i < block_count(); ++i) load_block(i);
  source_ = nullptr;
}

void Transformer::open_blocks(int64_t count, std::unique_ptr<BlockSource> source) {
  blocks.clear();
  blocks.resize(static_cast<size_t>(count));
  source_ = std::move(source);
}

LoadedBlock::LoadedBlock(Transformer& model, int64_t i) : model_(model) {
  if (model.is_loaded(i)) return;
  model.load_block(i);
  loaded_ = i;
}

LoadedBlock::~LoadedBlock() {
  if (loaded_ >= 0) model_.blocks[static_cast<size_t>(loaded_)].reset();
}

void visit_shapes(Transformer& model,
                  const std::function<void(const std::string&, const Shape&)>& f) {
  const ParameterVisitor visitor = [&](const std::string& path, Var& p) { f(path, p.shape()); };
  model.visit_embedding("", visitor);
  for (int64_t i = 0; i < model.block_count(); ++i) {
    const ShapesOnly without_memory;
    model.make_block_at(i)->visit(model.block_prefix(i), visitor);
  }
  model.visit_head("", visitor);
}

void read_parameters(Transformer& model,
                     const std::function<void(const std::string&, const Tensor&)>& f) {
  const ParameterVisitor visitor = [&](const std::string& path, Var& p) { f(path, p.value()); };
  model.visit_embedding("", visitor);
  for_each_block(model,
                 [&](Block& block, int64_t i) { block.visit(model.block_prefix(i), visitor); });
  model.visit_head("", visitor);
}

int64_t parameter_bytes(Transformer& model) {
  int64_t bytes = 0;
  visit_shapes(model, [&](const std::string&, const Shape& shape) {
    bytes += element_count(shape) * size_of(model.dtype());
  });
  return bytes;
}

void Transformer::check_sequence(const Tensor& ids, const Sequence& s) const {
  check(ids.count() == s.batch * s.tokens, "embed: ", ids.count(), " ids for ", s.batch, " x ",
        s.tokens, " tokens");
  check(s.varlen == nullptr || s.varlen->rows() == ids.count(), "embed: ", ids.count(),
        " ids for varlen rows of another number");
  const int64_t tokens = s.varlen != nullptr ? s.varlen->longest() : s.past + s.tokens;
  const bool windowed = config.context() < config.max_position_embeddings;
  check(tokens <= config.context(), "a sequence of ", tokens, " tokens exceeds the model's ",
        windowed ? "attention window of " : "context of ", config.context(),
        windowed ? " (sliding windows beyond it are not implemented)" : "",
        "; use shorter segments (--segment-length)");
}

std::vector<int32_t> Transformer::positions_of(const Sequence& s) {
  if (s.varlen != nullptr) return s.varlen->positions().to_vector<int32_t>();
  std::vector<int32_t> positions;
  for (int64_t i = 0; i < s.batch * s.tokens; ++i) {
    positions.push_back(static_cast<int32_t>(s.past + i % s.tokens));
  }
  return positions;
}

std::unique_ptr<Transformer> make_without_blocks(const ModelConfig& config, Dtype dtype,
                                                 Device device) {
  return family_of(config.architecture).make(config, dtype, device);
}

std::unique_ptr<Transformer> make_model(const ModelConfig& config, Dtype dtype, Device device) {
  std::unique_ptr<Transformer> model = make_without_blocks(config, dtype, device);
  for (int64_t i = 0; i < config.num_layers; ++i) model->blocks.push_back(model->make_block_at(i));
  return model;
}

void initialize(Transformer& model, uint64_t seed) {
  const double deviation = 0.02;
  const double residual = deviation / std::sqrt(2.0 * static_cast<double>(model.block_count()));
  std::set<std::string> onto_residual;  // o_proj and down_proj: they write the residual stream
  for (int64_t i = 0; i < model.block_count(); ++i) {
    Block& block = model.block(i);
    for (const NamedLinear& l : block.linears()) {
      if (!block.is_fc2(l.name)) continue;
      onto_residual.insert(model.block_prefix(i) + l.name + ".weight");
    }
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

Tensor as_stored(const ModelConfig& config, const std::string& path, const Tensor& value) {
  const bool turns = family_of(config.architecture).is_transposed(path);
  return turns ? kernels::transpose(value) : value;
}

void save_model(Transformer& model, const std::filesystem::path& folder, Dtype dtype) {
  for (int64_t i = 0; i < model.block_count(); ++i) {
    for (const NamedLinear& named : model.block(i).linears()) {
      check(!named.linear->online, "save_model: ", named.name,
            " has an online part, which a plain folder cannot hold");
    }
  }
  std::filesystem::create_directories(folder);
  std::map<std::string, Tensor> tensors;
  model.visit("", [&](const std::string& path, Var& p) {
    const Tensor stored = as_stored(model.config, path, p.value());
    tensors[path] = kernels::cast(stored, dtype).to(Device::cpu());
  });
  ModelConfig config = model.config;
  config.dtype = name_of(dtype);
  write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
  write_text_atomically(folder / "config.json", config.to_json().dump(2) + "\n");
}

}  // namespace cbq
