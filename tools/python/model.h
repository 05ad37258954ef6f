// cbq.Model: a model folder in memory, as Python has it.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <mutex>
#include <string>

#include "nn/text/tokenizer.h"
#include "nn/transformer.h"

namespace cbq::python {

namespace py = pybind11;

struct Model {
  std::string folder;
  std::string tokenizer_path;  // file or folder
  std::unique_ptr<Transformer> transformer;
  std::unique_ptr<Tokenizer> tokenizer;  // made when it is asked for (tokenizer_of)
  std::mutex busy;  // one call at a time: blocks on demand come and go in the model itself
};

/// The model's tokenizer; loaded at the first call. Throws what load_tokenizer throws.
const Tokenizer& tokenizer_of(Model& model);

void bind_model(py::module_& module);

}  // namespace cbq::python
