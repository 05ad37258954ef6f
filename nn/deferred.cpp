#include "nn/deferred.h"

namespace cbq {

Var Deferred::value() const {
  struct Call {
    const Deferred& y;
    Var operator()(std::monostate) const { return y.x; }
    Var operator()(OfOne f) const { return f(y.x); }
    Var operator()(OfTwo f) const { return f(y.x, y.second); }
    Var operator()(Norm f) const { return f(y.x, y.second, y.eps); }
    Var operator()(AffineNorm f) const { return f(y.x, y.second, y.third, y.eps); }
  };
  return std::visit(Call{*this}, function);
}

}  // namespace cbq
