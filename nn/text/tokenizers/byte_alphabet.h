// The alphabet of byte-level vocabularies: every byte is written as a printable character.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace cbq {

/// Bytes that are printable in Latin-1 stand for themselves; the other 68, in order, are U+0100,
/// U+0101, ... (GPT-2, Radford et al. 2019): a space is written "\u0120".
/// Returns the bytes a vocabulary's token stands for; none when it has other characters or is not
/// UTF-8.
std::optional<std::string> bytes_of_token(std::string_view token);

/// The inverse: how a byte is written, as UTF-8.
std::string token_of_byte(unsigned char byte);
void append_token_of_byte(unsigned char byte, std::string* text);

}  // namespace cbq
