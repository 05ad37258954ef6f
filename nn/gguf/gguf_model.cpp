#include "nn/gguf/gguf_model.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "nn/config_fields.h"
#include "nn/gguf/gguf_config.h"
#include "nn/gguf/gguf_names.h"
#include "nn/gguf/gguf_vocabulary.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr int64_t max_size = max_config_size;
constexpr int64_t values_at_once = int64_t{1} << 20;

bool is_near(double a, double b) { return std::abs(a - b) <= 1e-3 * std::abs(b); }

}  // namespace

GgufModel::GgufModel(GgufFile file) : file_(std::move(file)) {
  read_config();
  const ModelConfig& c = config_;
  add("model.embed_tokens.weight", "token_embd.weight", {c.vocab_size, c.hidden_size});
  for (int64_t block = 0; block < c.num_layers; ++block) add_block(block);
  add("model.norm.weight", "output_norm.weight", {c.hidden_size});
  if (!c.tie_word_embeddings) {
    add("lm_head.weight", "output.weight", {c.vocab_size, c.hidden_size});
  }
  refuse_unused_tensors();
}

void GgufModel::read_config() {
  architecture_ = file_.text("general.architecture");
  if (architecture_ != "llama" && architecture_ != "qwen2" && architecture_ != "qwen3") {
    fail(file_.path().string(), ": the architecture \"", architecture_,
         "\" is not supported; supported: llama (LLaMA, Mistral), qwen2, qwen3");
  }
  if (file_.has("split.count") && file_.integer("split.count", 0, max_size) > 1) {
    fail(file_.path().string(), " is one of several files of a model; merge them first with ",
         "llama.cpp's llama-gguf-split --merge");
  }
  const std::string prefix = architecture_ + ".";
  const auto size = [&](const char* key) { return file_.integer(prefix + key, 1, max_size); };
  // Some files give a number per block; all blocks of the architectures here are alike.
  const auto size_of_all = [&](const char* key, int64_t fallback) {
    if (!file_.has(prefix + key)) return fallback;
    const std::vector<int64_t> all = file_.integers(prefix + key, 1, max_size);
    if (all.empty() || std::any_of(all.begin(), all.end(), [&](auto n) { return n != all[0]; })) {
      fail(file_.path().string(), ": \"", prefix, key, "\" differs between blocks, which is not ",
           "supported");
    }
    return all[0];
  };
  if (file_.has(prefix + "expert_count") &&
      file_.integer(prefix + "expert_count", 0, max_size) > 0) {
    fail(file_.path().string(), ": a mixture of experts (\"", prefix,
         "expert_count\") is not supported");
  }
  ModelConfig& c = config_;
  const bool has_window = file_.has(prefix + "attention.sliding_window");
  c.architecture = architecture_ == "qwen2"   ? "Qwen2ForCausalLM"
                   : architecture_ == "qwen3" ? "Qwen3ForCausalLM"
                   : has_window               ? "MistralForCausalLM"
                                              : "LlamaForCausalLM";
  c.model_type = architecture_ == "llama" && has_window ? "mistral" : architecture_;
  c.hidden_size = size("embedding_length");
  c.num_layers = size("block_count");
  c.intermediate_size = size_of_all("feed_forward_length", 0);
  if (c.intermediate_size == 0) size("feed_forward_length");  // says that it is missing
  c.num_heads = size_of_all("attention.head_count", 0);
  if (c.num_heads == 0) size("attention.head_count");
  c.num_kv_heads = size_of_all("attention.head_count_kv", c.num_heads);
  if (!file_.has(prefix + "attention.key_length") && c.hidden_size % c.num_heads != 0) {
    fail(file_.path().string(), ": \"", prefix, "embedding_length\" (", c.hidden_size,
         ") is no multiple of \"", prefix, "attention.head_count\" (", c.num_heads, ")");
  }
  c.head_dim = size_of_all("attention.key_length", c.hidden_size / c.num_heads);
  if (size_of_all("attention.value_length", c.head_dim) != c.head_dim) {
    fail(file_.path().string(), ": \"", prefix, "attention.value_length\" differs from the length ",
         "of keys (", c.head_dim, "), which is not supported");
  }
  if (has_window) c.sliding_window = size_of_all("attention.sliding_window", 0);
  c.max_position_embeddings = size("context_length");
  c.norm_eps = file_.number(prefix + "attention.layer_norm_rms_epsilon");
  const Shape& embedding = file_.tensor("token_embd.weight").shape;
  c.vocab_size = embedding.front();
  c.tie_word_embeddings = !file_.has_tensor("output.weight");
  const bool attention_bias =
      has_any({"attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"});
  c.attention_bias = attention_bias || architecture_ == "qwen2";
  c.attention_output_bias = attention_bias && architecture_ != "qwen2";
  c.mlp_bias =
      architecture_ == "llama" && has_any({"ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"});
  if (has_window && architecture_ == "llama" && (c.attention_bias || c.mlp_bias)) {
    fail(file_.path().string(), ": biases together with an attention window (\"", prefix,
         "attention.sliding_window\") are not supported");
  }
  c.qk_norm = architecture_ == "qwen3";
  read_rope(prefix);

  c.bos_token_id = gguf_token_id(file_, "bos_token_id");
  c.eos_token_ids.clear();
  for (const char* key : {"eos_token_id", "eot_token_id"}) {
    const int64_t id = gguf_token_id(file_, key);
    const auto& ids = c.eos_token_ids;
    if (id >= 0 && std::find(ids.begin(), ids.end(), id) == ids.end())
      c.eos_token_ids.push_back(id);
  }
  try {
    c.validate();
  } catch (const std::invalid_argument& error) {
    fail(file_.path().string(), ": ", error.what());
  }
}

