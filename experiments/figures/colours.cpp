#include "experiments/figures/colours.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace cbq {

std::string sequential_colour(double part) {
  constexpr std::array<std::array<double, 3>, 8> anchors = {{{68, 1, 84},
                                                             {70, 50, 127},
                                                             {54, 92, 141},
                                                             {39, 127, 142},
                                                             {31, 161, 135},
                                                             {74, 194, 109},
                                                             {159, 218, 58},
                                                             {253, 231, 37}}};
  const double at = std::clamp(part, 0.0, 1.0) * static_cast<double>(anchors.size() - 1);
  const auto below = std::min(static_cast<size_t>(at), anchors.size() - 2);
  const double rest = at - static_cast<double>(below);
  std::array<int, 3> rgb{};
  for (size_t c = 0; c < 3; ++c) {
    const double mixed = anchors[below][c] * (1.0 - rest) + anchors[below + 1][c] * rest;
    rgb[c] = static_cast<int>(std::lround(mixed));
  }
  return fmt::format("#{:02x}{:02x}{:02x}", rgb[0], rgb[1], rgb[2]);
}

std::string series_colour(size_t i) {
  constexpr std::array<const char*, 7> colours = {"#1f83c4", "#e07b1a", "#0ca678", "#cc5fa0",
                                                  "#8a6fd1", "#b79a00", "#7a8794"};
  return colours[i % colours.size()];
}

}  // namespace cbq
