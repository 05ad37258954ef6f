// Which method runs where a model or a machine cannot take the one that is asked for.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cbq/method_fit.h"
#include "cbq/methods.h"
#include "nn/config.h"
#include "tests/fixtures.h"

namespace cbq {
namespace {

SettingChanges changes(const nlohmann::json& given) {
  return {[given](Settings& s) { apply_json(s, given); },
          [given](const std::string& name) { return given.contains(name); }};
}

FindObstacle finds(const char* setting) {
  return [setting](const Settings& s) -> std::optional<SettingObstacle> {
    if (s.method != "cbq") return std::nullopt;
    return SettingObstacle{setting, "the moon is full"};
  };
}

TEST(MethodFit, TheMethodNamedRunsWhereNothingIsInItsWay) {
  const auto none = [](const Settings&) { return std::optional<SettingObstacle>(); };
  for (const FindObstacle& find : {FindObstacle(none), FindObstacle()}) {
    const FittedMethod fitted =
        fit_method(find_method("cbq"), 4, 4, changes({{"epochs", 7}}), find);
    Settings expected = method_settings("cbq", 4, 4);
    expected.epochs = 7;
    EXPECT_EQ(to_json(fitted.settings), to_json(expected));
    EXPECT_EQ(fitted.note, "");
  }
}

TEST(MethodFit, TheOtherMethodTakesItsPlaceWithTheSameChanges) {
  const FittedMethod fitted =
      fit_method(find_method("cbq"), 2, 16, changes({{"epochs", 7}}), finds("polish_epochs"));
  Settings expected = method_settings("cbq_windows", 2, 16);
  expected.epochs = 7;
  EXPECT_EQ(to_json(fitted.settings), to_json(expected));
  EXPECT_EQ(fitted.note, "method cbq_windows in place of cbq: the moon is full");
}

TEST(MethodFit, WhatAUserAsksForByNameIsNotGivenUp) {
  const FittedMethod fitted = fit_method(find_method("cbq"), 2, 16, changes({{"polish_epochs", 1}}),
                                         finds("polish_epochs"));
  EXPECT_EQ(fitted.settings.method, "cbq");
  EXPECT_EQ(fitted.settings.polish_epochs, 1);
  EXPECT_EQ(fitted.note, "");
}

TEST(MethodFit, AMethodWithoutAnotherStays) {
  const auto always = [](const Settings&) {
    return std::optional(SettingObstacle{"rotation", "the moon is full"});
  };
  const FittedMethod fitted =
      fit_method(find_method("quarot"), 4, 4, changes(nlohmann::json::object()), always);
  EXPECT_EQ(fitted.settings.method, "quarot");
}

// ---- obstacles ----------------------------------------------------------------------------------

constexpr int64_t plenty = int64_t{1} << 40;

ModelConfig config_of(const char* name) { return ModelConfig::load(test::fixture(name)); }

TEST(SettingObstacles, ARotationThatTheModelForbids) {
  const Settings settings = method_settings("cbq", 4, 4);
  EXPECT_FALSE(setting_obstacle(settings, config_of("llama"), {Dtype::f32, plenty}));
  const auto found = setting_obstacle(settings, config_of("bloom"), {Dtype::f32, plenty});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->setting, "rotation");
  EXPECT_NE(found->reason.find("embedding"), std::string::npos) << found->reason;
  EXPECT_FALSE(setting_obstacle(method_settings("cbq_windows", 4, 4), config_of("bloom"),
                                {Dtype::f32, plenty}));
}

TEST(SettingObstacles, NormsOfAModelInHalfPrecision) {
  const ModelConfig config = config_of("llama");
  const auto found = setting_obstacle(method_settings("cbq", 4, 4), config, {Dtype::bf16, plenty});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->setting, "rate_polish_norm");
  EXPECT_FALSE(setting_obstacle(method_settings("cbq", 4, 16), config, {Dtype::bf16, plenty}));
}

TEST(SettingObstacles, ALastStageThatDoesNotFit) {
  const ModelConfig config = config_of("llama");
  const Settings settings = method_settings("cbq", 2, 16);
  const int64_t needed = polish_bytes(config);
  const int64_t enough = (needed / 3 + 1) * 4;
  EXPECT_FALSE(setting_obstacle(settings, config, {Dtype::f32, enough}));
  EXPECT_FALSE(setting_obstacle(settings, config, {Dtype::f32, 0}));  // nobody knows
  const auto found = setting_obstacle(settings, config, {Dtype::f32, needed});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->setting, "polish_epochs");
}

}  // namespace
}  // namespace cbq