void GgufModel::read_rope(const std::string& prefix) {
  const std::string path = file_.path().string();
  RopeConfig& rope = config_.rope;
  const std::string scaling = prefix + "rope.scaling.";
  if (file_.has(prefix + "rope.dimension_count")) {
    const int64_t rotated = file_.integer(prefix + "rope.dimension_count", 0, max_size);
    if (rotated != config_.head_dim) {
      fail(path, ": \"", prefix, "rope.dimension_count\" is ", rotated, ", but a head has ",
           config_.head_dim, " values; rotating a part of them is not supported");
    }
  }
  if (file_.has(prefix + "rope.freq_base")) rope.theta = file_.number(prefix + "rope.freq_base");
  // As llama.cpp has it: the type of a file that names none is linear, "scale_linear" is the name
  // of the factor in old files, and the factors 0 and 1 change nothing.
  const std::string type = file_.text(scaling + "type", "linear");
  if (type == "linear") {
    double factor = 1.0;
    for (const std::string& key : {prefix + "rope.scale_linear", scaling + "factor"}) {
      if (file_.has(key)) factor = file_.number(key);
    }
    if (factor != 0.0 && factor != 1.0) {
      rope.type = "linear";
      rope.factor = factor;
    }
  } else if (type != "none") {
    fail(path, ": the scaling \"", type, "\" of rotary frequencies (\"", scaling,
         "type\") is not supported; supported: none, linear, and LLaMA 3.1's");
  }
  if (!file_.has_tensor("rope_freqs.weight")) return;

  // LLaMA 3.1's rule, of which the file holds only the results: what each frequency is divided by.
  const auto half = static_cast<size_t>(config_.head_dim / 2);
  const Shape& shape = file_.tensor("rope_freqs.weight").shape;
  if (shape != Shape{config_.head_dim / 2} || rope.type != "default") {
    fail(path, ": \"rope_freqs.weight\" must have ", half,
         " values and no other scaling beside it; its shape is ", to_string(shape),
         ", and the scaling is ", rope.type);
  }
  const std::vector<double> divisors = file_.load("rope_freqs.weight").to_vector<double>();
  if (std::all_of(divisors.begin(), divisors.end(), [](double d) { return d == 1.0; })) return;
  RopeConfig guess = rope;
  guess.type = "llama3";
  guess.factor = divisors.back();
  guess.low_freq_factor = 1.0;
  guess.high_freq_factor = 4.0;
  guess.original_max_position_embeddings =
      file_.has(scaling + "original_context_length")
          ? file_.integer(scaling + "original_context_length", 1, max_size)
          : 8192;
  for (size_t j = 0; j < half; ++j) {
    const double expected = gguf_llama3_divisor(guess, config_.head_dim, static_cast<int64_t>(j));
    if (!is_near(divisors[j], expected)) {
      fail(path, ": \"rope_freqs.weight\" divides frequency ", j, " by ", divisors[j],
           "; LLaMA 3.1's rule with the factor ", guess.factor, " and the context ",
           guess.original_max_position_embeddings, " gives ", expected,
           ", and no other rule is supported");
    }
  }
  rope = guess;
}

bool GgufModel::has_any(const std::vector<const char*>& parts) const {
  for (int64_t block = 0; block < config_.num_layers; ++block) {
    for (const char* part : parts) {
      if (file_.has_tensor(concat("blk.", block, ".", part))) return true;
    }
    if (!file_.has_tensor(concat("blk.", block, ".attn_norm.weight"))) break;  // named below
  }
  return false;
}

void GgufModel::add(const std::string& name, const std::string& source, Shape shape,
                    int64_t heads) {
  if (file_.tensor(source).shape != shape) {
    fail(file_.path().string(), ": tensor \"", source, "\" has the shape ",
         to_string(file_.tensor(source).shape), "; the configuration asks for ", to_string(shape));
  }
  weights_.push_back({name, std::move(shape), source, heads});
}

