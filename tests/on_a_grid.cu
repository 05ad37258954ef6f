#include "kernels/launch/launch.h"
#include "tests/on_a_grid.h"

namespace cbq::test {

bool on_a_grid() { return runs_on_grid(Device::cpu()); }

}  // namespace cbq::test
