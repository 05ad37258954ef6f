// What all programs with options do alike.
#pragma once

namespace CLI {
class App;
}

namespace cbq {

/// Of an option given twice the second counts, so that a script's options can be followed by one's
/// own (models/train.sh). Options that are lists keep all their values.
void let_later_values_win(CLI::App& app);

}  // namespace cbq
