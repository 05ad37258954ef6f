// Switches in the environment (CBQ_GRAPH, ...): how a program does its work. What is computed is an
// option's business; of the switches some move last bits. One table; docs/performance.md explains
// each.
#pragma once

#include <string>
#include <vector>

namespace cbq {

struct EnvironmentSwitch {
  std::string name;
  std::vector<std::string> values;  // all that are known; the first is the default
  std::string help;
  bool moves_bits = false;  // other sums or roundings, and with them now and then another code
};
const std::vector<EnvironmentSwitch>& environment_switches();

/// The value of a switch of the table; the default where it is unset or empty. Throws
/// std::invalid_argument, with the known values, for another one.
std::string environment_value(const std::string& name);

/// "CBQ_FAST=0 CBQ_ATTENTION=tiles": the switches that move bits and are not at their defaults;
/// empty where all are. Part of every hash that says whether two runs give the same numbers.
std::string bits_of_environment();

/// To be called by a program before its work: throws as environment_value does for any switch, and
/// warns on stderr of each variable CBQ_* that nobody reads, with the nearest known name.
void check_environment();
/// The warning about one variable; empty for a known one, and for one that is not CBQ_*.
std::string doubt_about_variable(const std::string& name);

/// The table as text, for a program's --help.
std::string environment_help();

}  // namespace cbq
