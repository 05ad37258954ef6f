// ShapesOnly: tensors that have a shape and a dtype but no memory.
#pragma once

namespace cbq {

/// While it lives, tensors that this thread makes get no memory. They answer shape(), dtype() and
/// device(); access to their elements throws std::invalid_argument. So a model can be built from
/// sizes that nobody has checked yet, and be compared with the headers of a file.
class ShapesOnly {
 public:
  ShapesOnly();
  ~ShapesOnly();
  ShapesOnly(const ShapesOnly&) = delete;
  ShapesOnly& operator=(const ShapesOnly&) = delete;

  /// Whether one lives on this thread.
  static bool active();

 private:
  bool outer_;
};

}  // namespace cbq
