#include "experiments/paper_models.h"

#include <algorithm>
#include <cctype>

namespace cbq {
namespace {

PaperModel opt(const std::string& size, int64_t blocks, int64_t hidden) {
  return {"OPT-" + size, "opt", blocks, hidden, 4 * hidden, hidden, false};
}

PaperModel bloom(const std::string& size, int64_t blocks, int64_t hidden) {
  return {"BLOOM-" + size, "bloom", blocks, hidden, 4 * hidden, hidden, false};
}

PaperModel llama(const std::string& name, int64_t blocks, int64_t hidden, int64_t intermediate,
                 int64_t kv_width = 0) {
  return {"LLAMA" + name,
          "llama",
          blocks,
          hidden,
          intermediate,
          kv_width > 0 ? kv_width : hidden,
          true};
}

}  // namespace

int64_t PaperModel::block_weights() const {
  return 2 * hidden * hidden + 2 * hidden * kv_width + (gated ? 3 : 2) * hidden * intermediate;
}

const std::vector<PaperModel>& paper_models() {
  static const std::vector<PaperModel> models = {
      opt("1.3B", 24, 2048),
      opt("2.7B", 32, 2560),
      opt("6.7B", 32, 4096),
      opt("13B", 40, 5120),
      opt("30B", 48, 7168),
      opt("66B", 64, 9216),
      llama("1-7B", 32, 4096, 11008),
      llama("1-13B", 40, 5120, 13824),
      llama("1-30B", 60, 6656, 17920),
      llama("1-65B", 80, 8192, 22016),
      llama("2-7B", 32, 4096, 11008),
      llama("2-13B", 40, 5120, 13824),
      llama("2-70B", 80, 8192, 28672, 1024),
      bloom("1.1B", 24, 1536),
      bloom("1.7B", 24, 2048),
      bloom("7.1B", 30, 4096),
  };
  return models;
}

const PaperModel* find_paper_model(const std::string& name) {
  std::string upper;
  for (const char c : name) {
    upper += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  if (upper.starts_with("LLAMA-")) upper.insert(5, "1");
  for (const PaperModel& model : paper_models()) {
    if (model.name == upper) return &model;
  }
  return nullptr;
}

}  // namespace cbq
