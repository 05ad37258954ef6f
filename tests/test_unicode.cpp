// Characters as Python's str has them (tools/fixtures/make_unicode_fixture.py).
#include <nlohmann/json.hpp>

#include "nn/formats/hash.h"
#include "nn/formats/json.h"
#include "nn/formats/unicode.h"
#include "tests/test_data.h"

namespace cbq::test_unicode {
namespace {

TEST(Unicode, WellFormedUtf8) {
  for (const char* good : {"", "plain", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
                           "\xee\x80\x80", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(is_utf8(good)) << good;
  }
  for (const char* bad : {"\x80", "\xc0\xaf", "\xc1\xbf", "\xc2", "\xc2\x41", "\xe0\x9f\xbf",
                          "\xed\xa0\x80", "\xe2\x82", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
                          "\xf5\x80\x80\x80", "\xff", "a\xf0\x90\x80"}) {
    EXPECT_FALSE(is_utf8(bad)) << bad;
  }
}

TEST(Unicode, EveryAssignedCharacterAsInPython) {
  const auto fixture =
      read_json_file(std::filesystem::path(CBQ_SOURCE_DIR) / "tests/fixtures/unicode.json");
  const std::string sigma = "\u03a3";
  std::string all;
  const auto add = [&all](std::string_view text) { (all += text) += '\n'; };
  for (const auto& range : fixture["assigned"]) {
    for (char32_t c = range[0]; c <= range[1].get<char32_t>(); ++c) {
      std::string text;
      append_character(c, &text);
      add(python_capitalize(text));
      add(python_capitalize("a" + text));
      add(python_lower(text));
      add(python_lower(sigma + text + "a"));
      add(python_lower("a" + sigma + text));
      add(python_lower("a" + text + sigma));
      add(python_lower(text + sigma));
      add(python_rstrip("x" + text));
      add(python_strip(text + "x" + text));
      add(is_python_space(c) ? "space" : "none");
    }
  }
  EXPECT_EQ(hex(hash_bytes(all)), fixture["hash"]);
}

TEST(Unicode, CapitalizeAndStrip) {
  EXPECT_EQ(python_capitalize("élan ÉTÉ Ärger"), "Élan été ärger");
  EXPECT_EQ(python_capitalize("ßA"), "Ssa");
  EXPECT_EQ(python_capitalize("\ufb03X"), "Ffix");
  EXPECT_EQ(python_capitalize("ΑΣ ΣΑΣ'"), "Ας σας'");
  EXPECT_EQ(python_lower("İ"), "i\u0307");
  EXPECT_EQ(python_strip("\u3000\x1c a \u00a0\u2028"), "a");
  EXPECT_EQ(python_rstrip("\u200b\u180e "), "\u200b\u180e") << "no white space";
  EXPECT_TRUE(is_python_blank("\u2003\x1f\n"));
  EXPECT_EQ(python_capitalize(""), "");
}

TEST(Unicode, UniversalNewlines) {
  EXPECT_EQ(universal_newlines("a\r\nb\rc\n\r\r\n\r"), "a\nb\nc\n\n\n\n");
  EXPECT_EQ(universal_newlines(""), "");
}

}  // namespace
}  // namespace cbq::test_unicode
