// Solvers on a model: a block's layers get their solutions, group after group, before anything is
// learned.
//
// A group is the linears that read one activation (linears_by_input: q k v | o | gate up | down).
// In a group's H = X^T X, X is what its layers read in the quantized model: it comes from the
// quantized stream in front of the block, through the solutions of all earlier groups, rounded to
// nearest ("true sequential" in the GPTQ authors' program), and it is quantized if the layers
// quantize their inputs.
//
// For a solver that wants them, the layers' inputs in the original model come from the original
// stream in front of the block, through the block with nothing quantized, pass by pass beside the
// quantized one.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cbq/stream.h"
#include "quant/solvers/solver.h"

namespace cbq {

struct SolvedLayer {
  std::string path;
  double error = 0.0, nearest_error = 0.0;  // as in LayerSolution
};

struct SolveReport {
  int64_t block = 0;
  std::vector<SolvedLayer> layers;
  std::vector<std::string> notes;  // of the solutions
  double seconds = 0.0;
  /// Mean over the layers of error / nearest_error (1 where both are 0): what the solver gained.
  double mean_error_ratio() const;
};

/// What a caller watches; both may be empty and may throw to stop (solve_blocks then leaves the
/// block that it was at without solutions).
struct SolveWatch {
  Poll poll;                                  // before every forward pass and every layer
  std::function<void(int64_t block)> begins;  // before every block
};

/// Block -> the original stream in front of it [segments, tokens, hidden].
using OriginalStreams = std::map<int64_t, Tensor>;

/// Finds the solutions of all layers in `window` whose weight quantizer has neither codes nor a
/// solution yet, block by block, and starts their quantizers from them
/// (WeightQuantizer::start_from). Layers without a weight quantizer are left alone. `inputs`
/// [segments, tokens, hidden]: the quantized stream at the window's first block; blocks of the
/// window that have solutions already move it on as they stand, rounding hard. `original`: of every
/// block that is solved, where the solver wants the original inputs. One group's Hessians are in
/// memory at a time. Deterministic. Returns a report per block that was solved.
/// Throws std::invalid_argument, naming the layer, for NaN or infinity in a weight or in what a
/// layer reads, and for a stream in `original` that is missing or of another shape.
std::vector<SolveReport> solve_blocks(Transformer& model, const Window& window,
                                      const LayerSolver& solver, const Tensor& inputs,
                                      const SolveWatch& watch = {},
                                      const OriginalStreams& original = {});

}  // namespace cbq
