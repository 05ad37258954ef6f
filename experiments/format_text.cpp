#include "experiments/format_text.h"

#include <fmt/format.h>

#include <cctype>
#include <cmath>
#include <utility>

namespace cbq {
namespace {

/// What one character becomes; nullptr: itself.
const char* replacement(char c) {
  switch (c) {
    case '\\':
      return "\\textbackslash{}";
    case '~':
      return "\\textasciitilde{}";
    case '^':
      return "\\textasciicircum{}";
    case '<':
      return "\\textless{}";
    case '>':
      return "\\textgreater{}";
    case '|':
      return "\\textbar{}";
    case '"':
      return "\\textquotedbl{}";
    case '&':
      return "\\&";
    case '%':
      return "\\%";
    case '$':
      return "\\$";
    case '#':
      return "\\#";
    case '_':
      return "\\_";
    case '{':
      return "\\{";
    case '}':
      return "\\}";
    case '\n':
      return " ";
    default:
      return nullptr;
  }
}

/// Characters beyond ASCII that reports use; others are left to inputenc.
std::string with_symbols(std::string text) {
  constexpr std::pair<const char*, const char*> symbols[] = {
      {"±", "$\\pm$"}, {"×", "$\\times$"}, {"→", "$\\to$"}};
  for (const auto& [symbol, command] : symbols) {
    const std::string from = symbol;
    for (size_t at = 0; (at = text.find(from, at)) != std::string::npos;) {
      text.replace(at, from.size(), command);
      at += std::string(command).size();
    }
  }
  return text;
}

}  // namespace

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

std::string csv_number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0.0 ? "inf" : "-inf";
  return fmt::format("{}", value);
}

std::string latex_text(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool sign = (text[i] == '-' || text[i] == '+') && (i == 0 || text[i - 1] == ' ') &&
                      i + 1 < text.size() &&
                      std::isdigit(static_cast<unsigned char>(text[i + 1])) != 0;
    const char* replaced = replacement(text[i]);
    if (sign) {
      out += std::string("$") + text[i] + "$";
    } else if (replaced != nullptr) {
      out += replaced;
    } else {
      out += text[i];
    }
  }
  return with_symbols(std::move(out));
}

std::string html_text(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace cbq
