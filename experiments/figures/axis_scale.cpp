#include "experiments/figures/axis_scale.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tensor/error.h"

namespace cbq {
namespace {

/// As many digits as tell a tick from its neighbours: 2.975 beside 2.98.
std::string label_at_step(double value, double step) {
  const double places = -std::floor(std::log10(step) + 1e-9);
  if (places > 5.0 || std::abs(value) >= 1e6) return tick_label(value);
  std::string text = fmt::format("{:.{}f}", value, static_cast<int>(std::max(places, 0.0)));
  if (text.find('.') == std::string::npos) return text;
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text;
}

std::vector<Tick> linear_ticks(double low, double high, int count) {
  const double wanted = (high - low) / std::max(1, count);
  const double power = std::pow(10.0, std::floor(std::log10(wanted)));
  double step = 10.0 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= wanted * 0.999) {
      step = factor * power;
      break;
    }
  }
  std::vector<Tick> ticks;
  const double slack = 1e-9 * (high - low);
  for (double i = std::ceil((low - slack) / step); i * step <= high + slack; i += 1.0) {
    const double value = i == 0.0 ? 0.0 : i * step;
    ticks.push_back({value, label_at_step(value, step)});
  }
  return ticks;
}

std::vector<Tick> logarithmic_ticks(double low, double high, const std::vector<double>& factors) {
  std::vector<Tick> ticks;
  for (double p = std::floor(std::log10(low)); p <= std::ceil(std::log10(high)); p += 1.0) {
    for (const double factor : factors) {
      const double value = factor * std::pow(10.0, p);
      if (value >= low * (1.0 - 1e-9) && value <= high * (1.0 + 1e-9)) {
        ticks.push_back({value, tick_label(value)});
      }
    }
  }
  return ticks;
}

}  // namespace

double AxisScale::pixel(double value) const {
  const double x = std::clamp(value, low, high);
  const double part =
      logarithmic ? std::log(x / low) / std::log(high / low) : (x - low) / (high - low);
  return from + part * (to - from);
}

std::vector<Tick> ticks_of(double low, double high, bool logarithmic, int count) {
  check(std::isfinite(low) && std::isfinite(high) && low < high, "axis: from ", low, " to ", high,
        " is no range");
  check(!logarithmic || low > 0.0, "axis: a logarithmic axis begins above 0, got ", low);
  if (!logarithmic) return linear_ticks(low, high, count);
  std::vector<Tick> ticks = logarithmic_ticks(low, high, {1.0});
  if (ticks.size() < 3) ticks = logarithmic_ticks(low, high, {1.0, 2.0, 5.0});
  if (ticks.size() < 2) return linear_ticks(low, high, count);
  const size_t every = (ticks.size() - 1) / static_cast<size_t>(std::max(1, count) + 2) + 1;
  std::vector<Tick> kept;
  for (size_t i = 0; i < ticks.size(); i += every) kept.push_back(ticks[i]);
  return kept;
}

std::string tick_label(double value) { return fmt::format("{:.3g}", value); }

}  // namespace cbq
