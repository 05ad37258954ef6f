// Nothing of the grid is learned.
#include "quant/grid_scheme.h"

namespace cbq {
namespace {

class FixedGrid : public GridScheme {
 public:
  std::string name() const override { return "fixed"; }
  std::string help() const override { return "the scale stays where it starts"; }
  std::vector<std::pair<std::string, Tensor>> start(const Tensor& /*w*/, const WeightGrid& grid,
                                                    const WeightConfig& /*config*/) override {
    start_ = {grid.scale, grid.zero_point};
    return {};
  }
  GridValues values(const std::vector<Tensor>& /*variables*/) const override { return start_; }
  std::vector<Tensor> gradients(const std::vector<Tensor>& /*variables*/, const GridValues& /*now*/,
                                const GridValues& /*d*/) const override {
    return {};
  }

 private:
  GridValues start_;
};

[[maybe_unused]] const bool registered =
    grid_schemes().add("fixed", [] { return std::make_unique<FixedGrid>(); });

}  // namespace
}  // namespace cbq
