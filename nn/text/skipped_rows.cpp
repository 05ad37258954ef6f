#include "nn/text/skipped_rows.h"

#include <iostream>

#include "nn/formats/json.h"

namespace cbq {

namespace {
constexpr int64_t most_named = 10;  // the others are only counted
}

nlohmann::json SkippedRows::parse(std::string_view row, const std::string& where) {
  try {
    return parse_json(row, where);
  } catch (const std::runtime_error& error) {
    if (++count_ == 1) first_reason_ = error.what();
    if (count_ <= most_named) {
      std::cerr << "warning: " << error.what() << "; this row is left out" << std::endl;
    }
    return nlohmann::json(nlohmann::json::value_t::discarded);
  }
}

void SkippedRows::report(int64_t all) const {
  if (count_ == 0) return;
  std::cerr << "warning: " << file_ << ": " << count_ << " of " << all
            << (all == 1 ? " row" : " rows") << " could not be read and "
            << (count_ == 1 ? "was" : "were") << " left out" << std::endl;
}

}  // namespace cbq
