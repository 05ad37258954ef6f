#include "experiments/figures/contours.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "tensor/error.h"

namespace cbq {
namespace {

using Point = std::pair<double, double>;

/// Corners of a square, in the order in which its sides join them: side i goes from corner i to
/// corner (i + 1) % 4.
struct Square {
  std::array<double, 4> value;
  std::array<Point, 4> place;

  bool crosses(size_t side, double level) const {
    return (value[side] >= level) != (value[(side + 1) % 4] >= level);
  }
  Point crossing(size_t side, double level) const {
    const size_t next = (side + 1) % 4;
    const double part = (level - value[side]) / (value[next] - value[side]);
    return {place[side].first + part * (place[next].first - place[side].first),
            place[side].second + part * (place[next].second - place[side].second)};
  }
};

void add_pieces(const Square& square, double level, std::vector<ContourSegment>& pieces) {
  std::vector<Point> ends;
  for (size_t side = 0; side < 4; ++side) {
    if (square.crosses(side, level)) ends.push_back(square.crossing(side, level));
  }
  if (ends.size() == 4) {
    // A saddle. Pairs of ends as they stand (sides 0 and 1, 2 and 3) cut off corners 1 and 3; one
    // place further they cut off corners 0 and 2. Cut off are the corners unlike the middle.
    const double middle =
        (square.value[0] + square.value[1] + square.value[2] + square.value[3]) / 4.0;
    const bool first_unlike = (square.value[0] >= level) != (middle >= level);
    if (first_unlike) std::rotate(ends.begin(), ends.begin() + 3, ends.end());
  }
  for (size_t i = 0; i + 1 < ends.size(); i += 2) {
    pieces.push_back({ends[i].first, ends[i].second, ends[i + 1].first, ends[i + 1].second});
  }
}

}  // namespace

std::vector<ContourSegment> contour(const std::vector<std::vector<double>>& values, double level) {
  std::vector<ContourSegment> pieces;
  for (size_t r = 0; r + 1 < values.size(); ++r) {
    check(values[r].size() == values[r + 1].size(), "contour: rows of ", values[r].size(), " and ",
          values[r + 1].size(), " values");
    for (size_t c = 0; c + 1 < values[r].size(); ++c) {
      const auto x = static_cast<double>(c), y = static_cast<double>(r);
      const Square square = {
          {values[r][c], values[r][c + 1], values[r + 1][c + 1], values[r + 1][c]},
          {{{x, y}, {x + 1.0, y}, {x + 1.0, y + 1.0}, {x, y + 1.0}}}};
      const bool finite = std::all_of(square.value.begin(), square.value.end(),
                                      [](double v) { return std::isfinite(v); });
      if (finite) add_pieces(square, level, pieces);
    }
  }
  return pieces;
}

}  // namespace cbq
