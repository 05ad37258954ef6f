// The values of settings that have a closed list of them: what validation, help and the axes of
// experiments know is asked for here.
#pragma once

#include <string>
#include <vector>

namespace cbq {

/// The values that a setting may have, from the registry or the type that has them. Empty for a
/// setting without such a list: numbers, and texts of another form (schedules, bits by layer,
/// pre-processing and solvers with arguments, rotations).
std::vector<std::string> values_of(const std::string& setting);

}  // namespace cbq
