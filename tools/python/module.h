// cbq._core, the C++ part of the package cbq (tools/python/cbq): its parts, each in its own file.
#pragma once

#include <pybind11/pybind11.h>

namespace cbq::python {

namespace py = pybind11;

void bind_scoring(py::module_& module);
void bind_commands(py::module_& module);
void bind_rounding(py::module_& module);

}  // namespace cbq::python
