// What `cbq inspect` finds out about a model: layer by layer, block by block.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cbq/stream.h"
#include "experiments/text_table.h"
#include "nn/transformer.h"

namespace cbq::cli {

/// The smallest and the largest of some numbers.
struct NumberRange {
  double low = INFINITY, high = -INFINITY;
  void add(double x);
};
/// "-0.1..0.25", or one number.
std::string to_string(const NumberRange& range);

/// How far codes are from the original weight W, beside nearest rounding on the same grid.
struct CodeDistance {
  double squared = 0.0, nearest_squared = 0.0;  // ||W^ - W||^2
  double norm = 0.0;                            // ||W||^2
  double moved = 0.0;                           // share of weights not rounded to nearest
  double error() const { return squared / std::max(norm, 1e-300); }
  double nearest_error() const { return nearest_squared / std::max(norm, 1e-300); }
};

struct InspectedLayer {
  std::string path;
  Shape shape;
  bool has_codes = false;
  int bits = 32;                         // of a code; 32: in floating point
  int64_t group = 0;                     // weights that share a scale
  bool act_order = false;                // groups are no neighbours (PackedWeight::group_index)
  NumberRange values, zeros;             // scales and zero points; or weights, and nothing
  double share = 0.0;                    // of the 2^bits codes, those that a group uses, on average
  int64_t stored_bits = 0;               // of codes, scales and zero points, or 32 per weight
  std::optional<CodeDistance> distance;  // where there is an original
  std::string remarks;                   // quantizer of the input, online transform
};

/// `original`: null, or the same layer in floating point.
InspectedLayer inspect_layer(const WindowLinear& layer, const Linear* original);

/// Losses of the window that finished a block; a last stage may change its codes afterwards.
struct WindowLosses {
  int64_t first = 0, last = 0;
  double before = 0.0, after = 0.0;
};

struct InspectedBlock {
  int64_t number = 0;
  std::vector<InspectedLayer> layers;
  std::optional<WindowLosses> losses;  // where the result's report has them

  int64_t weights() const;
  double bits_per_weight() const;
  /// Of layers with codes, by their weights; none where there is none.
  std::optional<double> share() const;
  /// The distances of all layers that have one, added.
  std::optional<CodeDistance> distance() const;
};

/// The losses of every block, from report.json in the folder; empty where there is no report that
/// this program can use, or no window.
std::vector<std::optional<WindowLosses>> losses_of(const std::filesystem::path& folder,
                                                   int64_t blocks);

/// A row per block.
TextTable block_table(const std::vector<InspectedBlock>& blocks);

/// One page of HTML with this table, charts of its columns and a row per layer. `facts`: lines
/// about the model as a whole.
std::string inspection_page(const std::string& folder, const std::vector<std::string>& facts,
                            const std::vector<InspectedBlock>& blocks);

}  // namespace cbq::cli
