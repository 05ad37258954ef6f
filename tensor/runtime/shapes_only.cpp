#include "tensor/runtime/shapes_only.h"

namespace cbq {
namespace {
constinit thread_local bool is_active = false;
}

ShapesOnly::ShapesOnly() : outer_(is_active) { is_active = true; }
ShapesOnly::~ShapesOnly() { is_active = outer_; }
bool ShapesOnly::active() { return is_active; }

}  // namespace cbq
