// Lines of check_reference: a figure of this program beside the one it must reach.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <iostream>
#include <string>

namespace cbq {

struct Report {
  int lines = 0, out = 0;

  void line(const std::string& name, double value, const std::string& goal, bool ok,
            const std::string& remark = "") {
    std::cout << fmt::format("{:<6} {:<52} {:<9.6g} {:<22} {}\n", ok ? "ok" : "SHORT", name, value,
                             goal, remark)
              << std::flush;
    ++lines;
    out += ok ? 0 : 1;
  }
  void near(const std::string& name, double value, double expected, double tolerance) {
    line(name, value, fmt::format("{:.7g} +- {:g}", expected, tolerance),
         std::abs(value - expected) <= tolerance);
  }
  void at_most(const std::string& name, double value, double bound, const std::string& remark) {
    line(name, value, bound > 0 ? fmt::format("<= {:g}", bound) : "reported",
         bound > 0 ? value <= bound : std::isfinite(value), remark);
  }
};

}  // namespace cbq
