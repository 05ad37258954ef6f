// What every program of this project does first and last.
#pragma once

namespace cbq {

/// To be called first in main.
///
/// Makes OpenMP's threads wait briefly (tensor/runtime/threads.h), and ignores two signals whose
/// default is to kill the process without a message and without destructors: SIGXFSZ (a file
/// reaches `ulimit -f`) and SIGPIPE (the reader of a pipe is gone). The write then fails with EFBIG
/// or EPIPE, an error like a full disk, which is reported and leaves nothing half-made behind.
void start_program(char** argv);

/// To be called last, when the work is done and has been reported on std::cout; gives the exit
/// code. 0: all was written. 141 (128 + SIGPIPE, what a shell reports for a program that the signal
/// killed), without a message: standard output is a pipe whose reader is gone, as `| head -1` is
/// after its line. Throws std::runtime_error when standard output cannot be written otherwise.
int finish_output();

}  // namespace cbq
