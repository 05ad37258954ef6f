#include "quant/stages.h"

#include <algorithm>

#include "tensor/error.h"

namespace cbq {

std::vector<NamedStage> stages_of(const std::string& kind, const std::string& text) {
  std::vector<NamedStage> stages;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('+', begin), text.size());
    const std::string stage = text.substr(begin, end - begin);
    check(!stage.empty(), kind, " '", text, "' has an empty stage; write 'none' for none");
    const size_t colon = stage.find(':');
    stages.push_back(
        {stage.substr(0, colon), colon == std::string::npos ? "" : stage.substr(colon + 1)});
    begin = end + 1;
  }
  return stages;
}

}  // namespace cbq
