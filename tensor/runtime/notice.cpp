#include "tensor/runtime/notice.h"

#include <cstdio>
#include <mutex>
#include <set>

#include "tensor/error.h"

namespace cbq {
namespace {

struct Notices {
  std::mutex mutex;
  std::set<std::string> printed;
  NoticeRecorder* recorder = nullptr;
};

// Never destroyed: a notice may come while the program ends.
Notices& notices() {
  static auto* all = new Notices;
  return *all;
}

}  // namespace

void notice_once(const std::string& text) {
  const std::string line = message_of(text);  // it may quote a file, which may hold anything
  Notices& all = notices();
  const std::lock_guard lock(all.mutex);
  if (all.recorder != nullptr) {
    all.recorder->lines_.push_back(line);
  } else if (all.printed.insert(line).second) {
    std::fprintf(stderr, "cbq: %s\n", line.c_str());
  }
}

NoticeRecorder::NoticeRecorder() {
  Notices& all = notices();
  const std::lock_guard lock(all.mutex);
  outer_ = all.recorder;
  all.recorder = this;
}

NoticeRecorder::~NoticeRecorder() {
  Notices& all = notices();
  const std::lock_guard lock(all.mutex);
  all.recorder = outer_;
}

std::vector<std::string> NoticeRecorder::lines() const {
  const std::lock_guard lock(notices().mutex);
  return lines_;
}

}  // namespace cbq
