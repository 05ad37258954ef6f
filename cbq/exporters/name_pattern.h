// Regular expressions over the paths of layers, as other programs' config.json has them.
#pragma once

#include <memory>
#include <string>

namespace cbq {

/// A pattern of Python's `re`, compiled by PCRE2, which reads the same syntax apart from a few
/// rarities. Matching is bounded: a pattern that backtracks without end is an error.
class NamePattern {
 public:
  /// Throws std::runtime_error, naming `what` and the position, for what is no pattern.
  NamePattern(const std::string& pattern, const std::string& what);
  /// re.match: whether a match begins where `name` does.
  bool begins(const std::string& name) const { return matches(name, true); }
  /// re.search.
  bool occurs_in(const std::string& name) const { return matches(name, false); }

 private:
  bool matches(const std::string& name, bool at_begin) const;

  std::string pattern_, what_;
  std::shared_ptr<const void> code_;
};

}  // namespace cbq
