// Enumerations whose values have names on the command line and in files: one table per enumeration.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "tensor/error.h"

namespace cbq {

template <class E>
struct NamedValue {
  E value;
  const char* name;
};
template <class E, size_t n>
using NameTable = std::array<NamedValue<E>, n>;

/// The value's name; "?" for one that the table lacks.
template <class E, size_t n>
std::string name_in(const NameTable<E, n>& table, E value) {
  for (const auto& entry : table) {
    if (entry.value == value) return entry.name;
  }
  return "?";
}

/// Throws std::invalid_argument with the known names: "unknown `what` 'name'; known: ...".
template <class E, size_t n>
E value_in(const NameTable<E, n>& table, const char* what, const std::string& name) {
  std::string known;
  for (const auto& entry : table) {
    if (name == entry.name) return entry.value;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw std::invalid_argument(message_of("unknown ", what, " '", name, "'; known: ", known));
}

template <class E, size_t n>
std::vector<std::string> names_in(const NameTable<E, n>& table) {
  std::vector<std::string> names;
  for (const auto& entry : table) names.emplace_back(entry.name);
  return names;
}

}  // namespace cbq
