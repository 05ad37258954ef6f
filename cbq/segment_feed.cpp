#include "cbq/segment_feed.h"

namespace cbq {

SegmentFeed::SegmentFeed(const WindowData& data, int64_t batch, Device device, bool staged)
    : staged_(staged), queue_(device) {
  streams_.push_back(data.inputs);
  streams_.insert(streams_.end(), data.targets.begin(), data.targets.end());
  const Shape shape = {batch, data.inputs.size(1), data.inputs.size(2)};
  for (const Tensor& stream : streams_) {
    check_shape("SegmentFeed", "a stream", stream, data.inputs.shape());
    buffers_.emplace_back(shape, stream.dtype(), device);
    if (stream.device() != device) staged_ = true;
  }
  for (size_t i = 0; i < streams_.size() && staged_; ++i) {
    staging_.emplace_back(shape, streams_[i].dtype(), device);
  }
  // Whoever had this memory before is done with it only in the order of the current stream.
  queue_.wait_for_current();
}

void SegmentFeed::load(const std::vector<int64_t>& segments) {
  const auto count = static_cast<int64_t>(segments.size());
  check(count >= 1 && count <= buffers_.front().size(0), "SegmentFeed: ", count,
        " segments; made for 1 to ", buffers_.front().size(0));
  for (const int64_t s : segments) {
    check(s >= 0 && s < streams_.front().size(0), "SegmentFeed: segment ", s, " of ",
          streams_.front().size(0));
  }
  loaded_ = count;
  if (staged_) {
    if (on_the_way_ != segments) stage(segments);
    queue_.current_waits();
    for (size_t i = 0; i < buffers_.size(); ++i) {
      buffers_[i].slice(0, count).copy_from(staging_[i].slice(0, count));
    }
    queue_.wait_for_current();
    on_the_way_.clear();
    return;
  }
  for (size_t i = 0; i < buffers_.size(); ++i) {
    for (int64_t at = 0; at < count; ++at) {
      const int64_t s = segments[static_cast<size_t>(at)];
      buffers_[i].slice(at, at + 1).copy_from(streams_[i].slice(s, s + 1));
    }
  }
}

void SegmentFeed::announce(const std::vector<int64_t>& segments) {
  if (staged_ && !segments.empty() && segments != on_the_way_) stage(segments);
}

void SegmentFeed::stage(const std::vector<int64_t>& segments) {
  for (size_t i = 0; i < staging_.size(); ++i) {
    for (size_t at = 0; at < segments.size(); ++at) {
      const auto row = static_cast<int64_t>(at);
      queue_.copy(staging_[i].slice(row, row + 1),
                  streams_[i].slice(segments[at], segments[at] + 1));
    }
  }
  on_the_way_ = segments;
}

std::vector<Tensor> SegmentFeed::targets() const {
  std::vector<Tensor> targets;
  for (size_t i = 1; i < buffers_.size(); ++i) targets.push_back(view(i));
  return targets;
}

Tensor SegmentFeed::view(size_t stream) const {
  const Tensor& buffer = buffers_[stream];
  return buffer.slice(0, loaded_).reshape({loaded_ * buffer.size(1), buffer.size(2)});
}

}  // namespace cbq
