#include "experiments/command_line.h"

#include <CLI/CLI.hpp>
#include <optional>

namespace cbq {
namespace {

std::optional<double> number_of(const std::string& text) {
  double value = 0.0;
  const bool is_number = CLI::detail::lexical_cast(text, value);
  return is_number ? std::optional(value) : std::nullopt;
}

}  // namespace

void let_later_values_win(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    if (option->get_items_expected_max() != 1) continue;
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
}

std::string refuse_negative(const std::string& text) {
  return text.starts_with("-") ? "expected a whole number from 0, got " + text : "";
}

std::string expect_from_zero(const std::string& text) {
  const std::optional<double> value = number_of(text);
  return value && *value >= 0.0 ? "" : "expected a number from 0, got " + text;
}

std::string expect_positive(const std::string& text) {
  const std::optional<double> value = number_of(text);
  return value && *value > 0.0 ? "" : "expected a number above 0, got " + text;
}

}  // namespace cbq
