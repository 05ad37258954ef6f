// cbq sample: calibration segments from the model itself, where no text is at hand.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "cbq/pipeline.h"
#include "experiments/command_line.h"
#include "experiments/model_loading.h"
#include "experiments/token_source.h"
#include "nn/formats/output_lock.h"
#include "nn/text/tokens.h"
#include "tools/cli/command.h"

namespace cbq::cli {
namespace {

struct Options {
  std::string model, output;
  int64_t count = 128, length = 0;
  uint64_t seed = 0;
  LoadOptions loading;
  ComputeOptions compute;
};

void sample(const Options& o) {
  const OutputLock lock(o.output);  // a place that cannot be written is found here
  const Device device = o.compute.apply();
  catch_interrupts();
  const auto say = [](const std::string& line) { std::cerr << line << std::endl; };
  const auto model =
      o.loading.open(o.model, o.compute.dtype_for(o.model, device), device, {say, interrupted});
  const TokenSet set =
      calibration_tokens("model", {model->config, {}, model.get()}, o.count, o.length, o.seed);
  save_tokens(o.output, set);
  std::cout << o.output << ": " << set.token_count() << " tokens, " << set.protocol << "\n";
}

}  // namespace

Action setup_sample(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("model", o->model, "model folder")->required();
  app.add_option("-o,--output", o->output, "token file to write (.h5)")->required();
  app.add_option("--segments", o->count, "segments")->capture_default_str();
  app.add_option("--segment-length", o->length,
                 "tokens of each; 0: the model's context, at most 512");
  app.add_option("--seed", o->seed, "of the random numbers")
      ->capture_default_str()
      ->check(refuse_negative);
  o->loading.add_to(app);
  o->compute.add_to(app);
  return [o] { sample(*o); };
}

}  // namespace cbq::cli
