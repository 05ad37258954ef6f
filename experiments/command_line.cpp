#include "experiments/command_line.h"

#include <CLI/CLI.hpp>

namespace cbq {

void let_later_values_win(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    if (option->get_items_expected_max() != 1) continue;
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
}

std::string refuse_negative(const std::string& text) {
  return text.starts_with("-") ? "expected a whole number from 0, got " + text : "";
}

}  // namespace cbq
