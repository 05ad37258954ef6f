# The code of a tutorial is compiled and tested, so that the page cannot go stale.

# cbq_tutorial_source(<out> <markdown> <name>): the page's first ```cpp block as a source file in the build folder.
function(cbq_tutorial_source out page name)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${page})
  file(READ ${CMAKE_SOURCE_DIR}/${page} text)
  string(FIND "${text}" "```cpp\n" begin)
  if(begin EQUAL -1)
    message(FATAL_ERROR "${page}: no block of C++ code")
  endif()
  math(EXPR begin "${begin} + 7")
  string(SUBSTRING "${text}" ${begin} -1 text)
  string(FIND "${text}" "```" end)
  string(SUBSTRING "${text}" 0 ${end} text)
  set(source ${CMAKE_BINARY_DIR}/tutorial/${name})
  file(CONFIGURE OUTPUT ${source} CONTENT "${text}" @ONLY)  # written only when it changes
  if(NOT name MATCHES "\\.cu$")
    # Plain C++ in every build.
  elseif(NOT CBQ_CUDA)
    set_source_files_properties(${source} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS -Wno-unknown-pragmas)
  else()
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS --fmad=false)
  endif()
  set(${out} ${source} PARENT_SCOPE)
endfunction()
