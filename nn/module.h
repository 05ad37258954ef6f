// Module: a part of a model that can show its parameters by checkpoint path.
//
// Loading, freezing, moving to a device, optimizing and reporting are all one visit.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "autograd/var.h"

namespace cbq {

using ParameterVisitor = std::function<void(const std::string& path, Var& parameter)>;

class Module {
 public:
  virtual ~Module() = default;
  /// Calls `visitor` for every parameter, in a fixed order; `prefix` ends in '.' or is empty.
  virtual void visit(const std::string& prefix, const ParameterVisitor& visitor) = 0;
};

/// All parameters with their paths.
std::vector<std::pair<std::string, Var>> parameters_of(Module& module,
                                                       const std::string& prefix = "");

}  // namespace cbq
