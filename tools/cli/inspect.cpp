// cbq inspect: what is in a model folder, layer by layer.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>
#include <vector>

#include "cbq/quantized_folder.h"
#include "cbq/stream.h"
#include "nn/block_walk.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/output_lock.h"
#include "tools/cli/command.h"
#include "tools/cli/inspection.h"

namespace cbq::cli {
namespace {

struct Options {
  std::string model, original, html;
};

/// The weights of the linears, and what they occupy.
struct Totals {
  int64_t weights = 0, bits = 0;
  std::string line(const std::string& what) const {
    return fmt::format("{}: {} weights, {:.3f} MiB, {:.3f} bits per weight\n", what, weights,
                       static_cast<double>(bits) / 8.0 / (1 << 20),
                       weights ? static_cast<double>(bits) / static_cast<double>(weights) : 0.0);
  }
};

std::string layer_line(const InspectedLayer& l) {
  std::string line = fmt::format("{:<40} {:<13}", l.path, cbq::to_string(l.shape));
  if (!l.has_codes) {
    line += fmt::format(" {:>4} {:>6} {:<22}", l.bits, "-", to_string(l.values));
    return line + l.remarks + "\n";
  }
  line += fmt::format(" {:>4} {:>6} {:<22} {:<8} {:>5.1f} %", l.bits, l.group, to_string(l.values),
                      to_string(l.zeros), 100.0 * l.share);
  if (const auto& d = l.distance) {
    line +=
        fmt::format("  {:.5f} {:.5f} {:>5.1f} %", d->error(), d->nearest_error(), 100.0 * d->moved);
  }
  return line + l.remarks + "\n";
}

std::string model_line(const std::string& folder, const ModelConfig& c) {
  std::string experts;
  if (c.num_experts > 0) {
    experts = fmt::format(" ({} experts of {}, {} for a token)", c.num_experts, c.expert_size,
                          c.experts_per_token);
  }
  return fmt::format(
      "{}: {}, {} blocks, hidden {}, intermediate {}{}, {} heads ({} for keys), vocabulary {}, "
      "context {}\n",
      folder, c.architecture, c.num_layers, c.hidden_size, c.intermediate_size, experts,
      c.num_heads, c.num_kv_heads, c.vocab_size, c.context());
}

void print_head(bool quantized, bool compared) {
  std::cout << fmt::format("{:<40} {:<13} {:>4} {:>6} {:<22}", "layer", "shape", "bits", "group",
                           quantized ? "scale" : "weight")
            << (quantized ? fmt::format(" {:<8} {:>7}", "zero", "codes") : "")
            << (compared ? "  error   nearest moved" : "") << "\n";
}

void check_same_layers(const Transformer& model, const Transformer& original,
                       const std::string& folder) {
  const int64_t blocks = model.block_count(), other_blocks = original.block_count();
  for (int64_t b = 0; b < std::min(blocks, other_blocks); ++b) {
    const std::unique_ptr<Block> one = model.make_block_at(b), other = original.make_block_at(b);
    const std::vector<NamedLinear> linears = one->linears(), others = other->linears();
    check(linears.size() == others.size() && blocks == other_blocks, folder,
          " is another model: it has ", other_blocks, " blocks of ", others.size(),
          " linear layers, not ", blocks, " of ", linears.size());
    for (size_t i = 0; i < linears.size(); ++i) {
      check(others[i].linear->weight.shape() == linears[i].linear->weight.shape(), folder,
            " is another model: ", linears[i].name, " has another shape");
    }
  }
}

std::unique_ptr<Transformer> open_original(const Options& o, const Transformer& model,
                                           bool quantized) {
  if (o.original.empty()) return nullptr;
  check(quantized, "--original: ", o.model, " is not quantized, so there is nothing to compare");
  check(model.transforms.empty(), "--original: the weights of ", o.model,
        " were transformed before they were quantized (",
        model.transforms.empty() ? "" : model.transforms.front(), "), so they cannot be compared");
  auto original = open_any_model(o.original, Dtype::f32, Device::cpu());
  check_same_layers(model, *original, o.original);
  return original;
}

InspectedBlock inspect_block(Transformer& model, Transformer* original, int64_t number) {
  std::optional<LoadedBlock> before;
  if (original) before.emplace(*original, number);
  const std::vector<WindowLinear> linears = linears_of(model, {number, 1});
  const auto originals =
      original ? linears_of(*original, {number, 1}) : std::vector<WindowLinear>();
  InspectedBlock block;
  block.number = number;
  for (size_t i = 0; i < linears.size(); ++i) {
    block.layers.push_back(inspect_layer(linears[i], original ? originals[i].linear : nullptr));
  }
  return block;
}

/// Lines about the weights as a whole.
std::string totals_text(const std::vector<InspectedBlock>& blocks, int64_t all_weights) {
  Totals linears;
  for (const InspectedBlock& block : blocks) {
    linears.weights += block.weights();
    for (const InspectedLayer& layer : block.layers) linears.bits += layer.stored_bits;
  }
  const Totals rest{all_weights - linears.weights, (all_weights - linears.weights) * 32};
  return linears.line("linear layers") + rest.line("everything else") +
         Totals{all_weights, linears.bits + rest.bits}.line("in memory");
}

void write_page(const Options& o, const ModelConfig& config, const std::string& totals,
                const std::vector<InspectedBlock>& blocks) {
  std::vector<std::string> facts{model_line(o.model, config)};
  std::istringstream lines(totals);
  for (std::string line; std::getline(lines, line);) facts.push_back(line);
  write_text_atomically(o.html, inspection_page(o.model, facts, blocks));
}

/// One block after the other, so that a model need not fit into the memory.
void inspect(const Options& o) {
  std::optional<OutputLock> html_lock;  // a place that cannot be written is found before the work
  if (!o.html.empty()) html_lock.emplace(o.html);
  const bool quantized = is_quantized_folder(o.model);
  const auto model = open_any_model(o.model, Dtype::f32, Device::cpu());
  const std::unique_ptr<Transformer> original = open_original(o, *model, quantized);
  const auto losses = losses_of(o.model, model->block_count());
  std::cout << model_line(o.model, model->config) << "\n";
  print_head(quantized, original != nullptr);
  for (const std::string& transform : model->transforms) {
    std::cout << "before quantization: " << transform << "\n";
  }
  int64_t weights = 0;
  const ParameterVisitor count = [&](const std::string&, Var& p) { weights += p.value().count(); };
  model->visit_embedding("", count);
  model->visit_head("", count);
  std::vector<InspectedBlock> blocks;
  for_each_block(*model, [&](Block& block, int64_t b) {
    blocks.push_back(inspect_block(*model, original.get(), b));
    if (!losses.empty()) blocks.back().losses = losses[static_cast<size_t>(b)];
    for (const InspectedLayer& layer : blocks.back().layers) std::cout << layer_line(layer);
    if (const auto online = block.attention_online) {
      std::cout << fmt::format("{:<40} queries and keys behind an online transform: {}\n",
                               attention_path(model->block_prefix(b)), online->kind());
    }
    block.visit("", count);
  });
  const std::string totals = totals_text(blocks, weights);
  if (quantized) std::cout << "\n" << to_terminal(block_table(blocks));
  std::cout << "\n" << totals;
  if (quantized) {
    std::cout << "codes: share of the 2^bits codes that a group of weights uses, on average\n";
  }
  if (original) {
    std::cout
        << "error, nearest: ||W^ - W||^2 / ||W||^2 of these codes, and of nearest rounding on "
           "the same scales; moved: codes that are not the nearest\n";
  }
  if (!losses.empty()) {
    std::cout
        << "window: the last one with the block, its loss with the rounding it began with and "
           "with the one that was kept; a last stage over the whole model may change codes "
           "after it\n";
  }
  if (!o.html.empty()) write_page(o, model->config, totals, blocks);
}

}  // namespace

Action setup_inspect(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("model", o->model, "model folder, floating point or quantized")->required();
  app.add_option("--original", o->original, "the floating-point model, to show errors against it");
  app.add_option("--html", o->html, "write a page with the table and charts to this file, too");
  return [o] { inspect(*o); };
}

}  // namespace cbq::cli
