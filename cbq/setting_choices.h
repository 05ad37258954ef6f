// Settings that choose one of a few ways: the types that their texts stand for. Whoever takes such
// a setting converts it once; values_of() (cbq/setting_values.h) lists the names.
#pragma once

#include <string>
#include <vector>

namespace cbq {

/// Settings::reconstruct. none: nothing is learned.
enum class Reconstruction { cross_block, none };
/// Settings::l2: the squared error of a token whose hidden state has n elements.
///   sum: ||h - h^||^2,   mean: its n-th part,   norm: ||h - h^||,
///   relative: n ||h - h^||^2 / ||h||^2.
enum class SquaredErrorForm { sum, mean, norm, relative };
/// Settings::regularizer_reduction, over the weights of a window.
enum class RegularizerReduction { sum, mean };
/// Settings::rounding_blocks. overlap: the last blocks of a window, those it shares with the next.
enum class RoundingBlocks { window, overlap };
/// Settings::keep. best: of the ends of epochs, the one with the least loss of hard rounding.
enum class KeptParameters { best, last };

std::string name_of(Reconstruction reconstruction);
/// Names as they stand on the command line; from_name throws std::invalid_argument with all of
/// them.
Reconstruction reconstruction_from_name(const std::string& name);
SquaredErrorForm squared_error_form_from_name(const std::string& name);
RegularizerReduction regularizer_reduction_from_name(const std::string& name);
RoundingBlocks rounding_blocks_from_name(const std::string& name);
KeptParameters kept_parameters_from_name(const std::string& name);
std::vector<std::string> reconstruction_names();
std::vector<std::string> squared_error_form_names();
std::vector<std::string> regularizer_reduction_names();
std::vector<std::string> rounding_blocks_names();
std::vector<std::string> kept_parameters_names();

}  // namespace cbq
