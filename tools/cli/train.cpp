// cbq train: a language model from scratch.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "cbq/job_identity.h"
#include "cbq/quantized_folder.h"
#include "experiments/progress.h"
#include "nn/families/family.h"
#include "nn/formats/hash.h"
#include "nn/formats/json.h"
#include "nn/formats/output_lock.h"
#include "nn/formats/sealed_files.h"
#include "nn/trainer.h"
#include "tensor/runtime/environment.h"
#include "tensor/runtime/program_version.h"
#include "tools/cli/companions.h"
#include "tools/cli/evaluation.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace cbq::cli {
namespace {

struct Options {
  std::vector<std::string> texts;
  std::string tokenizer, output, family = "llama", dtype = "bf16";
  ModelConfig shape;
  bool has_intermediate = false, has_kv_heads = false;  // somebody gave these two
  TrainSettings train;
  EvaluationOptions evaluation;
  ComputeOptions compute;

  Options() {
    shape.num_layers = 12;
    shape.hidden_size = 128;
    shape.intermediate_size = 384;
    shape.num_heads = 4;
    shape.num_kv_heads = 4;
    shape.max_position_embeddings = 256;
    shape.norm_eps = 1e-5;
  }
};

/// Ids of the texts. Encoding 30 MB takes a minute and a half, so they are kept in the output
/// folder, under a name that tells text and tokenizer.
std::vector<int32_t> training_ids(const Options& o, const Tokenizer& tokenizer, std::string& key) {
  uint64_t hash = hash_bytes(tokenizer.hash());
  for (const std::string& path : o.texts) hash = hash_bytes(read_text(path), hash);
  key = hex(hash);
  const fs::path cache = fs::path(o.output) / ("tokens-" + key + ".h5");
  if (fs::exists(cache)) {
    try {
      check_seal(cache);
      const TokenSet kept = load_tokens(cache);
      std::cerr << "token ids from " << cache.string() << std::endl;
      return kept.segments.at(0);
    } catch (const DamagedFile& damage) {
      std::cerr << "encoded again: " << damage.what() << std::endl;
    }
  }
  std::cerr << "encoding " << o.texts.size() << " text(s) ..." << std::endl;
  TokenSet set{{tokenize_files(o.texts, tokenizer)}, "one text", tokenizer.hash(), key};
  // Before anything is written: the trainer would say it, too, but beside a folder that is in vain.
  check(set.token_count() >= 2 * o.train.tokens + 1, "the text has ", set.token_count(),
        " tokens, too few for segments of ", o.train.tokens,
        "; give more text or a smaller --tokens");
  fs::create_directories(o.output);
  save_tokens(cache, set, /*is_sealed=*/true);
  return set.segments[0];
}

/// What must not change between the parts of an interrupted training run. Steps, rates and decay
/// may: a run can be prolonged.
json identity_of(const Options& o, const ModelConfig& config, Device device,
                 const std::string& text_key) {
  return {{"model", config.to_json()},
          {"text", text_key},
          {"batch", o.train.batch},
          {"tokens", o.train.tokens},
          {"seed", o.train.seed},
          {"device", name_of_processor(device)},
          {"environment", bits_of_environment()},
          {"program version", program_version()}};
}

void check_identity(const fs::path& folder, const json& identity) {
  const fs::path path = folder / "training.json", state = folder / "training.safetensors";
  if (fs::exists(state)) {
    check(fs::exists(path), state.string(), " is there without training.json, which says what it ",
          "was trained on; put that file back, or give an empty --output");
    const json earlier = read_json_file(path);
    // Without a checksum an earlier program wrote it, which the comparison finds out.
    if (earlier.contains("checksum")) check_sealed(earlier, path.string());
    for (const auto& [name, value] : identity.items()) {
      check(json_find(earlier, name, path.string()) == value, folder.string(),
            " holds a training run with another ", name,
            "; give the same options to go on with it, or an empty --output");
    }
  }
  write_text_atomically(path, sealed(identity).dump(2) + "\n");
}

ModelConfig config_of(const Options& o, const Tokenizer& tokenizer) {
  ModelConfig shape = o.shape;
  shape.vocab_size = tokenizer.vocab_size();
  shape.head_dim = shape.num_heads > 0 ? shape.hidden_size / shape.num_heads : 0;
  shape.bos_token_id = tokenizer.bos_id();
  shape.eos_token_ids.clear();
  if (tokenizer.eos_id() >= 0) shape.eos_token_ids = {tokenizer.eos_id()};
  ModelConfig config = config_of_family(o.family, shape);
  // Some families derive these two from others of their sizes.
  check(!o.has_intermediate || config.intermediate_size == shape.intermediate_size,
        "--intermediate ", shape.intermediate_size, ": with --hidden ", shape.hidden_size,
        " the family ", o.family, " has ", config.intermediate_size, "; leave the option out");
  check(!o.has_kv_heads || config.num_kv_heads == shape.num_kv_heads, "--kv-heads ",
        shape.num_kv_heads, ": in the family ", o.family,
        " each head has its own keys and values; leave the option out");
  return config;
}

TrainHooks hooks_of(const Options& o, Progress& progress) {
  TrainHooks hooks;
  hooks.folder = o.output;
  hooks.interrupted = interrupted;
  hooks.say = [&progress](const std::string& line) { progress.line(line); };
  hooks.progress = [&progress, steps = o.train.steps, mean = 0.0](
                       int64_t step, double loss, double rate, double speed) mutable {
    mean = mean == 0.0 ? loss : 0.98 * mean + 0.02 * loss;
    progress.update(step, steps,
                    fmt::format("loss {:.4f}, rate {:.2e}, {:.0f} tokens/s", mean, rate, speed));
  };
  return hooks;
}

void train_model(const Options& o) {
  check(o.train.steps >= 1 && o.train.batch >= 1 && o.train.tokens >= 1 && o.train.save_every >= 1,
        "--steps, --batch, --tokens and --save-every must be at least 1");
  check(o.train.tokens <= o.shape.max_position_embeddings, "--tokens ", o.train.tokens,
        " is longer than --context ", o.shape.max_position_embeddings);
  check(o.train.warmup < o.train.steps, "--warmup ", o.train.warmup, " is not below --steps ",
        o.train.steps);
  const OutputLock lock(o.output, OutputLock::Parents::are_made);
  const Device device = o.compute.apply();
  const Dtype save_dtype = weight_dtype("--dtype", o.dtype);
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(o.tokenizer);
  const ModelConfig config = config_of(o, *tokenizer);
  const std::unique_ptr<Transformer> model = make_model(config, Dtype::f32, device);
  const auto evaluation = load_evaluation(o.evaluation, {model->config, o.tokenizer});
  std::string text_key;
  const std::vector<int32_t> ids = training_ids(o, *tokenizer, text_key);
  check_identity(o.output, identity_of(o, config, device, text_key));
  initialize(*model, o.train.seed);
  catch_interrupts();
  Progress progress(std::cerr, stderr_is_terminal());
  const double loss = train(*model, ids, o.train, hooks_of(o, progress));
  progress.finish();
  if (interrupted()) {
    throw Interrupted(
        concat("interrupted; the state is in ", o.output, ": go on with the same command"));
  }
  // The saved model, not the one in memory, is what is scored: its dtype is a coarser one.
  save_model(*model, o.output, save_dtype);
  copy_tokenizer(o.tokenizer, o.output);
  copy_tokenizer_companions(o.tokenizer, o.output);
  std::cout << fmt::format("{}: loss of the last steps {:.4f}\n", o.output, loss);
  if (evaluation.empty()) return;
  const auto saved = load_model(o.output, Dtype::f32, device);
  Terminal terminal;
  terminal.result(lines_of("trained", evaluate(*saved, evaluation, o.evaluation.batch, terminal)));
}

}  // namespace

