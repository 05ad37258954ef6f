#include "tools/cli/described_program.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "cbq/exporters/exporter.h"
#include "cbq/methods.h"
#include "cbq/setting_values.h"

namespace cbq::cli {
namespace {

std::vector<std::string> method_names() {
  std::vector<std::string> names;
  for (const EmbeddedMethod& method : embedded_methods()) names.emplace_back(method.name);
  return names;
}

/// The values of an option, by its long name.
std::vector<std::string> choices_of(const std::string& name) {
  if (name == "--format" || name == "--export") return exporters().names();
  if (name == "--method") return method_names();
  if (name == "--device") return {"auto", "cpu", "cuda"};
  if (name == "--dtype") return {"f32", "bf16"};  // what every command takes
  if (name == "--export-dtype") return {"f32", "bf16", "f16"};
  if (name == "--load") return {"auto", "whole", "blockwise"};
  std::string setting = name.substr(std::min<size_t>(2, name.size()));
  std::replace(setting.begin(), setting.end(), '-', '_');
  return values_of(setting);
}

/// Without what the parser adds to it for messages ("TEXT:FILE in [1 - 2]").
std::string value_of(const CLI::Option& option) {
  if (option.get_items_expected_max() == 0) return "";
  std::string type = option.get_type_name();
  type = type.substr(0, type.find_first_of(": "));
  return type.empty() ? "VALUE" : type;
}

DescribedOption described(const CLI::Option& option) {
  DescribedOption result;
  result.is_positional = !option.nonpositional();
  result.help = option.get_description();
  result.value = value_of(option);
  if (result.is_positional) {
    result.names = {option.get_name(true)};
    return result;
  }
  for (const std::string& name : option.get_snames()) result.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) result.names.push_back("--" + name);
  if (!result.value.empty()) result.choices = choices_of(result.names.back());
  return result;
}

DescribedCommand described_command(const CLI::App& app) {
  DescribedCommand command{app.get_name(), app.get_description(), {}};
  for (const CLI::Option* option : app.get_options()) {
    const bool is_hidden = option->get_group().empty();
    if (!is_hidden) command.options.push_back(described(*option));
  }
  return command;
}

}  // namespace

DescribedProgram described(const CLI::App& app) {
  const CLI::App* root = &app;
  while (root->get_parent() != nullptr) root = root->get_parent();
  DescribedProgram program{
      root->get_name(), root->get_description(), root->get_footer(), described_command(*root), {}};
  for (const CLI::App* sub : root->get_subcommands([](const CLI::App*) { return true; })) {
    program.commands.push_back(described_command(*sub));
  }
  return program;
}

}  // namespace cbq::cli
