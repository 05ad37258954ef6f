// Messages of check(): what is written, and that nothing is made while the condition holds.
#include <gtest/gtest.h>

#include <filesystem>

#include "kernels/ops.h"
#include "quant/config.h"
#include "tensor/error.h"
#include "tensor/tensor.h"
#include "tests/test_data.h"

namespace cbq::test_error {
namespace {

/// Counts how often it is written.
struct Counted {
  int* written;
};
std::ostream& operator<<(std::ostream& out, const Counted& part) {
  ++*part.written;
  return out << "part";
}

TEST(Check, WritesPartsOnlyWhenItFails) {
  int written = 0, called = 0;
  const Counted part{&written};
  const auto costly = [&] {
    ++called;
    return std::string("costly");
  };
  check(true, "a ", part, " and a ", costly);
  EXPECT_EQ(written, 0);
  EXPECT_EQ(called, 0);
  expect_error<std::invalid_argument>([&] { check(false, "a ", part, " and a ", costly); },
                                      {"a part and a costly"});
  EXPECT_GE(written, 1);
  EXPECT_GE(called, 1);
}

TEST(Check, TakesWhatItSpeaksOfUnconverted) {
  const Tensor t = Tensor::zeros({2, 3}, Dtype::bf16);
  const std::filesystem::path path = "a folder/file";
  EXPECT_EQ(concat(t.dtype(), t.shape(), " on ", t.device(), ' ', Device::cuda(1), " in ", path,
                   ", ", Granularity::per_token, ' ', 1.5, ' ', Shape{}),
            "bf16[2, 3] on cpu cuda:1 in a folder/file, per_token 1.5 []");
}

TEST(Message, IsSafeToPrintWhateverItQuotes) {
  EXPECT_EQ(message_of("a: caf\u00e9 \u20ac \U0001d11e, line\n\tnext"),
            "a: caf\u00e9 \u20ac \U0001d11e, line\n\tnext");
  EXPECT_EQ(message_of("esc \x1b[31m nul ", std::string(1, '\0'), " del \x7f"),
            "esc \\x1b[31m nul \\x00 del \\x7f");
  // U+0080 to U+009F are control characters, too; U+00A0 is none.
  EXPECT_EQ(message_of("csi \u009b31m \u0080 \u00a0"), "csi \\xc2\\x9b31m \\xc2\\x80 \u00a0");
  // Overlong, a surrogate, beyond U+10FFFF, cut off, a continuation alone.
  EXPECT_EQ(message_of("\xc0\xaf|\xed\xa0\x80|\xf4\x90\x80\x80|\xe2\x82|\x80"),
            "\\xc0\\xaf|\\xed\\xa0\\x80|\\xf4\\x90\\x80\\x80|\\xe2\\x82|\\x80");
}

TEST(Message, KeepsBothEndsOfALongOne) {
  const std::string text = "file.json: " + std::string(100000, 'x') + " (the end)";
  const std::string message = message_of(text);
  EXPECT_LT(message.size(), 3000u);
  EXPECT_TRUE(message.starts_with("file.json: xxx"));
  EXPECT_TRUE(message.ends_with("xxx (the end)"));
  EXPECT_NE(message.find("the middle is left out"), std::string::npos);
  // The cut is between characters: nothing has to be escaped.
  std::string wide;
  for (int i = 0; i < 3000; ++i) wide += "\u20ac";
  for (const char* shift : {"", "a", "ab"}) {
    EXPECT_EQ(message_of(shift, wide).find("\\x"), std::string::npos);
  }
}

TEST(Check, ShapesWrittenOutReadAsShapesOfTensors) {
  const Tensor t = Tensor::zeros({2, 3}, Dtype::f32);
  check_shape("op", "x", t, {2, 3});
  check_shape("op", "x", t, t.shape());
  const auto expected = {"op: x has shape [2, 3], expected [3, 2]"};
  expect_error<std::invalid_argument>([&] { check_shape("op", "x", t, {3, 2}); }, expected);
  expect_error<std::invalid_argument>([&] { check_shape("op", "x", t, Shape{3, 2}); }, expected);
  EXPECT_THROW(check_shape("op", "x", t, {2}), std::invalid_argument);
  EXPECT_THROW(check_shape("op", "x", t, {2, 3, 1}), std::invalid_argument);
}

}  // namespace
}  // namespace cbq::test_error
