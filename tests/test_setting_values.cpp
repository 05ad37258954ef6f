// The values of settings: one list each, which validation and help agree with.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "cbq/setting_values.h"
#include "cbq/settings.h"

namespace cbq::test_setting_values {
namespace {

const Settings defaults;

std::vector<std::string> listed_settings() {
  std::vector<std::string> names;
  visit_settings(defaults, [&](const char* name, const auto&, const char*) {
    if (!values_of(name).empty()) names.push_back(name);
  });
  return names;
}

TEST(SettingValues, BelongToSettingsThatExist) {
  EXPECT_GE(listed_settings().size(), 14u);
  EXPECT_TRUE(values_of("epochs").empty());
  EXPECT_TRUE(values_of("no such setting").empty());
}

TEST(SettingValues, HelpNamesEachOfThem) {
  visit_settings(defaults, [&](const std::string& name, const auto&, const std::string& help) {
    if (name == "rounding" || name == "grid") return;  // a registry: a new file adds a value
    for (const std::string& value : values_of(name)) {
      EXPECT_NE(help.find(value), std::string::npos) << name << ": " << value;
    }
  });
}

TEST(SettingValues, DefaultsAreAmongThem) {
  visit_settings(defaults, [&](const char* name, const auto& value, const char*) {
    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string>) {
      const std::vector<std::string> known = values_of(name);
      EXPECT_TRUE(known.empty() || std::count(known.begin(), known.end(), value) == 1) << name;
    }
  });
}

TEST(SettingValues, AnyOtherIsRefusedWithTheList) {
  for (const std::string& name : listed_settings()) {
    if (name == "granularity") continue;  // takes g64, too: apply_json refuses what is neither
    Settings settings;
    apply_json(settings, {{name, "nonsense"}});
    std::string message;
    try {
      validate_values(settings);
    } catch (const std::invalid_argument& error) {
      message = error.what();
    }
    EXPECT_EQ(message.find(name + ": unknown 'nonsense'"), 0u) << message;
    for (const std::string& value : values_of(name)) {
      EXPECT_NE(message.find(value), std::string::npos) << message;
    }
  }
}

}  // namespace
}  // namespace cbq::test_setting_values
