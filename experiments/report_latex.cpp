#include <fmt/format.h>

#include <cctype>

#include "experiments/format_text.h"
#include "experiments/report_files.h"
#include "tensor/error.h"

namespace cbq {
namespace {

std::string label_text(const std::string& label) {
  const size_t indent = label.find_first_not_of(' ');
  return indent == 0 || indent == std::string::npos ? latex_text(label)
                                                    : "\\quad " + latex_text(label.substr(indent));
}

size_t columns_of(const TextTable& grid) {
  size_t columns = 1;
  for (const ColumnGroup& group : grid.groups) columns += group.heads.size();
  return columns;
}

std::string titles(const TextTable& grid) {
  std::string line, rules;
  size_t column = 2;
  for (const ColumnGroup& group : grid.groups) {
    const size_t count = group.heads.size();
    line += fmt::format(" & \\multicolumn{{{}}}{{c}}{{{}}}", count, latex_text(group.title));
    rules += fmt::format("\\cmidrule(lr){{{}-{}}}", column, column + count - 1);
    column += count;
  }
  return line + " \\\\\n" + rules + "\n";
}

std::string body(const TextTable& grid) {
  std::string out;
  for (size_t r = 0; r < grid.labels.size(); ++r) {
    for (const size_t rule : grid.rules) out += rule == r ? "\\midrule\n" : "";
    out += label_text(grid.labels[r]);
    for (const ColumnGroup& group : grid.groups) {
      for (size_t c = 0; c < group.heads.size(); ++c) {
        const bool filled = r < group.rows.size() && c < group.rows[r].size();
        out += " & " + (filled ? latex_text(group.rows[r][c]) : std::string());
      }
    }
    out += " \\\\\n";
  }
  return out;
}

std::string to_latex(const TextTable& grid, const std::string& caption, const std::string& label) {
  std::string out = "\\begin{table}[htbp]\n\\centering\n\\caption{" + latex_text(caption) +
                    "}\n\\label{tab:" + label + "}\n\\begin{tabular}{l" +
                    std::string(columns_of(grid) - 1, 'r') + "}\n\\toprule\n";
  out += titles(grid) + latex_text(grid.label_head);
  for (const ColumnGroup& group : grid.groups) {
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

std::string to_latex(const std::vector<TableReport>& reports) {
  std::string out =
      "% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}. Every table stands by "
      "itself.\n";
  for (const TableReport& report : reports) {
    const std::string label = label_of(report.spec.key + "-" + report.bits);
    out += concat("\n", to_latex(value_table(report), heading(report), label));
    if (!report.texts.empty()) {
      const std::string caption = heading(report) + ": against the original model (KL in nats)";
      out += concat("\n", to_latex(fidelity_table(report), caption, label + "-kl"));
    }
    size_t number = 0;
    for (const TextTable& grid : trend_tables(report)) {
      out += concat("\n", to_latex(grid, heading(report) + ": trends",
                                   fmt::format("{}-trends-{}", label, ++number)));
    }
  }
  return out;
}

}  // namespace cbq
