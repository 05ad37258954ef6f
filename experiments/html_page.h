// Pages of HTML that need no other file: one look for reports of tables and of models.
#pragma once

#include <string>

#include "experiments/text_table.h"

namespace cbq {

/// A page with a heading. It reads on a telephone as on a wide screen, bright or dark. `body` is
/// HTML; title and heading are texts.
std::string html_page(const std::string& title, const std::string& heading,
                      const std::string& body);

/// A table in a frame of its own, in which it scrolls where the page is narrow.
std::string html_table(const TextTable& table);

}  // namespace cbq
