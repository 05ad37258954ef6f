// The model card of a result: method, settings, figures and the command, for people who find the
// folder.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace cbq::cli {

/// The card's name; and the one that it has where the model brought a README.md of its own.
inline constexpr const char* card_name = "README.md";
inline constexpr const char* second_card_name = "QUANTIZATION.md";

/// Whether this file is a card that this program wrote.
bool is_model_card(const std::filesystem::path& file);

/// Writes the card of the result in `folder`, from what recipe.json and report.json say there. In
/// `folder` lies already what was carried over from the model.
void write_model_card(const std::filesystem::path& folder, const nlohmann::json& recipe,
                      const nlohmann::json& report);

}  // namespace cbq::cli
