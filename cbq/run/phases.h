// The phases of a run behind its preparation, in the order in which a window goes through them.
#pragma once

#include <functional>

#include "cbq/run/preparation.h"

namespace cbq {

/// Model and stream as an earlier run left them in the folder; the number of the next window. 0
/// where there is no earlier run.
int64_t resume(RunContext& run, Preparation& preparation);

/// Quantizers for those layers of the window that have none yet.
void attach(RunContext& run, const Window& window, const Preparation& preparation);

/// The original streams in front of those blocks of the window that will be solved, where the
/// solver wants them; to be asked for before the window is attached.
OriginalStreams original_streams(const RunContext& run, const Window& window);

/// Solutions for those layers of the window that have none yet. `begins` is told which block comes
/// next, and may be empty.
void solve(RunContext& run, const Window& window, const OriginalStreams& original,
           const std::function<void(int64_t block)>& begins);

/// Learns what the window's quantizers offer: data are the quantized stream and the targets.
WindowReport reconstruct(RunContext& run, int64_t number, WindowData data);

/// Freezes the weights of the blocks that are finished with this window to integer codes, and
/// writes the codes to the folder of a run that can be resumed.
void freeze(RunContext& run, const ScheduledWindow& scheduled);

/// Moves the quantized stream past those blocks. They leave the run: to RunHooks::keep_block, and
/// out of memory where they can be had back (after polishing, where the model is polished).
void advance(RunContext& run, const ScheduledWindow& scheduled);

/// What a later run needs to go on from here.
void save(const RunContext& run);

/// Tells the caller of a finished window.
void tell(RunContext& run, const WindowReport& report);

/// The last stage, where settings ask for it: scales and clip ratios of the whole model
/// (cbq/polish.h). All blocks then leave the run.
void polish_model(RunContext& run);

}  // namespace cbq
