# cbq_fuzz: damaged files for every parser (tests/fuzz/fuzz.h). The preset cpu-debug has the sanitizers that it is made for.

cbq_sources(fuzz_sources tests/fuzz)
add_executable(cbq_fuzz ${fuzz_sources} tools/cli/settings_options.cpp)
target_link_libraries(cbq_fuzz PRIVATE cbq_objects)
cbq_compile_fast(cbq_fuzz)
target_compile_definitions(cbq_fuzz PRIVATE CBQ_SOURCE_DIR="${CMAKE_SOURCE_DIR}")

# The same inputs in every build: a few of each parser. CI runs more (.ci/run).
add_test(NAME Fuzz.a_few_inputs COMMAND cbq_fuzz --count 60 --findings ${CMAKE_BINARY_DIR}/fuzz-findings)
set_tests_properties(Fuzz.a_few_inputs PROPERTIES TIMEOUT 600)
