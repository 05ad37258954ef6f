#include "experiments/text_table.h"

#include <algorithm>

namespace cbq {
namespace {

std::string padded(const std::string& text, size_t width, bool right) {
  const size_t used = display_width(text);
  const std::string blanks(width > used ? width - used : 0, ' ');
  return right ? blanks + text : text + blanks;
}

const std::string& cell_of(const ColumnGroup& group, size_t row, size_t column) {
  static const std::string blank;
  if (row >= group.rows.size() || column >= group.rows[row].size()) return blank;
  return group.rows[row][column];
}

/// Widths of a group's columns; the last one is widened where the title needs more.
std::vector<size_t> widths_of(const ColumnGroup& group) {
  std::vector<size_t> widths;
  size_t total = 0;
  for (size_t c = 0; c < group.heads.size(); ++c) {
    size_t width = display_width(group.heads[c]);
    for (size_t r = 0; r < group.rows.size(); ++r) {
      width = std::max(width, display_width(cell_of(group, r, c)));
    }
    widths.push_back(width);
    total += width + (c > 0 ? 2 : 0);
  }
  const size_t title = display_width(group.title);
  if (!widths.empty() && title > total) widths.back() += title - total;
  return widths;
}

size_t total_of(const std::vector<size_t>& widths) {
  size_t total = 0;
  for (const size_t width : widths) total += width + 2;
  return total < 2 ? 0 : total - 2;
}

std::string trimmed(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

/// Labels and the groups [begin, end).
class TableSlice {
 public:
  TableSlice(const TextTable& grid, size_t begin, size_t end)
      : grid_(grid), begin_(begin), end_(end) {
    label_ = display_width(grid.label_head);
    for (const std::string& label : grid.labels) label_ = std::max(label_, display_width(label));
    for (const ColumnGroup& group : grid.groups) widths_.push_back(widths_of(group));
  }

  std::string text() const {
    bool titled = false;
    for (size_t g = begin_; g < end_; ++g) titled = titled || !grid_.groups[g].title.empty();
    std::string out = titled ? titles() : "";
    out += line(grid_.label_head, [&](size_t g, size_t c) { return grid_.groups[g].heads[c]; });
    out += rule();
    for (size_t r = 0; r < grid_.labels.size(); ++r) {
      if (std::count(grid_.rules.begin(), grid_.rules.end(), r) > 0) out += rule();
      out +=
          line(grid_.labels[r], [&](size_t g, size_t c) { return cell_of(grid_.groups[g], r, c); });
    }
    return out;
  }

  size_t width_of_label() const { return label_; }
  size_t width_of_group(size_t g) const { return total_of(widths_[g]) + 3; }

 private:
  template <class CellAt>
  std::string line(const std::string& label, const CellAt& at) const {
    std::string out = padded(label, label_, false);
    for (size_t g = begin_; g < end_; ++g) {
      out += " |";
      for (size_t c = 0; c < widths_[g].size(); ++c) {
        out += (c == 0 ? " " : "  ") + padded(at(g, c), widths_[g][c], true);
      }
    }
    return trimmed(out);
  }
  std::string titles() const {
    std::string out(label_, ' ');
    for (size_t g = begin_; g < end_; ++g) {
      out += " | " + padded(grid_.groups[g].title, total_of(widths_[g]), false);
    }
    return trimmed(out);
  }
  std::string rule() const {
    std::string out(label_, '-');
    for (size_t g = begin_; g < end_; ++g) out += "-+-" + std::string(total_of(widths_[g]), '-');
    return out + "\n";
  }

  const TextTable& grid_;
  size_t begin_, end_, label_ = 0;
  std::vector<std::vector<size_t>> widths_;
};

std::string markdown_cell(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return " " + out + " |";
}

}  // namespace

size_t display_width(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string wrapped(const std::string& text, size_t width, size_t indent) {
  std::string out, line;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    const bool empty = line.find_first_not_of(' ') == std::string::npos;
    if (!empty && display_width(line) + 1 + display_width(word) > width) {
      out += line + "\n";
      line = std::string(indent, ' ') + word;
    } else {
      line += (empty ? "" : " ") + word;
    }
    begin = end + 1;
  }
  return out + line + "\n";
}

std::string to_terminal(const TextTable& grid, size_t width) {
  const TableSlice whole(grid, 0, grid.groups.size());
  std::string out;
  for (size_t begin = 0; begin < grid.groups.size();) {
    size_t used = whole.width_of_label(), end = begin;
    while (end < grid.groups.size() &&
           (end == begin || used + whole.width_of_group(end) <= width)) {
      used += whole.width_of_group(end++);
    }
    out += (begin > 0 ? "\n" : "") + TableSlice(grid, begin, end).text();
    begin = end;
  }
  return out;
}

std::string to_markdown(const TextTable& grid) {
  std::string head = "|" + markdown_cell(grid.label_head), rule = "|---|";
  for (const ColumnGroup& group : grid.groups) {
    for (const std::string& h : group.heads) {
      head += markdown_cell(group.title.empty() ? h : group.title + ": " + h);
      rule += "---:|";
    }
  }
  std::string out = head + "\n" + rule + "\n";
  for (size_t r = 0; r < grid.labels.size(); ++r) {
    out += "|" + markdown_cell(grid.labels[r]);
    for (const ColumnGroup& group : grid.groups) {
      for (size_t c = 0; c < group.heads.size(); ++c) out += markdown_cell(cell_of(group, r, c));
    }
    out += "\n";
  }
  return out;
}

}  // namespace cbq
