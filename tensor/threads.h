// Worker threads of this process.
#pragma once

namespace cbq {

/// Makes OpenMP's threads sleep while they wait for work, where they would spin on cores that
/// others need. The models at hand have many small parallel regions: on two cores at load 4 to 8 a
/// reconstruction of 1.2 s with sleeping threads had not ended after 100 s with spinning ones; on
/// free cores spinning is somewhat faster. OpenMP reads OMP_WAIT_POLICY when it is loaded, so the
/// program starts itself once more; to be called first in main. Does nothing where the variable is
/// set already.
void sleep_while_waiting(char** argv);

}  // namespace cbq
