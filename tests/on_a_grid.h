// Whether this program runs functors of kernels/launch/launch.h as emulated grids
// (tests/simt/simt.h).
#pragma once

namespace cbq::test {

bool on_a_grid();

}  // namespace cbq::test
