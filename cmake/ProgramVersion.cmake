# program_version() (tensor/runtime/program_version.h): the project's version and a digest of the sources of the programs cbq and
# run_ablation and of how they are compiled. The sources, not the commit: uncommitted changes count, changes of documents do not, and a source archive
# without git has its version, too. Only the generated file is compiled again when a source changes.

# cbq_program_version(<target> <source>...): adds the generated source to the target.
function(cbq_program_version target)
  set(sources ${ARGN} cmake/Flags.cmake cmake/Languages.cmake cmake/Sources.cmake experiments/run_ablation.cpp tools/cbq.cpp)
  file(GLOB_RECURSE command_line RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tools/cli/*.cpp)
  list(APPEND sources ${command_line})
  foreach(folder ${CBQ_LAYERS} tools/cli)
    file(GLOB_RECURSE headers RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.h)
    list(APPEND sources ${headers})
  endforeach()
  list(SORT sources)
  string(TOUPPER "${CMAKE_BUILD_TYPE}" type)
  # "native" is another target on every machine: what the compiler makes of it tells them apart.
  set(target_macros)
  if(CBQ_NATIVE)
    execute_process(COMMAND ${CMAKE_CXX_COMPILER} -march=native -dM -E -x c++ /dev/null OUTPUT_VARIABLE target_macros)
  endif()
  string(SHA256 target_digest "${target_macros}")
  set(how "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION} ${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${type}} "
          "native ${CBQ_NATIVE} ${target_digest} sanitize ${CBQ_SANITIZE} cuda ${CBQ_CUDA} ${CMAKE_CUDA_COMPILER_VERSION} "
          "${CMAKE_CUDA_ARCHITECTURES} ${CMAKE_CUDA_FLAGS} ${CMAKE_CUDA_FLAGS_${type}}")
  set(folder ${CMAKE_BINARY_DIR}/generated)
  # The same for people (build_facts()).
  string(STRIP "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${type}}" flags)
  set(processor "x86-64-v3 (AVX2)")
  if(CBQ_NATIVE)
    set(processor "the one that it was built on")
  endif()
  set(cuda "none")
  if(CBQ_CUDA)
    list(JOIN CMAKE_CUDA_ARCHITECTURES ", " architectures)
    set(cuda "${CMAKE_CUDA_COMPILER_VERSION}, for ${architectures}")
  endif()
  string(CONCAT facts "compiler: ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}, ${CMAKE_BUILD_TYPE} ${flags}\n"
                "processor: ${processor}\nCUDA: ${cuda}")
  if(CBQ_SANITIZE)
    string(APPEND facts "\nsanitizers: address, undefined behaviour")
  endif()
  file(CONFIGURE OUTPUT ${folder}/program_version.facts CONTENT "@facts@" @ONLY)
  # A file of its own: lists of hundreds of sources are too long for a command line on some systems.
  list(JOIN sources "\n" lines)
  file(CONFIGURE OUTPUT ${folder}/program_version.sources CONTENT "@lines@\n" @ONLY)
  file(CONFIGURE OUTPUT ${folder}/program_version.how CONTENT "@how@\n" @ONLY)
  add_custom_command(
    OUTPUT ${folder}/program_version.cpp
    COMMAND ${CMAKE_COMMAND} -DROOT=${CMAKE_SOURCE_DIR} -DFOLDER=${folder} -DVERSION=${PROJECT_VERSION}
            -P ${CMAKE_SOURCE_DIR}/cmake/WriteProgramVersion.cmake
    DEPENDS ${sources} ${folder}/program_version.sources ${folder}/program_version.how ${folder}/program_version.facts
            ${CMAKE_SOURCE_DIR}/cmake/WriteProgramVersion.cmake
    WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
    COMMENT "Program version: digest of the sources"
    VERBATIM)
  target_sources(${target} PRIVATE ${folder}/program_version.cpp)
endfunction()
