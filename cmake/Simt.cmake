# The tests once more, with every kernel of the .cu files run as a CUDA grid on the host (tests/simt/simt.h).
#
# cbq_simt_tests takes any --gtest_filter of cbq_tests; ctest runs what the tuned kernels, the ops and the rounding schemes
# need. Not part of "all" (cmake --build build/cpu --target ...): cbq_simt_races, in which ThreadSanitizer looks for races
# between threads of a block, and cbq_simt_tests of cpu-debug, in which AddressSanitizer looks at every access.

# cbq_simt_program(<target> <compile flags>...): the library's and the tests' objects, with all .cu files compiled again.
function(cbq_simt_program target)
  file(GLOB emulator RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/simt/*.cpp)
  set(kernels ${layer_sources} ${test_sources} ${tutorial_rounding} ${tutorial_grid})
  list(FILTER kernels INCLUDE REGEX "\\.cu$")
  add_executable(${target} EXCLUDE_FROM_ALL ${emulator} ${kernels}
    $<FILTER:$<TARGET_OBJECTS:cbq_objects>,EXCLUDE,\\.cu\\.o$>
    $<FILTER:$<TARGET_OBJECTS:cbq_tests>,EXCLUDE,\\.cu\\.o$>)
  target_link_libraries(${target} PRIVATE cbq_flags cbq_dependencies GTest::gtest GTest::gtest_main)
  # -O1 compiles in half the time, and nobody measures an emulator.
  target_compile_options(${target} PRIVATE -O1 -include ${CMAKE_SOURCE_DIR}/tests/simt/simt.h ${ARGN})
  target_compile_definitions(${target} PRIVATE CBQ_SIMT=1)
endfunction()

# What the emulator itself shares between fibers is no race of a kernel's.
set_source_files_properties(tests/simt/simt.cpp PROPERTIES COMPILE_OPTIONS -fno-sanitize=thread)

cbq_simt_program(cbq_simt_tests)
if(CBQ_SANITIZE)
  return()
endif()

set_target_properties(cbq_simt_tests PROPERTIES EXCLUDE_FROM_ALL OFF)
function(cbq_simt_test name filter)
  add_test(NAME Simt.${name} COMMAND cbq_simt_tests --gtest_filter=${filter} --gtest_brief=1)
  set_tests_properties(Simt.${name} PROPERTIES TIMEOUT 1200 COST 100)  # the longest tests begin first: no core waits at the end
endfunction()
cbq_simt_test(emulator Simt*:Launch.Map*)
cbq_simt_test(ops *Op.ValueMatchesTheReference*:Ops.CudaAgreesWithCpu:Vector*:RowElements*)
cbq_simt_test(quant *RoundingContract*:RoundingSchemes*:ActivationQuantizer*:BitPacked*:Grid*:*QuantizeTokens.*:*TokenRows*)
cbq_simt_test(tuned Tuned*)
cbq_simt_test(agreement *Agreement*)

cbq_simt_program(cbq_simt_races -fsanitize=thread -Wno-tsan)
target_compile_definitions(cbq_simt_races PRIVATE CBQ_SIMT_RACES=1)
target_link_options(cbq_simt_races PRIVATE -fsanitize=thread)
