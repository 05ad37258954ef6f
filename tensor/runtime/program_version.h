// Which program this is. The text stands in everything that one run leaves for another one (states
// of interrupted runs, finished folders, caches, cells of tables): another program may compute
// other last bits, so what it finds there is not its own.
#pragma once

#include <string>

namespace cbq {

/// "0.1.0+3f9c21a07b5e": the project's version, and a digest of what the program was built from
/// (the sources of all layers and of the command line, the compiler, its flags and its target). Two
/// builds with the same text give the same bytes on the same processor with the same libraries, as
/// far as the compiler does. Made when the program is built (cmake/ProgramVersion.cmake).
std::string program_version();

/// How the program was built, a line for each of: compiler and flags, processor, CUDA, sanitizers.
/// No line ends the text.
std::string build_facts();

}  // namespace cbq
