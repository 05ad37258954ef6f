# Target check_headers: every header compiles alone, and twice in a row. Not part of "all"; CI builds it.

set(header_sources)
foreach(folder ${CBQ_LAYERS} tools tests)
  file(GLOB_RECURSE headers RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.h)
  foreach(header ${headers})
    set(source ${CMAKE_BINARY_DIR}/check_headers/${header}.cpp)
    file(CONFIGURE OUTPUT ${source} CONTENT "#include \"@header@\"\n#include \"@header@\"\n" @ONLY)
    list(APPEND header_sources ${source})
  endforeach()
endforeach()
if(header_sources)
  add_library(check_headers OBJECT EXCLUDE_FROM_ALL ${header_sources})
  target_link_libraries(check_headers PRIVATE cbq_flags cbq_dependencies GTest::gtest)
  target_compile_options(check_headers PRIVATE -O0)
  target_compile_definitions(check_headers PRIVATE  # as the tests have them
    CBQ_SOURCE_DIR="${CMAKE_SOURCE_DIR}" CBQ_BINARY_DIR="${CMAKE_BINARY_DIR}")
endif()
