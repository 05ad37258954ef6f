// Settings: one description, and everything that visits it.
#include <nlohmann/json.hpp>
#include <set>

#include "cbq/methods.h"
#include "cbq/settings.h"
#include "tests/test_data.h"

namespace cbq::test_settings {
namespace {

using nlohmann::json;

Settings with(const json& changes) {
  Settings s;
  apply_json(s, changes);
  return s;
}

void expect_refused(const json& changes, std::initializer_list<const char*> parts) {
  SCOPED_TRACE(changes.dump());
  expect_error<std::invalid_argument>([&] { validate(with(changes), 5); }, parts);
}

TEST(Settings, EveryMemberHasOneNameAndAHelpLine) {
  Settings s;
  std::set<std::string> names;
  visit_settings(s, [&](const std::string& name, auto&, const std::string& help) {
    EXPECT_TRUE(names.insert(name).second) << name << " twice";
    EXPECT_GE(help.size(), 10u) << name;
  });
  EXPECT_EQ(names.size(), to_json(s).size());
}

TEST(Settings, JsonRoundTripIsExact) {
  const Settings s = with({{"wbits", 2},
                           {"rate_scale", 0.1 + 0.2},
                           {"schedule", "0,0-4"},
                           {"homologous", true},
                           {"seed", 18446744073709551615ull}});
  Settings back;
  apply_json(back, json::parse(to_json(s).dump()));
  EXPECT_EQ(to_json(back), to_json(s));
  EXPECT_EQ(hash_of(back), hash_of(s));
  EXPECT_EQ(back.seed, 18446744073709551615ull);
}

TEST(Settings, JsonErrorsNameTheSetting) {
  const auto refused = [](const json& changes, std::initializer_list<const char*> parts) {
    expect_error<std::invalid_argument>([&] { with(changes); }, parts);
  };
  refused({{"wbit", 2}}, {"wbit", "known", "wbits"});
  refused({{"wbits", 2.5}}, {"wbits", "integer", "2.5"});
  refused({{"wbits", 5000000000}}, {"wbits", "range"});
  refused({{"epochs", 18446744073709551615ull}}, {"epochs", "range"});
  refused({{"seed", -1}}, {"seed"});
  refused({{"symmetric", 1}}, {"symmetric", "true or false"});
  refused({{"rounding", 3}}, {"rounding", "text"});
  refused({{"l2_weight", "x"}}, {"l2_weight", "number"});
  refused(json::array(), {"object"});
}

TEST(Settings, EveryMemberButTheMethodNameEntersTheHash) {
  const std::string base = hash_of(Settings{});
  EXPECT_EQ(base.size(), 32u);
  Settings changed;
  visit_settings(changed, [&](const std::string& name, auto& member, const std::string&) {
    const auto before = member;
    if constexpr (std::is_same_v<std::decay_t<decltype(member)>, std::string>) {
      member += "x";
    } else if constexpr (std::is_same_v<std::decay_t<decltype(member)>, bool>) {
      member = !member;
    } else {
      member += 1;
    }
    EXPECT_EQ(hash_of(changed) == base, name == "method") << name;
    member = before;
  });
}

// The rate stands beside the scheme (RoundingScheme::default_rate).
TEST(Settings, EverySchemeHasARateOfItsOwnUnlessOneIsGiven) {
  Settings s = method_settings("cbq_windows", 2, 16);
  for (const std::string& name : rounding_schemes().names()) {
    s.rounding = name;
    for (const int abits : {4, 16}) {
      s.abits = abits;
      EXPECT_EQ(s.rounding_rate(), rounding_schemes().make(name)->default_rate(abits)) << name;
      EXPECT_GT(s.rounding_rate(), 0.0) << name;
    }
  }
  const auto rate = [](const char* scheme, int abits) {
    Settings asked = method_settings("cbq_windows", 2, abits);
    asked.rounding = scheme;
    return asked.rounding_rate();
  };
  EXPECT_EQ(rate("adaround", 16), 0.05);
  EXPECT_EQ(rate("lora_rounding", 16), 0.1);
  EXPECT_EQ(rate("signround", 16), 0.01);
  EXPECT_EQ(rate("direct", 16), 0.02);
  EXPECT_EQ(rate("signround", 4), 0.02);
  EXPECT_EQ(rate("test_centred", 4), 0.01) << "that of a scheme that states none";
  s.rounding = "stochastic";
  expect_error<std::invalid_argument>([&] { s.rounding_rate(); }, {"stochastic", "signround"});
  s.rate_rounding = 0.25;
  EXPECT_EQ(s.rounding_rate(), 0.25);
  EXPECT_EQ(method_settings("cbq_iclr", 2, 16).rounding_rate(), 1e-4);
}

TEST(Settings, OneWordIsEnoughForGroups) {
  for (const json& words : {json{{"group_size", 128}}, json{{"granularity", "g128"}},
                            json{{"granularity", "per_group"}, {"group_size", 128}},
                            json{{"granularity", "per-group"}, {"group_size", 128}},
                            json{{"granularity", "g128"}, {"group_size", 128}}}) {
    const Settings s = with(words);
    EXPECT_EQ(s.granularity, "per_group") << words;
    EXPECT_EQ(s.group_size, 128) << words;
    validate(s, 5);
  }
  EXPECT_EQ(with({{"granularity", "per-tensor"}}).granularity, "per_tensor");
  // What is said last counts, in one word as well.
  Settings s = with({{"granularity", "g128"}});
  apply_json(s, {{"granularity", "per_channel"}});
  EXPECT_EQ(s.granularity, "per_channel");
  EXPECT_EQ(s.group_size, 0);
  apply_json(s, {{"group_size", 64}});
  EXPECT_EQ(s.granularity, "per_group");
  EXPECT_EQ(hash_of(s), hash_of(with({{"granularity", "g64"}})));
  // Said in full, nothing is added.
  apply_json(s, to_json(Settings{}));
  EXPECT_EQ(hash_of(s), hash_of(Settings{}));
  expect_refused({{"granularity", "g64"}, {"group_size", 128}}, {"g64", "128", "contradict"});
  expect_refused({{"granularity", "g64x"}}, {"'g64x'", "g64"});
}

TEST(Settings, GranularityOfActivationsDecidesTheirRanges) {
  const Settings whole = with({{"abits", 8}, {"act_granularity", "per_tensor"}});
  EXPECT_FALSE(whole.act_dynamic);
  validate(whole, 5);
  Settings s = whole;
  apply_json(s, {{"act_granularity", "per_token"}});
  EXPECT_TRUE(s.act_dynamic);
  // A range of all tokens at hand differs between batches: training, the evaluation that keeps the
  // best parameters, and perplexity would each have their own.
  expect_refused({{"abits", 8}, {"act_granularity", "per_tensor"}, {"act_dynamic", true}},
                 {"act_dynamic", "per_token", "batch"});
}

TEST(Settings, ImpossibleSettingsNameOptionAndRemedy) {
  validate(Settings{}, 5);
  expect_refused({{"overlap", 2}}, {"overlap", "smaller than the window"});
  expect_refused({{"window", 0}}, {"window"});
  expect_refused({{"schedule", "0-1,3-4"}}, {"schedule", "block 2"});
  expect_refused({{"wbits", 0}}, {"wbits", "1 to 8"});
  expect_refused({{"wbits", 9}}, {"wbits"});
  expect_refused({{"abits", 12}}, {"abits"});
  expect_refused({{"wbits", 1}, {"symmetric", true}, {"symmetric_form", "restricted"}},
                 {"symmetric_form", "1 bit", "full_range"});
  expect_refused(
      {{"layer_bits", "q_proj=1"}, {"symmetric", true}, {"symmetric_form", "restricted"}},
      {"1 bit"});
  expect_refused({{"layer_bits", "q_proj"}}, {"layer_bits", "pattern=bits"});
  expect_refused({{"layer_bits", "q_proj=12"}}, {"layer_bits", "12"});
  expect_refused({{"layer_bits", "=4"}}, {"layer_bits"});
  expect_refused({{"epochs", -1}}, {"epochs"});
  expect_refused({{"batch", 0}}, {"batch"});
  expect_refused({{"rounding", "stochastic"}}, {"rounding", "stochastic", "nearest", "signround"});
  expect_refused({{"granularity", "per_row"}}, {"granularity", "per_channel"});
  expect_refused({{"granularity", "per_group"}}, {"group_size"});
  expect_refused({{"granularity", "per_channel"}, {"group_size", 64}}, {"group_size", "per_group"});
  expect_refused({{"act_dynamic", false}}, {"act_dynamic", "per_tensor"});
  expect_refused({{"quantize_attention", true}}, {"quantize_attention", "abits"});
  expect_refused({{"hard_phase", 1.5}}, {"hard_phase", "fraction"});
  expect_refused({{"l2", "huber"}}, {"l2", "norm"});
  expect_refused({{"l2_weight", 0}, {"kl_weight", 0}}, {"l2_weight", "kl_weight"});
  expect_refused({{"rate_scale", -1e-3}}, {"rate_scale"});
  expect_refused({{"rounding_blocks", "overlap"}, {"overlap", 0}}, {"rounding_blocks", "overlap"});
  expect_refused({{"preprocess", "smoothqant"}}, {"preprocess", "smoothqant", "smoothquant"});
  expect_refused({{"profile", "tuned"}}, {"'profile'", "'method'", "'cbq_windows'"});
  expect_refused({{"profile", "mine"}}, {"'profile'", "'method'"});
}

TEST(Settings, BitsOfALayer) {
  const Settings s = with({{"wbits", 2},
                           {"fc2_first_last_bits", 4},
                           {"layer_bits", "*.1.self_attn.?_proj=3,o_proj=8,layers.0.mlp.down=6"}});
  const auto bits = [&](const char* layer, bool fc2) { return s.weight_config(layer, fc2).bits; };
  EXPECT_EQ(bits("model.layers.3.mlp.up_proj", false), 2);
  EXPECT_EQ(bits("model.layers.4.mlp.down_proj", true), 4);       // CBQ*
  EXPECT_EQ(bits("model.layers.0.mlp.down_proj", true), 6);       // named: stronger
  EXPECT_EQ(bits("model.layers.1.self_attn.o_proj", false), 3);   // first match
  EXPECT_EQ(bits("model.layers.2.self_attn.o_proj", false), 8);   // substring
  EXPECT_EQ(bits("model.layers.11.self_attn.q_proj", false), 2);  // '.1.' is not '.11.'
}

}  // namespace
}  // namespace cbq::test_settings
