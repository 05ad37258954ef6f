// cbq man: the manual page, made of what --help says.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <sstream>

#include "tensor/runtime/program_version.h"
#include "tools/cli/command.h"
#include "tools/cli/described_program.h"

namespace cbq::cli {
namespace {

/// Text that roff prints as it is.
std::string roff_text(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n')) out += "\\&";
      out += c;
    }
  }
  return out;
}

std::string option_entry(const DescribedOption& option) {
  std::string names;
  for (const std::string& name : option.names) {
    names += fmt::format("{}\\fB{}\\fR", names.empty() ? "" : ", ", roff_text(name));
  }
  if (!option.value.empty() && !option.is_positional) {
    names += fmt::format(" \\fI{}\\fR", roff_text(option.value));
  }
  return fmt::format(".TP\n{}\n{}\n", names, roff_text(option.help));
}

std::string command_section(const std::string& program, const DescribedCommand& command) {
  std::string usage;
  for (const DescribedOption& option : command.options) {
    if (option.is_positional) usage += fmt::format(" \\fI{}\\fR", roff_text(option.names[0]));
  }
  std::string out = fmt::format(".SS {} {}\n{}.\n.PP\n\\fB{} {}\\fR{} [options]\n", program,
                                roff_text(command.name), roff_text(command.help), program,
                                roff_text(command.name), usage);
  for (const DescribedOption& option : command.options) out += option_entry(option);
  return out;
}

}  // namespace

std::string manual_page(const DescribedProgram& program, const std::string& version) {
  std::string out = fmt::format(".TH {0} 1 \"\" \"{0} {1}\" \"User Commands\"\n", program.name,
                                roff_text(version));
  // "cbq: what it does" -> a name and a description, as whatis wants them.
  const size_t colon = program.help.find(": ");
  const std::string help =
      colon == std::string::npos ? program.help : program.help.substr(colon + 2);
  out += fmt::format(".SH NAME\n{} \\- {}\n", program.name, roff_text(help));
  out += fmt::format(".SH SYNOPSIS\n\\fB{}\\fR \\fIcommand\\fR [options]\n", program.name);
  out += ".SH OPTIONS\n";
  for (const DescribedOption& option : program.own.options) out += option_entry(option);
  out += ".SH COMMANDS\n";
  for (const DescribedCommand& command : program.commands) {
    out += command_section(program.name, command);
  }
  out += ".SH ENVIRONMENT\n.nf\n";
  std::istringstream lines(program.footer);
  for (std::string line; std::getline(lines, line);) out += roff_text(line) + "\n";
  return out + ".fi\n";
}

Action setup_man(CLI::App& app) {
  return [&app] { std::cout << manual_page(described(app), program_version()); };
}

}  // namespace cbq::cli
