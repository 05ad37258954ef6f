// cbq check-device: tuned kernels beside their reference kernels.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "kernels/attention/fused_attention.h"
#include "kernels/launch/tuned_guard.h"
#include "kernels/launch/tuned_switch.h"
#include "tools/cli/command.h"

namespace cbq::cli {
namespace {

using tuned::Agreement;

std::string verdict_of(const Agreement& found) {
  if (!found.error.empty()) return "error: " + found.error;
  return found.holds() ? "agrees" : "DIFFERS";
}

void print_table(const std::vector<Agreement>& all) {
  size_t width = std::string("tuned kernel").size();
  for (const Agreement& found : all) width = std::max(width, found.kernel.size());
  fmt::print("{:<{}}  {:>10}  {:>10}  verdict\n", "tuned kernel", width, "difference", "allowed");
  for (const Agreement& found : all) {
    fmt::print("{:<{}}  {:>10.2g}  {:>10.2g}  {}\n", found.kernel, width, found.difference,
               found.tolerance, verdict_of(found));
  }
}

void check_device(const ComputeOptions& compute) {
  const Device device = compute.apply();
  if (!device.is_cuda()) {
    fmt::print(
        "cpu: all operations run their reference kernels, so there is nothing to compare. Tuned "
        "kernels run on NVIDIA GPUs, in a program of the preset cuda.\n");
    return;
  }
  check(tuned::enabled(), "CBQ_FAST=0: reference kernels run everywhere; unset it to compare");
  const std::vector<Agreement> all = tuned::compare_all(device);
  fmt::print(
      "{}: sizes of errors beside those of the reference kernels' results, on small inputs\n",
      name_of(device));
  print_table(all);
  if (tuned::attention_form() == tuned::AttentionForm::tiles) {
    fmt::print("CBQ_ATTENTION=tiles: attention was its reference kernel in both runs\n");
  }
  const auto differ =
      std::count_if(all.begin(), all.end(), [](const Agreement& found) { return !found.holds(); });
  check(differ == 0, name_of(device), ": ", differ, " of ", all.size(),
        " tuned kernels are not used, their reference kernels run instead");
}

}  // namespace

Action setup_check_device(CLI::App& app) {
  const auto compute = std::make_shared<ComputeOptions>();
  compute->add_to(app, false);
  return [compute] { check_device(*compute); };
}

}  // namespace cbq::cli
