// Figures in an HTML page.
#pragma once

#include <string>
#include <vector>

#include "experiments/figures/figure.h"

namespace cbq {

/// An entry of the page's contents for each figure.
std::string figure_links(const std::vector<Figure>& figures);
/// A section for each figure: its panels as pictures, its caption, where its data are.
std::string figure_sections(const std::vector<Figure>& figures);

}  // namespace cbq
