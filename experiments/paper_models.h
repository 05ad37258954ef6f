// The models of the paper's tables: what they are called, of which family they are, how large.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace cbq {

/// A model that the paper's tables name. Sizes are those of the published checkpoints.
struct PaperModel {
  std::string name;    // as the tables print it: "LLAMA1-30B", "OPT-1.3B"
  std::string family;  // ModelConfig::model_type: "llama", "opt", "bloom"
  int64_t blocks = 0, hidden = 0, intermediate = 0;
  int64_t kv_width = 0;  // outputs of the key layer
  bool gated = false;    // three feed-forward matrices instead of two

  /// Weights of one block's linear layers:
  ///   2 hidden^2 + 2 hidden kv_width + (2, or 3 if gated) hidden intermediate.
  int64_t block_weights() const;
};

/// All of them, by family and size.
const std::vector<PaperModel>& paper_models();

/// The model of this name in any case, LLAMA-7B and LLaMA-7B being LLAMA1-7B; nullptr if there is
/// none.
const PaperModel* find_paper_model(const std::string& name);

}  // namespace cbq
