// Notices: lines on stderr. A notice says that the program did something other than the user or a
// file asked for, and that the program continues. Where it cannot continue, it throws an error
// instead (tensor/error.h).
#pragma once

#include <string>
#include <vector>

namespace cbq {

/// Prints "cbq: <line>" on stderr, safe to print as the text of an error is (message_of). The same
/// line is printed only once per process. A line about something that the user should look at
/// begins with "warning: ".
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
