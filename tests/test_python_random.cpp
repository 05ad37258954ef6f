// Vectors printed by CPython 3.11: random.Random(seed).getrandbits(n), .randint(0, high).
#include "nn/text/python_random.h"
#include "tests/test_data.h"

namespace cbq::test_python_random {
namespace {

TEST(PythonRandom, SeedsAsPython) {
  struct Case {
    uint64_t seed;
    uint32_t numbers[3];
  };
  const Case cases[] = {
      {0ull, {3626764237u, 1654615998u, 3255389356u}},
      {1ull, {577090037u, 2444712010u, 3639700191u}},
      {2ull, {4106135923u, 3707026329u, 4070888059u}},
      {42ull, {2746317213u, 478163327u, 107420369u}},
      {2147483648ull, {1455117090u, 1620553392u, 2169224728u}},
      {4294967295ull, {2728839433u, 2661025012u, 872737089u}},
      {4294967296ull, {485306839u, 1508871100u, 1794561286u}},
      {1099511627783ull, {2635837658u, 3209733218u, 3500038837u}},
      {18446744073709551615ull, {93740670u, 1068495656u, 1452108352u}},
  };
  for (const Case& c : cases) {
    PythonRandom random(c.seed);
    for (const uint32_t number : c.numbers) EXPECT_EQ(random.getrandbits(32), number) << c.seed;
  }
}

TEST(PythonRandom, BitsAsPython) {
  PythonRandom random(3);
  EXPECT_EQ(random.getrandbits(1), 0u);
  EXPECT_EQ(random.getrandbits(5), 18u);
  EXPECT_EQ(random.getrandbits(32), 2337446730u);
  EXPECT_EQ(random.getrandbits(33), 560161641u);
  EXPECT_EQ(random.getrandbits(48), 169990149594101u);
  EXPECT_EQ(random.getrandbits(64), 11542502259579130526u);
}

TEST(PythonRandom, RangesAsPython) {
  // One generator for all, so that each range must also use up as many numbers as Python does.
  struct Case {
    int64_t high;
    int64_t numbers[3];
  };
  const Case cases[] = {
      {0, {0, 0, 0}},
      {1, {1, 1, 1}},
      {2, {1, 1, 1}},
      {7, {3, 2, 4}},
      {8, {2, 1, 4}},
      {9, {8, 9, 2}},
      {99, {39, 12, 93}},
      {356316, {38662, 173118, 247538}},
      {2147483647, {432508404, 1519522183, 1864753826}},
      {4294967295, {2373071108, 2239196826, 3934166345}},
      {4294967296, {3608164305, 2685496293, 2628077981}},
      {9007199254740992, {4393907593435170, 5858360003103098, 3441956996758732}},
      {4611686018427387904, {2200843476529157678, 4131790023194403777, 741981679817190851}},
  };
  PythonRandom random(0);
  for (const Case& c : cases) {
    for (const int64_t number : c.numbers) EXPECT_EQ(random.randint(0, c.high), number) << c.high;
  }
  PythonRandom many(0);
  int64_t last = 0;
  for (int i = 0; i < 100000; ++i) last = many.randint(0, 356316);
  EXPECT_EQ(last, 329449);
  PythonRandom shifted(0), plain(0);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(shifted.randint(-5, 5), plain.randint(0, 10) - 5);
}

TEST(PythonRandom, EmptyRangesAreErrors) {
  PythonRandom random(0);
  expect_error<std::invalid_argument>([&] { random.randint(3, 2); }, {"[3, 2]", "empty"});
  expect_error<std::invalid_argument>([&] { random.getrandbits(65); }, {"asked for 65"});
  expect_error<std::invalid_argument>([&] { random.getrandbits(0); }, {"asked for 0"});
}

}  // namespace
}  // namespace cbq::test_python_random
