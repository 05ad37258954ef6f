// Worker threads of this process.
#pragma once

namespace cbq {

/// Makes OpenMP's threads look for work for some 20 microseconds before they sleep. A step of a
/// small model has a hundred short parallel regions. Threads that sleep at once are woken too late
/// for most of them; threads that look on for milliseconds, libgomp's default, take the cores that
/// others need (figures: docs/performance.md, "Waiting threads"). libgomp reads its variables when
/// it is loaded, so the program starts itself once more; to be called first in main. Does nothing
/// where OMP_WAIT_POLICY or GOMP_SPINCOUNT is set already.
void wait_briefly(char** argv);

}  // namespace cbq
