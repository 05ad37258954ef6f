// A tokenizer without a file: one id per byte.
#pragma once

#include <string>
#include <vector>

#include "nn/text/tokenizer.h"

namespace cbq {

class ByteTokenizer : public Tokenizer {
 public:
  /// Byte b is the id b modulo (vocab_size - 1) + 1; 0 is BOS and, with `adds_bos`, the prefix. By
  /// default ids are the bytes, and there is no BOS.
  explicit ByteTokenizer(int32_t vocab_size = 256, bool adds_bos = false)
      : vocab_size_(vocab_size), adds_bos_(adds_bos) {}

  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    for (const char c : text) {
      const int32_t byte = static_cast<unsigned char>(c);
      ids.push_back(vocab_size_ == 256 ? byte : byte % (vocab_size_ - 1) + 1);
    }
    return ids;
  }
  std::string decode(const std::vector<int32_t>& ids) const override {
    return {ids.begin(), ids.end()};
  }
  int32_t vocab_size() const override { return vocab_size_; }
  int32_t bos_id() const override { return vocab_size_ == 256 ? -1 : 0; }
  int32_t eos_id() const override { return -1; }
  std::vector<int32_t> prefix() const override {
    return adds_bos_ ? std::vector<int32_t>{0} : std::vector<int32_t>{};
  }
  std::string hash() const override { return "bytes"; }

 private:
  int32_t vocab_size_;
  bool adds_bos_;
};

}  // namespace cbq