void GgufModel::add_block(int64_t block) {
  const ModelConfig& c = config_;
  const std::string theirs = concat("blk.", block, "."), ours = concat("model.layers.", block, ".");
  const int64_t q_rows = c.num_heads * c.head_dim, kv_rows = c.num_kv_heads * c.head_dim;
  const auto norm = [&](const GgufPart& part, int64_t size) {
    add(ours + part.ours + ".weight", theirs + part.theirs + ".weight", {size});
  };
  // `heads`: of an interleaved tensor.
  const auto linear = [&](const GgufPart& part, int64_t rows, int64_t columns, bool has_bias,
                          int64_t heads = 0) {
    if (architecture_ != "llama") heads = 0;
    add(ours + part.ours + ".weight", theirs + part.theirs + ".weight", {rows, columns}, heads);
    if (!has_bias) return;
    const std::string name = ours + part.ours + ".bias", source = theirs + part.theirs + ".bias";
    if (file_.has_tensor(source) || architecture_ == "qwen2") {
      add(name, source, {rows}, heads);
    } else {  // the configuration gives all of them a bias or none
      weights_.push_back({name, {rows}, "", 0});
    }
  };
  norm(gguf_attention_norm, c.hidden_size);
  linear(gguf_q, q_rows, c.hidden_size, c.attention_bias, c.num_heads);
  linear(gguf_k, kv_rows, c.hidden_size, c.attention_bias, c.num_kv_heads);
  linear(gguf_v, kv_rows, c.hidden_size, c.attention_bias);
  linear(gguf_o, c.hidden_size, q_rows, c.attention_output_bias);
  if (c.qk_norm) {
    norm(gguf_q_norm, c.head_dim);
    norm(gguf_k_norm, c.head_dim);
  }
  norm(gguf_ffn_norm, c.hidden_size);
  linear(gguf_gate, c.intermediate_size, c.hidden_size, c.mlp_bias);
  linear(gguf_up, c.intermediate_size, c.hidden_size, c.mlp_bias);
  linear(gguf_down, c.hidden_size, c.intermediate_size, c.mlp_bias);
}

void GgufModel::refuse_unused_tensors() const {
  std::set<std::string> used = {"rope_freqs.weight"};
  for (const GgufWeight& weight : weights_) used.insert(weight.source);
  for (const auto& [name, tensor] : file_.tensors()) {
    if (used.contains(name) || name.ends_with(".attn_rot_embd.weight")) continue;
    fail(file_.path().string(), ": tensor \"", name, "\" ", to_string(tensor.shape),
         " is no part of the architecture ", config_.architecture, " with ", config_.num_layers,
         " blocks; without it the model would compute something else");
  }
}

void GgufModel::read(const GgufWeight& weight,
                     const std::function<void(std::span<const float>)>& piece) const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < weight.shape.size(); ++i) rows *= weight.shape[i];
  const int64_t columns = weight.shape.back();
  std::vector<float> values;
  if (weight.source.empty()) {
    values.assign(static_cast<size_t>(rows * columns), 0.0f);
    return piece(values);
  }
  const GgufTensor& tensor = file_.tensor(weight.source);
  if (weight.interleaved_heads == 0) {
    const int64_t rows_at_once = std::max<int64_t>(1, values_at_once / columns);
    for (int64_t row = 0; row < rows; row += rows_at_once) {
      const int64_t count = std::min(rows_at_once, rows - row);
      values.resize(static_cast<size_t>(count * columns));
      file_.read_rows(tensor, row, count, values.data());
      piece(values);
    }
    return;
  }
  // A bias is a single row, whose values take the places of a weight's rows.
  const bool is_bias = weight.shape.size() == 1;
  const int64_t width = is_bias ? 1 : columns, half = config_.head_dim / 2;
  const int64_t heads_at_once = is_bias ? weight.interleaved_heads : 1;
  std::vector<float> ordered;
  for (int64_t head = 0; head < weight.interleaved_heads; head += heads_at_once) {
    values.resize(static_cast<size_t>(heads_at_once * config_.head_dim * width));
    ordered.resize(values.size());
    file_.read_rows(tensor, is_bias ? 0 : head * config_.head_dim, is_bias ? 1 : config_.head_dim,
                    values.data());
    for (int64_t row = 0; row < heads_at_once * config_.head_dim; ++row) {
      const int64_t first = row / config_.head_dim * config_.head_dim, place = row - first;
      const int64_t from = first + place % half * 2 + place / half;
      std::copy_n(values.begin() + from * width, width, ordered.begin() + row * width);
    }
    piece(ordered);
  }
}

}  // namespace cbq
