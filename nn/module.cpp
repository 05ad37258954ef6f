#include "nn/module.h"

namespace cbq {

std::vector<std::pair<std::string, Var>> parameters_of(Module& module, const std::string& prefix) {
  std::vector<std::pair<std::string, Var>> all;
  module.visit(prefix, [&](const std::string& path, Var& p) { all.emplace_back(path, p); });
  return all;
}

}  // namespace cbq
