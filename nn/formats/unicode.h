// Characters of UTF-8 text, with the classes and the mappings of case that Python's str has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace cbq {

/// Whether the bytes are well-formed UTF-8 (no overlong forms, no surrogates, at most U+10FFFF).
bool is_utf8(std::string_view text);

/// The code point that begins at text[*at]; moves *at behind it. `text` must be UTF-8 and *at
/// within it (a byte that is not UTF-8 is returned as U+FFFD).
char32_t next_character(std::string_view text, size_t* at);
/// Where the character that ends in front of text[end] begins; `end` must be above 0.
size_t previous_character(std::string_view text, size_t end);
/// Appends the UTF-8 form of a code point.
void append_character(char32_t character, std::string* text);
/// Bytes of the character whose first byte is `lead`: 1 to 4.
size_t character_size(char lead);

/// Unicode's property White_Space, which `\s` of the tokenizers' patterns means.
bool is_white_space(char32_t c);
/// What `\w` means in Unicode's Annex 18: letters, marks, decimal digits, connectors, joiners.
bool is_word_character(char32_t c);
/// Python's str.isspace for one character: White_Space, and the separators U+001C to U+001F.
bool is_python_space(char32_t c);

/// Python's str.strip() and str.rstrip().
std::string_view python_strip(std::string_view text);
std::string_view python_rstrip(std::string_view text);
/// Whether Python's str.strip() leaves nothing.
bool is_python_blank(std::string_view text);
/// Python's str.lower(): full mappings; a capital sigma at a word's end becomes a final one.
std::string python_lower(std::string_view text);
/// Python's str.capitalize(): the first character in title case ("ß" becomes "Ss"), the others in
/// lower case.
std::string python_capitalize(std::string_view text);

/// `text` as Python's open(..., newline=None) reads it: "\r\n" and a lone "\r" become "\n".
std::string universal_newlines(std::string text);

}  // namespace cbq
