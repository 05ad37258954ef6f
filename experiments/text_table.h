// Text tables: rows with a label, columns in titled groups, for terminals and Markdown.
#pragma once

#include <string>
#include <vector>

namespace cbq {

struct ColumnGroup {
  std::string title;                           // above its columns; may be empty
  std::vector<std::string> heads;              // one per column
  std::vector<std::vector<std::string>> rows;  // [row][column]; a missing row prints blank
};

struct TextTable {
  std::string label_head;
  std::vector<std::string> labels;  // one per row
  std::vector<size_t> rules;        // rows with a rule above them
  std::vector<ColumnGroup> groups;
};

/// Columns that a UTF-8 text takes on a terminal (of the characters used here, each takes one).
size_t display_width(const std::string& text);
/// `text` broken at blanks into lines of at most `width`, the further ones indented by `indent`.
std::string wrapped(const std::string& text, size_t width, size_t indent);

/// Numbers right-aligned, groups divided by bars. Groups that exceed `width` go into a further grid
/// below, with the labels again.
std::string to_terminal(const TextTable& grid, size_t width = 100);
/// A Markdown table; a group's title stands before each of its heads.
std::string to_markdown(const TextTable& grid);

}  // namespace cbq
