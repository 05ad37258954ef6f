# One GoogleTest program of everything under tests/, and the checks of the tree itself.

find_package(GTest REQUIRED)
include(GoogleTest)

cbq_sources(test_sources tests)
list(FILTER test_sources EXCLUDE REGEX "^tests/(simt|fuzz)/")

if(test_sources AND TARGET cbq_objects)
  include(Tutorial)
  # Who follows the page saves its code there; the tests then have the scheme from there.
  if(NOT EXISTS ${CMAKE_SOURCE_DIR}/quant/rounding/linear.cu)
    cbq_tutorial_source(tutorial_rounding docs/add-a-rounding-scheme.md linear.cu)
  endif()
  if(NOT EXISTS ${CMAKE_SOURCE_DIR}/quant/grids/bounded.cu)
    cbq_tutorial_source(tutorial_grid docs/add-a-grid.md bounded.cu)
  endif()
  if(NOT EXISTS ${CMAKE_SOURCE_DIR}/quant/solvers/output_clip.cpp)
    cbq_tutorial_source(tutorial_solver docs/add-a-solver.md output_clip.cpp)
  endif()
  if(NOT EXISTS ${CMAKE_SOURCE_DIR}/quant/transforms/global/equalize.cpp)
    cbq_tutorial_source(tutorial_transform docs/add-a-transform.md equalize.cpp)
  endif()
  if(NOT EXISTS ${CMAKE_SOURCE_DIR}/cbq/exporters/unpacked.cpp)
    cbq_tutorial_source(tutorial_format docs/add-a-format.md unpacked.cpp)
  endif()
  set(test_files ${test_sources})
  list(FILTER test_files INCLUDE REGEX "^tests/test_[^/]*\\.cpp$")
  set(other_test_sources ${test_sources})
  list(REMOVE_ITEM other_test_sources ${test_files})
  if(CBQ_JOIN_TESTS OR CBQ_SANITIZE)
    cbq_join(test_files joined_tests)
  endif()
  add_executable(cbq_tests ${test_files} ${other_test_sources} ${tutorial_rounding} ${tutorial_grid} ${tutorial_solver}
                 ${tutorial_transform} ${tutorial_format})
  # The program cbq and that one file: the page says that no other edit is needed.
  add_executable(cbq_with_format $<TARGET_OBJECTS:cbq_cli> $<TARGET_OBJECTS:cbq_commands> ${tutorial_format})
  set_target_properties(cbq_with_format PROPERTIES LINKER_LANGUAGE CXX)
  target_link_libraries(cbq_with_format PRIVATE cbq_objects)
  target_link_libraries(cbq_tests PRIVATE cbq_objects GTest::gtest GTest::gtest_main)
  cbq_compile_fast(cbq_tests)
  target_compile_definitions(cbq_tests PRIVATE
    CBQ_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  include(Fuzz)
  # Tests of the command line run the programs themselves.
  foreach(program cbq_cli cbq_with_format run_ablation check_reference bench cbq_fuzz)
    if(TARGET ${program})
      add_dependencies(cbq_tests ${program})
    endif()
  endforeach()
  # An environment variable, not a macro: another folder then needs no recompilation. Tests skip visibly without it.
  set(test_environment)
  if(CBQ_TEST_DATA)
    set(test_environment ENVIRONMENT "CBQ_TEST_DATA=${CBQ_TEST_DATA}")
  endif()
  if(CBQ_SANITIZE)
    # 2,300 starts of a program with sanitizers take minutes, so here a process runs one test in forty. The two tests that are left
    # out train for long; others run the same code on smaller models.
    foreach(part RANGE 1 40)
      math(EXPR index "${part} - 1")
      add_test(NAME Tests.part_${part}_of_40 COMMAND cbq_tests --gtest_brief=1 --gtest_filter=-*OnARealModel*:*TunedRowsAreMet*)
      set_tests_properties(Tests.part_${part}_of_40 PROPERTIES TIMEOUT 1200
        ENVIRONMENT "GTEST_TOTAL_SHARDS=40;GTEST_SHARD_INDEX=${index};CBQ_TEST_DATA=${CBQ_TEST_DATA}")
    endforeach()
  else()
    # PRE_TEST: the list is asked of the program when ctest starts, so a failing test cannot fail the build.
    gtest_discover_tests(cbq_tests DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 600 ${test_environment})
  endif()
endif()

if(TARGET cbq_tests AND NOT CBQ_CUDA AND CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  include(Simt)
endif()

find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME Tree.layers COMMAND Python3::Interpreter tools/checks/check_layers.py
         WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
add_test(NAME Tree.class_names COMMAND Python3::Interpreter tools/checks/check_class_names.py
         WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
file(GLOB python_tests RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/test_*.py)
foreach(test ${python_tests})
  cmake_path(GET test STEM name)
  add_test(NAME Python.${name} COMMAND Python3::Interpreter ${test} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
endforeach()

# Some kills of each; docs/reliability.md has the command for many.
if(TARGET cbq_cli)
  add_test(NAME Reliability.smoke COMMAND Python3::Interpreter tests/reliability/reliability.py
           --programs ${CMAKE_RUNTIME_OUTPUT_DIRECTORY} --kills 2 --flips 0 --kinds quantize,train
           WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(Reliability.smoke PROPERTIES TIMEOUT 600 COST 100)
endif()