Action setup_train(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("--text", o->texts, "training texts, joined in this order")->required();
  app.add_option("--tokenizer", o->tokenizer, "tokenizer file, or a folder with one")->required();
  app.add_option("-o,--output", o->output,
                 "model folder to write; with an unfinished run in it, that run goes on")
      ->required();
  const auto option = [&app](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->capture_default_str();
  };
  std::string families;
  for (const std::string& type : known_model_types()) {
    families += (families.empty() ? "" : ", ") + type;
  }
  option("--family", o->family, families.c_str());
  option("--layers", o->shape.num_layers, "blocks");
  option("--hidden", o->shape.hidden_size, "width");
  const auto* intermediate =
      option("--intermediate", o->shape.intermediate_size, "width of the feed-forward part");
  option("--heads", o->shape.num_heads, "attention heads");
  const auto* kv_heads = option("--kv-heads", o->shape.num_kv_heads, "heads of keys and values");
  option("--context", o->shape.max_position_embeddings, "longest text in tokens");
  app.add_flag("--tie", o->shape.tie_word_embeddings, "one matrix for embedding and head");
  option("--steps", o->train.steps, "optimizer steps");
  option("--batch", o->train.batch, "segments per step");
  option("--tokens", o->train.tokens, "tokens per segment");
  option("--rate", o->train.rate, "peak learning rate");
  option("--warmup", o->train.warmup, "steps over which the rate rises");
  option("--decay-fraction", o->train.decay_fraction, "last part of the steps: the rate falls");
  option("--weight-decay", o->train.weight_decay, "on matrices");
  option("--clip", o->train.clip, "bound on the gradient's norm");
  option("--seed", o->train.seed, "of initialization and order");
  option("--save-every", o->train.save_every, "steps between checkpoints");
  option("--dtype", o->dtype, "of the finished model: bf16, f16, f32; training computes in f32");
  app.add_option("--evaluate", o->evaluation.sources, "texts or token files to score at the end");
  o->compute.add_to(app, false);
  app.footer(
      "Every step needs all blocks, forward and backward, so there is no --load blockwise here:\n"
      "parameters, gradients and the optimizer's two moments stay in memory (16 bytes per\n"
      "parameter), and beside them the activations of --batch x --tokens tokens.");
  return [o, intermediate, kv_heads] {
    o->has_intermediate = intermediate->count() > 0;
    o->has_kv_heads = kv_heads->count() > 0;
    train_model(*o);
  };
}

}  // namespace cbq::cli
