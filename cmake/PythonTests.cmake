# The tests of the Python package, with the interpreter that the module is for.

# The module and the tutorial's rounding scheme in C++, beside which the same scheme in Python is put.
add_library(cbq_python_with_scheme MODULE $<TARGET_OBJECTS:cbq_python> ${tutorial_rounding})
target_link_libraries(cbq_python_with_scheme PRIVATE cbq_commands cbq_objects pybind11::module)
set_target_properties(cbq_python_with_scheme PROPERTIES LINKER_LANGUAGE CXX PREFIX "" SUFFIX "${PYTHON_MODULE_EXTENSION}")
cbq_python_package(cbq_python_with_scheme ${CMAKE_BINARY_DIR}/python_with_scheme)
add_dependencies(cbq_python_with_scheme cbq_cli)  # tests compare with the program

execute_process(COMMAND ${Python_EXECUTABLE} -c "import numpy" RESULT_VARIABLE numpy_is_missing ERROR_QUIET)
if(numpy_is_missing)
  message(FATAL_ERROR "CBQ_PYTHON: ${Python_EXECUTABLE} has no numpy, which the package needs: ./setup.sh python installs it")
endif()
if(CBQ_SANITIZE)
  return()  # the interpreter is not linked with the sanitizers
endif()
file(GLOB python_package_tests RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS
     ${CMAKE_SOURCE_DIR}/tools/python/tests/test_*.py ${CMAKE_SOURCE_DIR}/tools/python/examples/*.py)
foreach(test ${python_package_tests})
  cmake_path(GET test STEM name)
  add_test(NAME PythonPackage.${name} COMMAND ${Python_EXECUTABLE} ${test} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(PythonPackage.${name} PROPERTIES TIMEOUT 600
    ENVIRONMENT "PYTHONPATH=${CMAKE_BINARY_DIR}/python_with_scheme;TESTED_PROGRAM=${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/cbq;PYTHONDONTWRITEBYTECODE=1;OMP_NUM_THREADS=1;CUDA_VISIBLE_DEVICES=")
endforeach()
