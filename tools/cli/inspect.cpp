// cbq inspect: what is in a model folder, layer by layer.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <optional>
#include <vector>

#include "cbq/exporters/layer_parts.h"
#include "cbq/quantized_folder.h"
#include "cbq/stream.h"
#include "nn/block_walk.h"
#include "tools/cli/command.h"

namespace cbq::cli {
namespace {

struct Options {
  std::string model, original;
};

struct Range {
  double low = INFINITY, high = -INFINITY;
  void add(double x) {
    low = std::min(low, x);
    high = std::max(high, x);
  }
};

std::string to_string(const Range& r) {
  return r.low == r.high ? fmt::format("{:.4g}", r.low)
                         : fmt::format("{:.4g}..{:.4g}", r.low, r.high);
}

Range extremes_of(const Tensor& t) {
  Range range;
  if (t.dtype() == Dtype::f32) {  // a weight: not a second time, as double
    for (int64_t i = 0; i < t.count(); ++i) range.add(t.data<float>()[i]);
    return range;
  }
  for (const double x : t.to_vector<double>()) range.add(x);
  return range;
}

/// Mean over the groups of weights that share a scale: codes that occur / 2^bits.
double share_of_codes(const PackedWeight& p, const std::vector<uint8_t>& codes) {
  double sum = 0.0;
  int64_t groups = 0;
  for (size_t begin = 0; begin < codes.size(); begin += static_cast<size_t>(p.group), ++groups) {
    std::vector<bool> seen(size_t{1} << p.bits);
    for (size_t j = begin; j < begin + static_cast<size_t>(p.group); ++j) seen[codes[j]] = true;
    sum += static_cast<double>(std::count(seen.begin(), seen.end(), true));
  }
  return sum / static_cast<double>(groups) / static_cast<double>(1 << p.bits);
}

/// How far the codes are from the original weight, beside nearest rounding on the same grid.
struct Distance {
  double error = 0.0, nearest_error = 0.0;  // ||W^ - W||^2 / ||W||^2
  double moved = 0.0;                       // share of weights not rounded to nearest
};

Distance distance_of(const PackedWeight& p, const std::vector<uint8_t>& codes, const Tensor& w) {
  const float* weight = w.data<float>();
  const std::vector<double> scale = p.scale.to_vector<double>();
  const std::vector<double> zero = p.zero_point.to_vector<double>();
  const auto in = static_cast<size_t>(p.in), group = static_cast<size_t>(p.group);
  double norm = 0.0;
  Distance d;
  for (size_t i = 0; i < codes.size(); ++i) {
    const size_t g = scale.size() == 1 ? 0 : i / in * (in / group) + i % in / group;
    const double top = static_cast<double>((1 << p.bits) - 1);
    const double x = weight[i];
    const double nearest = std::clamp(std::nearbyint(x / scale[g]) + zero[g], 0.0, top);
    const auto squared = [&](double q) {
      const double e = scale[g] * (q - zero[g]) - x;
      return e * e;
    };
    d.error += squared(codes[i]);
    d.nearest_error += squared(nearest);
    d.moved += nearest != static_cast<double>(codes[i]);
    norm += x * x;
  }
  norm = std::max(norm, 1e-300);
  return {d.error / norm, d.nearest_error / norm, d.moved / static_cast<double>(codes.size())};
}

/// The weights of the linears, and what they occupy.
struct Totals {
  int64_t weights = 0, bits = 0;
  std::string line(const std::string& what) const {
    return fmt::format("{}: {} weights, {:.3f} MiB, {:.3f} bits per weight\n", what, weights,
                       static_cast<double>(bits) / 8.0 / (1 << 20),
                       weights ? static_cast<double>(bits) / static_cast<double>(weights) : 0.0);
  }
};

std::string layer_line(const WindowLinear& l, const Linear* original, Totals& totals) {
  const Shape& shape = l.linear->weight.shape();
  const LayerParts parts = parts_of(*l.linear, l.path);
  std::string line = fmt::format("{:<40} {:<13}", l.path, cbq::to_string(shape));
  totals.weights += element_count(shape);
  if (!parts.packed) {
    totals.bits += element_count(shape) * 32;
    line += fmt::format(" {:>4} {:>6} {:<22}", 32, "-",
                        to_string(extremes_of(l.linear->weight.value())));
  } else {
    const PackedWeight& p = *parts.packed;
    totals.bits += 8 * (p.codes.bytes() + p.scale.bytes() + p.zero_point.bytes());
    const auto codes = unpack_codes(p.codes.to(Device::cpu()), p.bits, p.in).to_vector<uint8_t>();
    line += fmt::format(" {:>4} {:>6} {:<22} {:<8} {:>5.1f} %", p.bits, p.group,
                        to_string(extremes_of(p.scale)), to_string(extremes_of(p.zero_point)),
                        100.0 * share_of_codes(p, codes));
    if (original) {
      const Distance d = distance_of(p, codes, original->weight.value());
      line += fmt::format("  {:.5f} {:.5f} {:>5.1f} %", d.error, d.nearest_error, 100.0 * d.moved);
    }
  }
  if (parts.activation) {
    const ActivationQuantizer& a = *parts.activation;
    const double clip = a.variables().empty() ? 0.0 : a.variables()[0].value().item();
    line += fmt::format("  inputs {} bits, clip {:.4f}", a.config().bits, std::exp(clip));
    if (const size_t n = a.clusters().size(); n > 0) line += fmt::format(", {} clusters", n);
  }
  if (l.linear->online) line += "  behind an online transform: " + l.linear->online->kind();
  return line + "\n";
}

void print_head(const std::string& folder, const ModelConfig& c, bool quantized, bool compared) {
  std::cout << fmt::format(
      "{}: {}, {} blocks, hidden {}, intermediate {}, {} heads ({} for keys), vocabulary {}, "
      "context {}\n\n",
      folder, c.architecture, c.num_layers, c.hidden_size, c.intermediate_size, c.num_heads,
      c.num_kv_heads, c.vocab_size, c.context());
  std::cout << fmt::format("{:<40} {:<13} {:>4} {:>6} {:<22}", "layer", "shape", "bits", "group",
                           quantized ? "scale" : "weight")
            << (quantized ? fmt::format(" {:<8} {:>7}", "zero", "codes") : "")
            << (compared ? "  error   nearest moved" : "") << "\n";
}

void check_same_layers(const Transformer& model, const Transformer& original,
                       const std::string& folder) {
  const std::unique_ptr<Block> one = model.make_block(), other = original.make_block();
  const std::vector<NamedLinear> linears = one->linears(), others = other->linears();
  const auto blocks = static_cast<size_t>(model.block_count());
  const auto other_blocks = static_cast<size_t>(original.block_count());
  check(linears.size() == others.size() && blocks == other_blocks, folder,
        " is another model: it has ", other_blocks, " blocks of ", others.size(),
        " linear layers, not ", blocks, " of ", linears.size());
  for (size_t i = 0; i < linears.size(); ++i) {
    check(others[i].linear->weight.shape() == linears[i].linear->weight.shape(), folder,
          " is another model: ", linears[i].name, " has another shape");
  }
}

/// One block after the other, so that a model need not fit into the memory.
void inspect(const Options& o) {
  const bool quantized = is_quantized_folder(o.model);
  const auto model = open_any_model(o.model, Dtype::f32, Device::cpu());
  std::unique_ptr<Transformer> original;
  if (!o.original.empty()) {
    check(quantized, "--original: ", o.model, " is not quantized, so there is nothing to compare");
    check(model->transforms.empty(), "--original: the weights of ", o.model,
          " were transformed before they were quantized (",
          model->transforms.empty() ? "" : model->transforms.front(),
          "), so they cannot be compared");
    original = open_any_model(o.original, Dtype::f32, Device::cpu());
    check_same_layers(*model, *original, o.original);
  }
  print_head(o.model, model->config, quantized, original != nullptr);
  for (const std::string& transform : model->transforms) {
    std::cout << "before quantization: " << transform << "\n";
  }
  Totals totals, rest;
  const ParameterVisitor count = [&](const std::string&, Var& p) {
    rest.weights += p.value().count();
  };
  model->visit_embedding("", count);
  model->visit_head("", count);
  for_each_block(*model, [&](Block& block, int64_t b) {
    std::optional<LoadedBlock> before;
    if (original) before.emplace(*original, b);
    const std::vector<WindowLinear> linears = linears_of(*model, {b, 1});
    const auto originals = original ? linears_of(*original, {b, 1}) : std::vector<WindowLinear>();
    for (size_t i = 0; i < linears.size(); ++i) {
      std::cout << layer_line(linears[i], original ? originals[i].linear : nullptr, totals);
    }
    if (const auto online = block.attention_online) {
      std::cout << fmt::format("{:<40} queries and keys behind an online transform: {}\n",
                               attention_path(model->block_prefix(b)), online->kind());
    }
    block.visit("", count);
  });
  rest.weights -= totals.weights;
  rest.bits = rest.weights * 32;
  std::cout << "\n"
            << totals.line("linear layers") << rest.line("everything else")
            << Totals{totals.weights + rest.weights, totals.bits + rest.bits}.line("in memory");
  if (quantized) {
    std::cout << "codes: share of the 2^bits codes that a group of weights uses, on average\n";
  }
  if (original) {
    std::cout
        << "error, nearest: ||W^ - W||^2 / ||W||^2 of these codes, and of nearest rounding on "
           "the same scales; moved: codes that are not the nearest\n";
  }
}

}  // namespace

Action setup_inspect(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("model", o->model, "model folder, floating point or quantized")->required();
  app.add_option("--original", o->original, "the floating-point model, to show errors against it");
  return [o] { inspect(*o); };
}

}  // namespace cbq::cli
