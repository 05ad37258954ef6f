#include "experiments/model_at_hand.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "cbq/quantized_folder.h"
#include "nn/block_walk.h"
#include "nn/perplexity.h"
#include "tensor/runtime/device_memory.h"
#include "tensor/runtime/shapes_only.h"

namespace cbq {
namespace {

/// `count` segments of `length` ids.
TokenSet load_calibration(const AblationOptions& o, const TokenContext& context, int64_t length) {
  TokenSet set = calibration_tokens(o.calibration, context, o.segments, length, 0);
  check(set.count() >= o.segments, o.calibration, ": ", set.count(), " segments; --segments asks ",
        "for ", o.segments);
  check(set.length() >= length, o.calibration, ": segments of ", set.length(),
        " ids; --segment-length asks for ", length);
  return set;
}

/// Weights of a block's linear layers: its parameters of two dimensions.
int64_t weights_of_block(const ModelConfig& config) {
  const ShapesOnly without_memory;
  const auto shapes = make_without_blocks(config, Dtype::f32, Device::cpu());
  shapes->open_blocks(1, nullptr);
  int64_t weights = 0;
  visit_shapes(*shapes, [&](const std::string&, const Shape& shape) {
    weights += shape.size() == 2 ? element_count(shape) : 0;
  });
  return weights;
}

}  // namespace

ModelAtHand::ModelAtHand(const std::filesystem::path& folder, const RunSurroundings& s)
    : folder_(folder), options_(s.options), config_(ModelConfig::load(folder)) {
  const int64_t context = std::min<int64_t>(config_.context(), 2048);
  const int64_t length = options_.segment_length == 0 ? context : options_.segment_length;
  check(length <= config_.context(), "--segment-length ", length, ": the context of ",
        folder.string(), " holds ", config_.context());
  set_threads();
  loading_ = {s.say, s.interrupted};
  place_ = {Dtype::f32, memory_limit(s.device)};
  bench_.load = [this, device = s.device] {
    const int64_t free = device_memory(device).free;
    auto model =
        options_.loading.load_blocks(open_model(folder_, Dtype::f32, device), free, loading_);
    loading_.say = nullptr;  // once, not for every cell
    return model;
  };
  std::unique_ptr<Transformer> sampled;  // from which calibration segments come
  if (options_.calibration == "model") sampled = bench_.load();
  const TokenContext tokens{config_, folder_, sampled.get()};
  bench_.calibration = load_calibration(options_, tokens, length);
  load_texts(tokens, context);
  sampled.reset();
  bench_.tasks = s.tasks;
  if (!s.tasks.tasks.empty()) bench_.tokenizer = tokenizer_for(config_.vocab_size, folder_);
  bench_.folder = options_.output;
  bench_.version = s.version;
  bench_.say = s.say;
  bench_.interrupted = s.interrupted;
  workbench_ = std::make_unique<Workbench>(bench_);
  inputs_ = workbench_->inputs();
  const auto opened = open_model(folder_, Dtype::f32, s.device);
  int64_t parameters = 0;
  visit_shapes(*opened,
               [&](const std::string&, const Shape& shape) { parameters += element_count(shape); });
  parameter_bytes_ = cbq::parameter_bytes(*opened);
  activation_bytes_ = cbq::activation_bytes(*opened, bench_.calibration.segments);
  block_weights_ = weights_of_block(config_);
  lines_.insert(
      lines_.begin(),
      {fmt::format("model: {} ({} blocks, {:.1f} M parameters), hash {}", folder_.string(),
                   config_.num_layers, static_cast<double>(parameters) / 1e6,
                   inputs_.model.substr(0, 12)),
       fmt::format("calibration: {} ({}), {} segments of {} tokens, ids {}", options_.calibration,
                   bench_.calibration.protocol, bench_.calibration.count(),
                   bench_.calibration.length(), bench_.calibration.hash())});
}

void ModelAtHand::load_texts(const TokenContext& tokens, int64_t length) {
  for (const std::string& text : options_.texts) {
    const size_t equals = text.find('=');
    const std::string file = text.substr(equals + 1);
    const std::string name =
        equals == std::string::npos ? name_of_source(file) : text.substr(0, equals);
    bench_.texts.push_back(
        evenly_spaced(evaluation_tokens(file, tokens, 0, length), options_.eval_tokens));
    check(std::find(text_names_.begin(), text_names_.end(), name) == text_names_.end(),
          "--texts: two are called '", name, "'; write NAME=FILE");
    text_names_.push_back(name);
    lines_.push_back(fmt::format("test {}: {} ({}), {} tokens, ids {}", name, file,
                                 bench_.texts.back().protocol, bench_.texts.back().token_count(),
                                 bench_.texts.back().hash()));
  }
}

PlanModel ModelAtHand::plan_model() const {
  PlanModel model;
  model.blocks = config_.num_layers;
  model.obstacle = [config = config_](const Settings& s) { return Workbench::obstacle(s, config); };
  model.setting_obstacle = [config = config_, place = place_](const Settings& s) {
    return setting_obstacle(s, config, place);
  };
  model.name = folder_.string();
  model.family = config_.model_type;
  model.block_weights = block_weights_;
  model.inputs = inputs_;
  return model;
}

std::vector<std::vector<int64_t>> ModelAtHand::documents() const {
  std::vector<std::vector<int64_t>> documents;
  for (const TokenSet& text : bench_.texts) documents.push_back(text.documents);
  return documents;
}

int64_t ModelAtHand::test_tokens() const {
  int64_t tokens = 0;
  for (const TokenSet& text : bench_.texts) tokens += text.token_count();
  return tokens;
}

CellResult ModelAtHand::run(const Cell& cell, const std::function<void(double)>& progress) {
  set_threads();
  return workbench_->run(cell, progress);
}

double ModelAtHand::seconds_per_cost() {
  set_threads();
  const auto model = bench_.load();
  const Segments probe(bench_.calibration.segments.begin(),
                       bench_.calibration.segments.begin() + 1);
  double seconds = 0.0;
  for (int pass = 0; pass < 2; ++pass) {  // the first one also fills memory pools
    const auto begin = std::chrono::steady_clock::now();
    perplexity(*model, probe, 1, {});
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  const int64_t cost =
      bench_.calibration.length() * (config_.num_layers + 2) * std::max<int64_t>(1, block_weights_);
  return seconds / static_cast<double>(cost);
}

/// Products of a narrow model are too small to divide: threads would mostly wait for each other,
/// and on a busy machine that wait was measured to make a run eight times slower.
void ModelAtHand::set_threads() const {
  constexpr int64_t narrow = 256;
  static const int all = omp_get_max_threads();
  if (options_.threads > 0) {
    omp_set_num_threads(options_.threads);
  } else if (std::getenv("OMP_NUM_THREADS") == nullptr) {
    omp_set_num_threads(config_.hidden_size < narrow ? 1 : all);
  }
}

}  // namespace cbq
