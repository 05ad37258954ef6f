// Rotary position embedding (Su et al. 2021): the tables of cosines and sines.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <vector>

#include "nn/config.h"
#include "tensor/tensor.h"

namespace cbq {

class VarlenRows;

struct RopeTables {
  Tensor cosine;  // [positions, head_dim / 2] f32
  Tensor sine;
};

/// The frequency that LLaMA 3.1's rule makes of one (see "llama3" below). In f32, as transformers.
float llama3_frequency(const RopeConfig& rope, float frequency);

/// The longest sequence whose angles equal those of every shorter sequence. Longer sequences have
/// angles of their own (dynamic, longrope). For all other types: the largest int64_t.
int64_t uniform_length(const RopeConfig& rope);

/// The angles of one model's rotary embedding. Tables are made for the lengths that are used, not
/// for the longest that config.json allows. All functions may be called from several threads.
///
/// Position t turns pair j < head_dim / 2 by the angle t f_j, with f_j = theta^(-2j / head_dim)
/// changed as `config.type` says (all types but the first: as transformers computes them):
///   default   f
///   linear    f / factor (position interpolation: Chen et al. 2023)
///   llama3    f / factor for wavelengths above original / low_freq_factor, f for those below
///             original / high_freq_factor, a linear blend between them (Llama 3.1)
///   yarn      f / factor for pairs that turn less than beta_slow times within the original
///             context, f for those that turn more than beta_fast times, a linear ramp in j between
///             them; cosines and sines are multiplied by attention_factor (Peng et al. 2023)
///   dynamic   theta grows with the length L of the sequence beyond the model's context C: theta
///             (factor L / C - factor + 1)^(head_dim / (head_dim - 2))   ("dynamic NTK")
///   longrope  f / short_factor_j for sequences up to the original context, f / long_factor_j for
///             longer ones; cosines and sines are multiplied by attention_factor (Ding et al. 2024)
class Rope {
 public:
  Rope(RopeConfig config, int64_t head_dim, Device device);

  /// Tables with at least `length` positions, for sequences of `length` tokens. What was handed out
  /// once keeps its memory as long as this object lives, since a captured graph may read it; only
  /// of the tables that dynamic scaling makes for one length alone, the 16 used last are kept.
  RopeTables tables(int64_t length) const;
  /// Tables with a row for each row of `varlen`. Where the frequencies depend on the length, the
  /// sequences of a group take those of the group's longest.
  RopeTables tables(const VarlenRows& varlen) const;

 private:
  /// What the frequencies of a sequence depend on beside the config: the length (dynamic), or which
  /// list of factors (longrope); 0 for all sequences that the original model could read.
  int64_t variant_of(int64_t length) const;
  /// f_j of a variant.
  std::vector<float> frequencies(int64_t variant) const;
  RopeTables make_tables(int64_t variant, int64_t positions) const;

  struct Entry {
    int64_t variant = 0;
    RopeTables tables;
  };

  RopeConfig config_;
  int64_t head_dim_;
  Device device_;
  mutable std::mutex mutex_;
  mutable std::list<Entry> entries_;  // the one used last in front
  mutable std::vector<RopeTables> outgrown_;
};

}  // namespace cbq
