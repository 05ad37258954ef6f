// What all programs with options do alike.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace cbq {

/// Of an option given twice the second counts, so that a script's options can be followed by one's
/// own (models/train.sh). Options that are lists keep all their values.
void let_later_values_win(CLI::App& app);

/// For CLI11's Option::check: an error for a text that begins with '-', else "". A number without
/// sign would otherwise be taken modulo 2^64.
std::string refuse_negative(const std::string& text);
/// The same for numbers: an error for a text that is no number, or one below 0 (not above 0).
std::string expect_from_zero(const std::string& text);
std::string expect_positive(const std::string& text);

}  // namespace cbq
