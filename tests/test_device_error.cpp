// What an error of the device says. The table's left column are CUDA's numbers, which a build with
// CUDA compares with its headers (tensor/runtime/device.cpp).
#include <gtest/gtest.h>

#include "tensor/runtime/device_error.h"
#include "tensor/runtime/notice.h"

namespace cbq::test_device_error {
namespace {

/// What a command says about itself; taken back at the end of a test.
struct Advice {
  Advice() { set_command_advice({"a smaller --spoon needs less", "--again goes on"}); }
  ~Advice() { set_command_advice({}); }
};

TEST(DeviceError, EveryKnownErrorNamesItsRemedy) {
  const Advice advice_of_a_command;
  struct Row {
    int code;
    const char* says;
    bool lost;
  };
  for (const Row& row :
       {Row{2, "--spoon", false}, Row{35, "update the driver", false}, Row{46, "nvidia-smi", false},
        Row{100, "--device cpu", false}, Row{209, "CMAKE_CUDA_ARCHITECTURES", false},
        Row{222, "CMAKE_CUDA_ARCHITECTURES", false}, Row{803, "restart", false},
        Row{214, "--again", true}, Row{226, "--again", true}, Row{721, "--again", true},
        Row{700, "--again", true}, Row{719, "--again", true}, Row{900, "CBQ_GRAPH=0", false},
        Row{906, "CBQ_GRAPH=0", false}}) {
    const std::string advice = advice_on_cuda_error(row.code);
    EXPECT_NE(advice.find(row.says), std::string::npos) << row.code << ": " << advice;
    EXPECT_EQ(device_is_lost(row.code), row.lost) << row.code;
  }
  EXPECT_EQ(advice_on_cuda_error(0), "");
  EXPECT_EQ(advice_on_cuda_error(1), "") << "an invalid value: CUDA's text is all there is";
}

// What a product on a lost device throws; the library's own status seldom says so.
TEST(DeviceError, AFailedProductNamesItsRemedy) {
  const Advice advice_of_a_command;
  struct Row {
    int status, device;
    const char* says;
  };
  for (const Row& row :
       {Row{13, 700, "is lost to this process"}, Row{13, 700, "--again"}, Row{13, 0, "--again"},
        Row{14, 0, "may be lost"}, Row{11, 0, "CBQ_SYNC=1"}, Row{3, 0, "--spoon"},
        Row{7, 719, "--again"}, Row{8, 0, "CMAKE_CUDA_ARCHITECTURES"}, Row{7, 906, "CBQ_GRAPH"}}) {
    const std::string advice = advice_on_cublas_error(row.status, row.device);
    EXPECT_NE(advice.find(row.says), std::string::npos)
        << row.status << ", " << row.device << ": " << advice;
  }
  EXPECT_EQ(advice_on_cublas_error(7, 0), "") << "an invalid value: a mistake of the caller";
}

TEST(DeviceError, AMissingDeviceHasItsReason) {
  EXPECT_EQ(describe_missing_device(0, 13000, 35, "x"), "no NVIDIA driver is installed");
  EXPECT_EQ(describe_missing_device(12040, 13000, 35, "x"),
            "the driver supports CUDA 12.4, this binary needs 13.0 (update the driver)");
  EXPECT_EQ(describe_missing_device(13000, 13020, 0, "no error"),
            "no device is visible (see CUDA_VISIBLE_DEVICES)");
  EXPECT_EQ(describe_missing_device(13000, 13000, 999, "unknown error"), "unknown error");
  EXPECT_NE(
      describe_missing_device(13000, 13000, 803, "mismatch").find("mismatch; driver and CUDA"),
      std::string::npos);
}

TEST(DeviceError, TooLittleMemorySaysHowMuchAndWhatNeedsLess) {
  const MemoryShortage shortage{3'500'000'000, 20'000'000'000, 1'250'000'000, 700'000'000,
                                24'000'000'000};
  std::string text;
  {
    const Advice advice_of_a_command;
    text = describe(shortage, Device::cuda(1));
  }
  for (const char* part : {"cuda:1", "3.50 GB", "20.00 GB in use", "1.25 GB cached",
                           "0.70 GB of 24.00 GB are free", "--spoon", "--again"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
  const std::string host = describe({1, 0, 0, 0, 0}, Device::cpu());
  EXPECT_EQ(host.find("--"), std::string::npos) << "options of no command: " << host;
  EXPECT_EQ(host.find("are free"), std::string::npos) << "unknown: not said";
}

TEST(DeviceError, ANoticeIsSaidOnce) {
  testing::internal::CaptureStderr();
  notice_once("a thing of this test");
  notice_once("a thing of this test");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "cbq: a thing of this test\n");
}

TEST(DeviceError, ANoticeIsSafeToPrint) {
  testing::internal::CaptureStderr();
  notice_once("a key of a file: \x1b[2J\u009b2J");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "cbq: a key of a file: \\x1b[2J\\xc2\\x9b2J\n");
}

}  // namespace
}  // namespace cbq::test_device_error
