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

/// From here on the first Ctrl-C (or SIGTERM) is only noted, so that a run can finish its step and
/// save its state; a second one of either kind ends the program at once. A signal that the program
/// was started to ignore (nohup) stays ignored.
void catch_interrupts();
/// Whether one has come.
bool interrupted();
/// 128 + the signal's number, as a shell expects.
int interrupted_exit_code();

}  // namespace cbq
