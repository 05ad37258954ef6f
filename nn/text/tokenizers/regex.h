// Regular expressions as tokenizer.json writes them (Oniguruma's syntax), matched by PCRE2.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace cbq {

class Regex;

/// Memory for matching one pattern, used again from text to text by one thread.
class RegexScratch {
 public:
  explicit RegexScratch(const Regex& regex);
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

 private:
  friend class Regex;
  struct Data;
  std::unique_ptr<Data> data_;
};

class Regex {
 public:
  /// Compiles `pattern`. The two dialects agree on what is accepted here; what they read
  /// differently is rewritten (nested classes, intersections of classes, \s) or refused with
  /// std::runtime_error naming `what`, the construct and its place.
  Regex(const std::string& pattern, const std::string& what);

  /// Calls f(begin, end) with every match, from left to right; `text` must be UTF-8. Empty matches
  /// are left out. Safe from several threads. Throws std::runtime_error when the engine gives up.
  void for_each_match(std::string_view text, const std::function<void(size_t, size_t)>& f) const;
  /// The same with empty matches, but for one right behind the match before it.
  void for_each_match(std::string_view text, RegexScratch* scratch,
                      const std::function<void(size_t, size_t)>& f) const;

 private:
  friend class RegexScratch;
  std::shared_ptr<const void> code_;  // pcre2_code
  std::string what_;
};

/// `pattern` in PCRE2's dialect. Exposed for its tests.
std::string pcre2_from_oniguruma(const std::string& pattern, const std::string& what);

}  // namespace cbq
