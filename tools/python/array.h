// Tensors for Python: numpy and DLPack without copies, both ways.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace cbq::python {

namespace py = pybind11;

/// cbq.Tensor. `read_only`: memory of a read-only array, which then stays so.
struct Array {
  Tensor tensor;
  bool read_only = false;
};

/// A tensor over the memory of `object`: a cbq.Tensor, a numpy array, or anything with __dlpack__
/// (torch, jax, ...). Throws std::invalid_argument, naming `what`, for memory that is not
/// contiguous, not on the CPU, or of a type that tensors do not have.
Array array_of(const py::object& object, const char* what);

/// Rows of token ids. `object`: a list of lists, one list, or an integer array [ids] or [rows,
/// ids]. Throws std::invalid_argument, naming `what`, for anything else.
std::vector<std::vector<int32_t>> ids_of(const py::object& object, const char* what);

/// The numpy array over a tensor's memory. Throws std::invalid_argument for bf16.
py::object numpy_of(const Array& array);

void bind_arrays(py::module_& module);

}  // namespace cbq::python
