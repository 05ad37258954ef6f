// Where values lie on an axis, and which of them get a tick.
#pragma once

#include <string>
#include <vector>

namespace cbq {

/// From the values of an axis to pixels, linear or by the logarithm.
struct AxisScale {
  double low = 0.0, high = 1.0;  // values at the ends; of a logarithmic axis above 0
  double from = 0.0, to = 1.0;   // pixels of `low` and `high`
  bool logarithmic = false;

  /// A value outside [low, high] gets the pixel of the nearer end.
  double pixel(double value) const;
};

struct Tick {
  double value;
  std::string label;
};

/// About `count` round values within [low, high]: multiples of 1, 2 or 5 times a power of ten. On a
/// logarithmic axis powers of ten, with 2 and 5 times them where they are fewer than three. Throws
/// std::invalid_argument unless low < high, both finite, and low > 0 on a logarithmic axis.
std::vector<Tick> ticks_of(double low, double high, bool logarithmic, int count = 5);

/// A number as a label, by itself: three significant digits, "1e-05" far from 1.
std::string tick_label(double value);

}  // namespace cbq
