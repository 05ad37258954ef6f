// LearnedScaling: the factors of a learnable equivalent transformation (LET of OmniQuant, Shao et
// al. 2024, equations 3 to 5) in one block, and what its layers compute with while they are
// learned.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nn/parameter_transform.h"
#include "nn/transformer.h"

namespace cbq {

/// Where the factors of a site (FoldSite) start: s and z per slot, as they have been folded into
/// the model already. No shift: empty.
struct ScalingStart {
  std::vector<double> scale, shift;
};
/// Of one block, by the path of the site's producer.
using ScalingStarts = std::map<std::string, ScalingStart>;

/// Learned are a scale s and, where all layers around a site have biases, a shift z per slot of a
/// site, and a factor t per slot of the queries and keys. The model holds the start s0, z0
/// already; with r = s / s0 and d = (z - z0) / s0
///   behind a norm:       gain / r,  (bias - d) / r     of the norm
///   behind the values:   W / r,     (b - d) / r        by rows, of the layer that makes the values
///   readers:             W r by columns,  b + W d
///   queries, keys:       rows W / t, b / t and rows W t, b t
/// None of it changes the block's function. A factor closer to 0 than 0.01 is moved to that
/// distance before it is used, as in OmniQuant's program.
class LearnedScaling : public BlockTransform {
 public:
  /// Puts itself on the layers of the block, which owns it. Variables are f32, f64 in an f64 model.
  /// Throws std::invalid_argument for a start that is of no site of the block.
  LearnedScaling(Transformer& model, int64_t block, const ScalingStarts& starts);
  ~LearnedScaling() override;
  LearnedScaling(const LearnedScaling&) = delete;
  LearnedScaling& operator=(const LearnedScaling&) = delete;

  void set_active(bool active) override;
  std::string kind() const override { return "let"; }
  const std::vector<std::pair<std::string, Var>>& variables() const override { return variables_; }
  void fold() override;
  bool folded() const override { return folded_; }
  std::vector<std::pair<std::string, Tensor>> snapshot() const override;
  void restore(const std::vector<std::pair<std::string, Tensor>>& values) override;

 private:
  struct Place;  // a linear or a norm
  std::vector<Place> places_;
  std::vector<std::pair<std::string, Var>> variables_;
  std::string path_;
  bool folded_ = false;
};

}  // namespace cbq
