// The commands and options of the program as the parser knows them, for texts that are made of
// them: completion scripts of shells and the manual page.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace cbq::cli {

struct DescribedOption {
  std::vector<std::string> names;  // "-o", "--output"; of a positional argument its name alone
  std::string value;               // the kind of its value ("TEXT"); empty: a flag
  std::string help;
  bool is_positional = false;
  std::vector<std::string> choices;  // the values that it may have; empty: no closed list
};

struct DescribedCommand {
  std::string name, help;
  std::vector<DescribedOption> options;
};

struct DescribedProgram {
  std::string name, help, footer;
  DescribedCommand own;  // options of the program itself
  std::vector<DescribedCommand> commands;
};

/// Of the program that `app` belongs to, which may be one of its commands.
DescribedProgram described(const CLI::App& app);

/// The script that makes a shell complete the program's commands, options and values: bash, zsh or
/// fish. Throws std::invalid_argument, with the known ones, for another shell.
std::string completion_script(const DescribedProgram& program, const std::string& shell);

/// The manual page, in the macros "man" of roff.
std::string manual_page(const DescribedProgram& program, const std::string& version);

}  // namespace cbq::cli
