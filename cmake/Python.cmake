# cbq_python: the module cbq._core (tools/python/). build/<preset>/python has the package: PYTHONPATH=build/cpu/python.
find_package(Python 3.9 REQUIRED COMPONENTS Interpreter Development.Module)
find_package(pybind11 2.10 CONFIG REQUIRED)

cbq_sources(python_sources tools/python)
pybind11_add_module(cbq_python MODULE NO_EXTRAS ${python_sources})
target_link_libraries(cbq_python PRIVATE cbq_commands cbq_objects)
cbq_compile_fast(cbq_python)
# By name alone (pip asks for it): `cmake --install` puts programs into a prefix, which is no place of Python packages.
install(TARGETS cbq_python LIBRARY DESTINATION cbq COMPONENT python EXCLUDE_FROM_ALL)

file(GLOB python_files RELATIVE ${CMAKE_SOURCE_DIR}/tools/python CONFIGURE_DEPENDS
     ${CMAKE_SOURCE_DIR}/tools/python/cbq/*.py ${CMAKE_SOURCE_DIR}/tools/python/cbq/*.pyi
     ${CMAKE_SOURCE_DIR}/tools/python/cbq/py.typed)

# cbq_python_package(<module target> <folder>): puts the module and a copy of the Python files there.
function(cbq_python_package target folder)
  set(copies)
  foreach(file ${python_files})
    add_custom_command(OUTPUT ${folder}/${file}
      COMMAND ${CMAKE_COMMAND} -E copy ${CMAKE_SOURCE_DIR}/tools/python/${file} ${folder}/${file}
      DEPENDS ${CMAKE_SOURCE_DIR}/tools/python/${file})
    list(APPEND copies ${folder}/${file})
  endforeach()
  add_custom_target(${target}_files ALL DEPENDS ${copies})
  add_dependencies(${target} ${target}_files)
  set_target_properties(${target} PROPERTIES OUTPUT_NAME _core LIBRARY_OUTPUT_DIRECTORY ${folder}/cbq)
endfunction()
cbq_python_package(cbq_python ${CMAKE_BINARY_DIR}/python)
