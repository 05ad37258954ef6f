# Sources are found, not listed: one new file is one new part, with no other edit.

# cbq_sources(<out> <folder>...): every .cpp and .cu below the folders, relative to the root.
function(cbq_sources out)
  set(sources)
  foreach(folder ${ARGN})
    file(GLOB_RECURSE found RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS
         ${CMAKE_SOURCE_DIR}/${folder}/*.cpp ${CMAKE_SOURCE_DIR}/${folder}/*.cu)
    list(APPEND sources ${found})
  endforeach()
  foreach(source ${sources})
    if(NOT source MATCHES "\\.cu$")
      continue()
    endif()
    if(NOT CBQ_CUDA)
      # The same source is the CPU's: plain C++ (CMake adds -x c++). "#pragma unroll" speaks to nvcc only.
      set_source_files_properties(${source} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS -Wno-unknown-pragmas)
    elseif(source MATCHES "^quant/")
      # Here integers are decided: contraction off on the GPU as on the CPU, so that the codes agree.
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS --fmad=false)
    endif()
  endforeach()
  set(${out} ${sources} PARENT_SCOPE)
endfunction()

# cbq_executable(<target> <main source> [<folder of further sources>]): nothing where the main source is missing.
function(cbq_executable target main)
  if(NOT EXISTS ${CMAKE_SOURCE_DIR}/${main})
    message(STATUS "${target}: ${main} does not exist yet")
    return()
  endif()
  cbq_sources(further ${ARGN})
  add_executable(${target} ${main} ${further})
  target_link_libraries(${target} PRIVATE cbq_objects)
  cbq_compile_fast(${target})
endfunction()
