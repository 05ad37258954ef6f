# cbq_flags: the compile options of every translation unit.

set(host_flags
    -ffp-contract=off    # a fused multiply-add moves ties: integers would differ between CPU and GPU, and between CPUs
    -fno-math-errno      # sqrt and exp may be vectorized: nobody reads errno
    -fno-trapping-math)  # ... nor floating-point exceptions. Neither changes a result; -ffast-math would.
if(CBQ_NATIVE)
  list(APPEND host_flags -march=native)
else()
  list(APPEND host_flags -march=x86-64-v3)
endif()
set(warnings -Wall -Wextra -Wshadow=local
    -Wno-missing-field-initializers)  # {.bits = 2}: the other fields keep their defaults, on purpose
if(CBQ_WERROR)
  # g++ 12 sees overlapping copies inside its own std::string (its bug 105651): shown, but not an error.
  list(APPEND warnings -Werror -Wno-error=restrict)
  if(CBQ_SANITIZE)
    # The checks hide initializations from g++'s analysis (its manual says so): std::regex alone gives a dozen.
    list(APPEND warnings -Wno-error=maybe-uninitialized)
  endif()
endif()
if(CBQ_SANITIZE)
  # Without the checks that AddressSanitizer makes as well: half the compile time.
  list(APPEND host_flags -fsanitize=address,undefined -fno-sanitize=null,vptr,object-size -fno-sanitize-recover=all
       -fno-omit-frame-pointer)
endif()
# -O0 makes a sanitizer run of the tests far slower; -g1 has the lines of a report (-g for a debugger: a third more time).
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1")

add_library(cbq_flags INTERFACE)
target_include_directories(cbq_flags INTERFACE ${CMAKE_SOURCE_DIR})  # #include "tensor/tensor.h"
target_compile_options(cbq_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${host_flags};${warnings};-Wpedantic>)
target_compile_definitions(cbq_flags INTERFACE $<$<CONFIG:Debug>:CBQ_DEBUG=1>)
if(CBQ_SANITIZE)
  target_link_options(cbq_flags INTERFACE -fsanitize=address,undefined)
endif()

# Command line, tests, fuzz targets and benchmarks: everything but the library, whose loops are what takes time in a run.
# -O1 takes 20 to 35 % off the compile time of a file (docs/performance.md). With the sanitizers -O0, and half the compile time:
# AddressSanitizer stays complete; of UndefinedBehaviorSanitizer, the checks that are left out concern accesses that
# AddressSanitizer sees as well. The library's own code keeps all of them.
function(cbq_compile_fast target)
  if(CBQ_SANITIZE)
    target_compile_options(${target} PRIVATE
      -O0 -fno-sanitize=alignment,bounds,pointer-overflow,nonnull-attribute,returns-nonnull-attribute)
  else()
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-O1>)
  endif()
endfunction()

# The sanitizer build reads the large headers of others once per target instead of once per file: a quarter of its compile time.
# The other builds do without, so that they still show an #include that is missing in a file.
function(cbq_precompile target)
  if(CBQ_SANITIZE)
    target_precompile_headers(${target} PRIVATE <algorithm> <array> <chrono> <cmath> <cstring> <filesystem> <fstream>
      <functional> <iostream> <map> <memory> <numeric> <optional> <random> <set> <span> <sstream> <stdexcept> <string>
      <string_view> <unordered_map> <utility> <variant> <vector> <fmt/format.h> <nlohmann/json.hpp> ${ARGN})
    target_compile_options(${target} PRIVATE -fpch-preprocess)  # ccache's manual asks for it
  endif()
endfunction()

if(CBQ_CUDA)
  list(JOIN host_flags "," joined_host_flags)
  list(JOIN warnings "," joined_warnings)
  # Without -Wpedantic, which only complains about the line markers of nvcc's own output; "#pragma unroll" is nvcc's own
  # word, and the host pass does not know it.
  target_compile_options(cbq_flags INTERFACE
    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${joined_host_flags},${joined_warnings},-Wno-unknown-pragmas,-fopenmp>"
    $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>
    $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo>)
  if(CBQ_WERROR)
    target_compile_options(cbq_flags INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings>")
  endif()
  target_compile_definitions(cbq_flags INTERFACE CBQ_CUDA=1)
endif()
