// cbq completion: what makes a shell complete the program's commands, options and values.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "tensor/error.h"
#include "tools/cli/command.h"
#include "tools/cli/described_program.h"

namespace cbq::cli {
namespace {

std::string joined_by_blanks(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

std::vector<std::string> option_names(const DescribedCommand& command) {
  std::vector<std::string> names;
  for (const DescribedOption& option : command.options) {
    if (!option.is_positional) {
      names.insert(names.end(), option.names.begin(), option.names.end());
    }
  }
  return names;
}

/// The help's beginning in a line, without characters that mean something to one of the shells.
std::string short_help(const std::string& help) {
  std::string text = help.substr(0, help.find_first_of(";\n"));
  std::erase_if(text,
                [](char c) { return std::string("'\"`\\$[]:").find(c) != std::string::npos; });
  if (text.size() <= 70) return text;
  text.resize(text.rfind(' ', 70) == std::string::npos ? 70 : text.rfind(' ', 70));
  return text + " ...";
}

/// Files where nothing else is proposed: "-o default".
std::string bash_script(const DescribedProgram& program) {
  std::vector<std::string> first = option_names(program.own);
  std::string values, options;
  for (const DescribedCommand& command : program.commands) {
    first.push_back(command.name);
    options += fmt::format("      {}) words='{}' ;;\n", command.name,
                           joined_by_blanks(option_names(command)));
    for (const DescribedOption& option : command.options) {
      if (option.choices.empty()) continue;
      std::string patterns;
      for (const std::string& name : option.names) {
        patterns += fmt::format("{}'{} {}'", patterns.empty() ? "" : "|", command.name, name);
      }
      values += fmt::format("    {}) words='{}' ;;\n", patterns, joined_by_blanks(option.choices));
    }
  }
  return fmt::format(R"(# Completion of {0} for bash: source <({0} completion bash)
_{0}() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=''
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '{1}' -- "$current"))
    return
  fi
  case "${{COMP_WORDS[1]}} $before" in
{2}  esac
  if [ -z "$words" ] && [[ "$current" == -* ]]; then
    case "${{COMP_WORDS[1]}}" in
{3}    esac
  fi
  [ -z "$words" ] || COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _{0} {0}
)",
                     program.name, joined_by_blanks(first), values, options);
}

std::string zsh_script(const DescribedProgram& program) {
  std::string commands, arguments;
  for (const DescribedCommand& command : program.commands) {
    commands += fmt::format("    '{}:{}'\n", command.name, short_help(command.help));
    arguments += fmt::format("    {})\n      _arguments \\\n", command.name);
    for (const DescribedOption& option : command.options) {
      if (option.is_positional) continue;
      const std::string values =
          option.choices.empty() ? "_files" : fmt::format("({})", joined_by_blanks(option.choices));
      for (const std::string& name : option.names) {
        arguments += fmt::format("        '*{}[{}]{}' \\\n", name, short_help(option.help),
                                 option.value.empty() ? "" : ":value:" + values);
      }
    }
    arguments += "        '*:file:_files'\n      ;;\n";
  }
  return fmt::format(R"(#compdef {0}
# Completion of {0} for zsh: in a folder of $fpath as _{0}, or source <({0} completion zsh)
_{0}() {{
  local -a commands
  commands=(
{1}  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT -= 1 ))
  case $command in
{2}  esac
}}
if [ "$funcstack[1]" = "_{0}" ]; then
  _{0} "$@"
else
  compdef _{0} {0}
fi
)",
                     program.name, commands, arguments);
}

std::string fish_script(const DescribedProgram& program) {
  std::string out =
      fmt::format("# Completion of {0} for fish: {0} completion fish | source\n", program.name);
  for (const DescribedCommand& command : program.commands) {
    out += fmt::format("complete -c {} -f -n __fish_use_subcommand -a {} -d '{}'\n", program.name,
                       command.name, short_help(command.help));
    for (const DescribedOption& option : command.options) {
      if (option.is_positional) continue;
      out += fmt::format("complete -c {} -n '__fish_seen_subcommand_from {}'", program.name,
                         command.name);
      for (const std::string& name : option.names) {
        out += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      }
      if (!option.choices.empty()) {
        out += fmt::format(" -x -a '{}'", joined_by_blanks(option.choices));
      } else if (!option.value.empty()) {
        out += " -r";
      }
      out += fmt::format(" -d '{}'\n", short_help(option.help));
    }
  }
  return out;
}

}  // namespace

std::string completion_script(const DescribedProgram& program, const std::string& shell) {
  if (shell == "bash") return bash_script(program);
  if (shell == "zsh") return zsh_script(program);
  check(shell == "fish", "completion: there is no script for '", shell,
        "'; known: bash, zsh, fish");
  return fish_script(program);
}

Action setup_completion(CLI::App& app) {
  auto shell = std::make_shared<std::string>();
  app.add_option("shell", *shell, "bash, zsh or fish")->required();
  return [shell, &app] { std::cout << completion_script(described(app), *shell); };
}

}  // namespace cbq::cli
