# Sources are found, not listed: one new file is one new part, with no other edit.

# cbq_vector_options(<out> <2 or 512>): optimized in a Debug build, too, where each product would take ten times as long;
# contraction on, since a product decides no integer.
function(cbq_vector_options out kind)
  set(options -O3 -ffp-contract=fast)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(APPEND options -mavx2 -mfma)
    if(kind EQUAL 512)
      list(APPEND options -mavx512f)
    endif()
  endif()
  set(${out} ${options} PARENT_SCOPE)
endfunction()

# cbq_sources(<out> <folder>...): every .cpp and .cu below the folders, relative to the root.
function(cbq_sources out)
  set(sources)
  foreach(folder ${ARGN})
    file(GLOB_RECURSE found RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS
         ${CMAKE_SOURCE_DIR}/${folder}/*.cpp ${CMAKE_SOURCE_DIR}/${folder}/*.cu)
    list(APPEND sources ${found})
  endforeach()
  foreach(source ${sources})
    if(source MATCHES "f32_product_avx(512|2)\\.cpp$")
      # Each for its own processors, whatever the rest is compiled for; f32_product.cpp chooses when the program runs.
      cbq_vector_options(options ${CMAKE_MATCH_1})
      # Without precompiled headers: g++ 12.2 crashes on the two together, and the files use none of them.
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${options}" SKIP_PRECOMPILE_HEADERS ON)
    endif()
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

# cbq_join(<list> <folder>): replaces a list's .cpp files by files that include eight each. Eight files share the headers and
# templates that they use: half the compile time. A file with definitions or options of its own stays alone. Names in
# unnamed namespaces must differ within eight files; the names of registrations, "registered" in each file, are made to.
# The joined files lie outside the build folder: a second build (CUDA) then finds their objects in ccache, which compares paths.
function(cbq_join list folder)
  set(files ${${list}})
  set(result)
  set(together)
  foreach(file ${files})
    get_source_file_property(definitions ${file} COMPILE_DEFINITIONS)
    get_source_file_property(options ${file} COMPILE_OPTIONS)
    if(file MATCHES "\\.cpp$" AND NOT definitions AND NOT options)
      list(APPEND together ${file})
    else()
      list(APPEND result ${file})
    endif()
  endforeach()
  list(LENGTH together count)
  set(begin 0)
  while(begin LESS count)
    list(SUBLIST together ${begin} 8 eight)
    set(text)
    set(number 0)
    foreach(file ${eight})
      math(EXPR number "${number} + 1")
      string(APPEND text "#define registered registered_${number}\n#include \"${file}\"\n#undef registered\n")
    endforeach()
    set(source ${CMAKE_SOURCE_DIR}/build/${folder}/from_${begin}.cpp)
    file(CONFIGURE OUTPUT ${source} CONTENT "@text@" @ONLY)
    list(APPEND result ${source})
    math(EXPR begin "${begin} + 8")
  endwhile()
  set(${list} ${result} PARENT_SCOPE)
endfunction()
