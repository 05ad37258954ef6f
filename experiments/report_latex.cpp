#include <fmt/format.h>

#include <cctype>

#include "experiments/report_files.h"
#include "tensor/error.h"

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

std::string label_text(const std::string& label) {
  const size_t indent = label.find_first_not_of(' ');
  return indent == 0 || indent == std::string::npos ? latex_text(label)
                                                    : "\\quad " + latex_text(label.substr(indent));
}

size_t columns_of(const Grid& grid) {
  size_t columns = 1;
  for (const GridGroup& group : grid.groups) columns += group.heads.size();
  return columns;
}

std::string titles(const Grid& grid) {
  std::string line, rules;
  size_t column = 2;
  for (const GridGroup& group : grid.groups) {
    const size_t count = group.heads.size();
    line += fmt::format(" & \\multicolumn{{{}}}{{c}}{{{}}}", count, latex_text(group.title));
    rules += fmt::format("\\cmidrule(lr){{{}-{}}}", column, column + count - 1);
    column += count;
  }
  return line + " \\\\\n" + rules + "\n";
}

std::string body(const Grid& grid) {
  std::string out;
  for (size_t r = 0; r < grid.labels.size(); ++r) {
    for (const size_t rule : grid.rules) out += rule == r ? "\\midrule\n" : "";
    out += label_text(grid.labels[r]);
    for (const GridGroup& group : grid.groups) {
      for (size_t c = 0; c < group.heads.size(); ++c) {
        const bool filled = r < group.rows.size() && c < group.rows[r].size();
        out += " & " + (filled ? latex_text(group.rows[r][c]) : std::string());
      }
    }
    out += " \\\\\n";
  }
  return out;
}

std::string to_latex(const Grid& grid, const std::string& caption, const std::string& label) {
  std::string out = "\\begin{table}[htbp]\n\\centering\n\\caption{" + latex_text(caption) +
                    "}\n\\label{tab:" + label + "}\n\\begin{tabular}{l" +
                    std::string(columns_of(grid) - 1, 'r') + "}\n\\toprule\n";
  out += titles(grid) + latex_text(grid.label_head);
  for (const GridGroup& group : grid.groups) {
    for (const std::string& head : group.heads) out += " & " + latex_text(head);
  }
  return out + " \\\\\n\\midrule\n" + body(grid) + "\\bottomrule\n\\end{tabular}\n\\end{table}\n";
}

/// Letters, digits and hyphens of `text`: what \label takes without surprises.
std::string label_of(const std::string& text) {
  std::string out;
  for (const char c : text) out += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '-';
  return out;
}

}  // namespace

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

std::string to_latex(const std::vector<TableReport>& reports) {
  std::string out =
      "% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}. Every table stands by "
      "itself.\n";
  for (const TableReport& report : reports) {
    const std::string label = label_of(report.spec.key + "-" + report.bits);
    out += concat("\n", to_latex(value_grid(report), heading(report), label));
    if (!report.texts.empty()) {
      const std::string caption = heading(report) + ": against the original model (KL in nats)";
      out += concat("\n", to_latex(fidelity_grid(report), caption, label + "-kl"));
    }
    size_t number = 0;
    for (const Grid& grid : trend_grids(report)) {
      out += concat("\n", to_latex(grid, heading(report) + ": trends",
                                   fmt::format("{}-trends-{}", label, ++number)));
    }
  }
  return out;
}

}  // namespace cbq
