// The values of settings: one list each, which validation and help agree with.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <type_traits>

#include "cbq/setting_choices.h"
#include "cbq/setting_values.h"
#include "cbq/settings.h"
#include "tests/test_data.h"

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

/// Each name is another value; an unknown one is refused with all of them.
template <class FromName>
void expect_distinct(const std::vector<std::string>& names, FromName from_name) {
  std::set<int> values;
  for (const std::string& name : names) values.insert(static_cast<int>(from_name(name)));
  EXPECT_EQ(values.size(), names.size()) << names.front();
  expect_error<std::invalid_argument>([&] { from_name("nonsense"); },
                                      {"nonsense", names.front().c_str(), names.back().c_str()});
}

TEST(SettingValues, ChoicesHaveTypes) {
  expect_distinct(values_of("reconstruct"), reconstruction_from_name);
  expect_distinct(values_of("l2"), squared_error_form_from_name);
  expect_distinct(values_of("regularizer_reduction"), regularizer_reduction_from_name);
  expect_distinct(values_of("rounding_blocks"), rounding_blocks_from_name);
  expect_distinct(values_of("keep"), kept_parameters_from_name);
  for (const std::string& name : values_of("reconstruct")) {
    EXPECT_EQ(name_of(reconstruction_from_name(name)), name);
    Settings settings;
    settings.reconstruct = name;
    EXPECT_EQ(settings.reconstructs(), name == "cbq");
  }
}

}  // namespace
}  // namespace cbq::test_setting_values
