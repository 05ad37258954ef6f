// The options of run_ablation that belong to figures.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace cbq {

struct FigureOptions {
  std::string keys;   // --figure: "1a,depth", or "all"; empty: none
  std::string layer;  // of figure 1a; empty: the first linear layer of the first block
  int64_t tokens = 512;
  std::vector<std::string> methods = {"nearest", "gptq", "cbq"};

  void add_to(CLI::App& app);
};

}  // namespace cbq
