// No pre-processing: the first row of a table, under a name of its own.
#include "quant/transforms/local/preprocessor.h"

namespace cbq {
namespace {

class None : public Preprocessor {
 public:
  std::string name() const override { return "none"; }
  std::string help() const override { return "changes nothing"; }
  bool needs_statistics() const override { return false; }
  void apply(Transformer&, int64_t, const CalibrationStatistics&, PreprocessContext&) override {}
  std::vector<std::string> notes(const PreprocessContext&) const override { return {}; }
};

[[maybe_unused]] const bool registered =
    preprocessors().add("none", [] { return std::make_unique<None>(); });

}  // namespace
}  // namespace cbq
