// Values and texts as the formats of reports and figures take them.
#pragma once

#include <string>

namespace cbq {

/// `text` as a field of CSV: in quotation marks where it holds a comma, one of them, or a line end.
std::string csv_field(const std::string& text);
/// As many digits as bring the number back; "nan", "inf", "-inf".
std::string csv_number(double value);
/// `text` with everything that LaTeX would read as a command; signs of numbers in math mode.
std::string latex_text(const std::string& text);
/// `text` for HTML, within elements and attributes.
std::string html_text(const std::string& text);

}  // namespace cbq
