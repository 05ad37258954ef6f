# The files of published methods become part of the programs, so that a program needs no folder beside it.

# cbq_embedded_methods(<target> <out>): cbq/methods/*.json as a generated source of the target; <out> lists the files. A new file
# needs no other edit. Only the generated file is compiled again when one changes.
function(cbq_embedded_methods target out)
  file(GLOB methods RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/cbq/methods/*.json)
  list(SORT methods)
  set(folder ${CMAKE_BINARY_DIR}/generated)
  list(JOIN methods "\n" lines)
  file(CONFIGURE OUTPUT ${folder}/methods.list CONTENT "@lines@\n" @ONLY)
  add_custom_command(
    OUTPUT ${folder}/methods.cpp
    COMMAND ${CMAKE_COMMAND} -DROOT=${CMAKE_SOURCE_DIR} -DFOLDER=${folder} -P ${CMAKE_SOURCE_DIR}/cmake/WriteMethods.cmake
    DEPENDS ${methods} ${folder}/methods.list ${CMAKE_SOURCE_DIR}/cmake/WriteMethods.cmake
    WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
    COMMENT "Methods: the files of cbq/methods"
    VERBATIM)
  target_sources(${target} PRIVATE ${folder}/methods.cpp)
  set(${out} ${methods} PARENT_SCOPE)
endfunction()
