// The Hessian of a linear layer's weights: what its inputs are like on a stream of segments.
#pragma once

#include <functional>

#include "cbq/stream.h"
#include "experiments/figures/hessian.h"
#include "quant/solvers/solver.h"

namespace cbq {

/// Sends `segments` through all blocks of the model as it stands, with its quantizers, and calls
/// f(block, X^T X) for linear number `index` (in the order of Block::linears) of every block, where
/// X [tokens, in] is what the layer multiplies with: its quantized input where it quantizes it.
/// For an output y = X w^T the squared error has the second derivative 2 X^T X in each row w of the
/// weight (LeCun et al. 1990; Frantar et al. 2023). `poll` is called between passes.
void for_each_input_gram(Transformer& model, const Segments& segments, size_t index,
                         const Poll& poll,
                         const std::function<void(int64_t block, const InputGram& gram)>& f);

/// 2 X^T X / tokens.
Matrix input_hessian(const InputGram& gram);

/// |h| with at most `cells` rows and columns: each cell the mean of the block of elements that it
/// stands for. Blocks differ in size by one where `cells` does not divide the size.
Matrix absolute_block_means(const Matrix& h, size_t cells);

}  // namespace cbq
