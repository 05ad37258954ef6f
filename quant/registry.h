// Registry: parts that register themselves from their own file and are found by name.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tensor/error.h"

namespace cbq {

/// One registry per interface `Part`; `kind` ("rounding scheme") appears in its errors.
template <class Part>
class Registry {
 public:
  using Factory = std::function<std::unique_ptr<Part>()>;

  explicit Registry(std::string kind) : kind_(std::move(kind)) {}

  /// Returns true, so that a file can register during static initialization.
  /// Throws std::invalid_argument when the name is taken.
  bool add(const std::string& name, Factory factory) {
    check(factories_.emplace(name, std::move(factory)).second, kind_, " '", name,
          "' is registered twice");
    return true;
  }
  /// Throws std::invalid_argument with the known names.
  std::unique_ptr<Part> make(const std::string& name) const {
    const auto found = factories_.find(name);
    if (found == factories_.end()) {
      std::string known;
      for (const std::string& n : names()) known += (known.empty() ? "" : ", ") + n;
      throw std::invalid_argument(message_of("unknown ", kind_, " '", name, "'; known: ", known));
    }
    return found->second();
  }
  bool has(const std::string& name) const { return factories_.count(name) > 0; }
  /// Sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& [name, factory] : factories_) all.push_back(name);
    return all;
  }

 private:
  std::string kind_;
  std::map<std::string, Factory> factories_;
};

}  // namespace cbq
