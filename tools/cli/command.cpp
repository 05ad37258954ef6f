#include "tools/cli/command.h"

#include <omp.h>

#include <CLI/CLI.hpp>
#include <csignal>

#include "nn/config.h"
#include "tensor/error.h"

namespace cbq::cli {

void ComputeOptions::add_to(CLI::App& app, bool with_dtype) {
  app.add_option("--device", device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--threads", threads, "threads on the CPU; 0: one per core")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
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
  if (dtype != "auto") {
    const Dtype chosen = dtype_from_name(dtype);
    check(chosen == Dtype::f32 || chosen == Dtype::bf16 || chosen == Dtype::f16, "--dtype ", dtype,
          ": expected f32, bf16, f16 or auto");
    return chosen;
  }
  if (on == Device::cpu()) return Dtype::f32;
  const Dtype stored = dtype_from_name(ModelConfig::load(folder).dtype);
  return size_of(stored) == 2 ? stored : Dtype::f32;
}

namespace {

volatile std::sig_atomic_t caught_signal = 0;

void note_signal(int signal) {
  caught_signal = signal;
  std::signal(signal, SIG_DFL);  // the next one ends the program
}

}  // namespace

void catch_interrupts() {
  std::signal(SIGINT, note_signal);
  std::signal(SIGTERM, note_signal);
}

bool interrupted() { return caught_signal != 0; }

int interrupted_exit_code() { return 128 + (caught_signal != 0 ? caught_signal : SIGINT); }

}  // namespace cbq::cli
