// The text of a growing sequence of tokens, piece by piece.
#pragma once

#include <string>
#include <vector>

#include "nn/text/tokenizer.h"

namespace cbq {

/// Tokens are not pieces of text: a space may depend on what stands before, and one character may
/// take several tokens. So all ids are decoded each time, and what was not given yet is returned
/// once its characters are complete.
class TextStream {
 public:
  /// `ids`: the tokens before the first new one, whose text is not returned.
  TextStream(const Tokenizer& tokenizer, std::vector<int32_t> ids);

  /// The text that this token completes; empty while a character is unfinished.
  std::string add(int32_t id);
  /// What is left at the end, unfinished characters included.
  std::string rest();

 private:
  std::string text_after(size_t begin) const;

  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  size_t given_;  // bytes
};

}  // namespace cbq
