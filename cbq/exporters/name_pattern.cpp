#define PCRE2_CODE_UNIT_WIDTH 8
#include "cbq/exporters/name_pattern.h"

#include <pcre2.h>

#include <array>

#include "tensor/error.h"

namespace cbq {
namespace {

constexpr size_t longest_pattern = 4096;
// Steps of a match. Names have a hundred characters, and a model has thousands of layers.
constexpr uint32_t most_steps = 100'000;

std::string pattern_fault(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

NamePattern::NamePattern(const std::string& pattern, const std::string& what)
    : pattern_(pattern.substr(0, 200)), what_(what) {
  if (pattern.size() > longest_pattern) {
    fail(what, ": the pattern ", pattern_, "... has ", pattern.size(), " characters, at most ",
         longest_pattern, " are read; name the layers in shorter ones");
  }
  int error = 0;
  size_t offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code == nullptr) {
    fail(what, ": ", pattern_,
         " is no regular expression that is read here: ", pattern_fault(error), " (at position ",
         offset, "); name the layers one by one");
  }
  code_ = std::shared_ptr<const void>(
      code, [](const void* c) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(c))); });
}

bool NamePattern::matches(const std::string& name, bool at_begin) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(
      pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, void (*)(pcre2_match_context*)> limits(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  pcre2_set_match_limit(limits.get(), most_steps);
  const int found =
      pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0,
                  at_begin ? uint32_t{PCRE2_ANCHORED} : 0u, match.get(), limits.get());
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0) {
    fail(what_, ": matching ", pattern_, " with ", name, " failed: ", pattern_fault(found),
         "; name the layers one by one");
  }
  return true;
}

}  // namespace cbq
