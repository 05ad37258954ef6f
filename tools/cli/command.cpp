#include "tools/cli/command.h"

#include <omp.h>

#include <CLI/CLI.hpp>

#include "experiments/command_line.h"
#include "nn/config.h"
#include "tensor/error.h"

namespace cbq::cli {

void ComputeOptions::add_to(CLI::App& app, bool with_dtype) {
  app.add_option("--device", device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--threads", threads, "threads on the CPU; 0: one per core")
      ->capture_default_str()
      ->check(expect_from_zero);
  if (!with_dtype) return;
  app.add_option("--dtype", dtype,
                 "floating-point type to compute in: f32, bf16, f16; auto: f32 on a CPU, on a GPU "
                 "the checkpoint's own where that is bf16 or f16")
      ->capture_default_str();
}

Device ComputeOptions::apply() const {
  if (threads > 0) omp_set_num_threads(threads);  // OpenBLAS' OpenMP build follows
  return device_from_name(device);
}

Dtype ComputeOptions::dtype_for(const std::filesystem::path& folder, Device on) const {
  if (dtype != "auto") return weight_dtype("--dtype", dtype);
  if (on == Device::cpu()) return Dtype::f32;
  const Dtype stored = dtype_from_name(ModelConfig::load(folder).dtype);
  return size_of(stored) == 2 ? stored : Dtype::f32;
}

Dtype ComputeOptions::quantization_dtype_for(
    const std::filesystem::path& folder, Device on,
    const std::function<void(const std::string&)>& say) const {
  const Dtype chosen = dtype_for(folder, on);
  if (chosen != Dtype::f16) return chosen;
  check(dtype == "auto", "--dtype f16: weights are quantized in f32 or bf16; give one of these");
  say("the checkpoint is f16, and weights are quantized in f32 or bf16: computing in bf16 (--dtype "
      "f32 keeps all digits of the weights)");
  return Dtype::bf16;
}

Dtype weight_dtype(const char* option, const std::string& name) {
  const Dtype dtype = dtype_from_name(name);
  check(dtype == Dtype::f32 || dtype == Dtype::bf16 || dtype == Dtype::f16, option, " ", name,
        ": expected f32, bf16 or f16");
  return dtype;
}

void refuse_negative_counts(CLI::App& app) {
  for (const char* name : {"--segments", "--segment-length", "--evaluate-segments",
                           "--evaluate-length", "--steps", "--save-every"}) {
    CLI::Option* option = app.get_option_no_throw(name);
    if (option != nullptr) option->check(expect_from_zero);
  }
}

}  // namespace cbq::cli
