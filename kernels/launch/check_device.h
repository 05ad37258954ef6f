// All operands of an op lie on one device.
#pragma once

#include "tensor/tensor.h"

namespace cbq {

/// Throws std::invalid_argument, naming `op` and `what`, unless `t` lies on `device`. check_same()
/// (tensor/tensor.h) makes this check as well, for operands of equal shape and dtype.
inline void check_device(const char* op, const char* what, const Tensor& t, Device device) {
  if (t.device() == device) return;
  throw std::invalid_argument(message_of(op, ": devices differ: ", what, " is on ",
                                         name_of(t.device()), ", the other operands are on ",
                                         name_of(device)));
}

}  // namespace cbq
