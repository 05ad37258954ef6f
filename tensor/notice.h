// Notices: lines on stderr about what is done differently than asked for, or than a file says, and
// works all the same. What cannot work is an error instead (tensor/error.h).
#pragma once

#include <string>
#include <vector>

namespace cbq {

/// Prints "cbq: <line>" on stderr. The same line is printed only once per process. A line about
/// something that the user should look at begins with "warning: ".
void notice_once(const std::string& line);

/// Collects the notices of all threads while it lives, repeated ones too; none is printed. For
/// tests. Of several recorders only the newest collects.
class NoticeRecorder {
 public:
  NoticeRecorder();
  ~NoticeRecorder();
  NoticeRecorder(const NoticeRecorder&) = delete;
  NoticeRecorder& operator=(const NoticeRecorder&) = delete;

  std::vector<std::string> lines() const;

 private:
  friend void notice_once(const std::string& line);
  std::vector<std::string> lines_;
  NoticeRecorder* outer_ = nullptr;
};

}  // namespace cbq
