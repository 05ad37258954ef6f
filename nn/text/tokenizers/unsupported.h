// What a tokenizer's file asks for and is not implemented.
#pragma once

#include <stdexcept>
#include <string>

#include "tensor/error.h"

namespace cbq {

/// Another file of the same tokenizer (sentencepiece's beside tokenizer.json) may still be
/// readable.
class UnsupportedTokenizer : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws UnsupportedTokenizer with the parts as its message.
template <class... Parts>
[[noreturn]] void refuse_tokenizer(const Parts&... parts) {
  throw UnsupportedTokenizer(concat(parts...));
}

}  // namespace cbq
