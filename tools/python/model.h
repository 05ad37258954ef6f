// cbq.Model: a model folder in memory, as Python has it.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

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
  std::atomic<std::thread::id> user{};  // the thread whose call has the model
};

/// Waits until no other call uses the model, and has it while this lives. Throws
/// std::runtime_error where this thread's own call has it: a callback would wait for ever.
class UseOfModel {
 public:
  explicit UseOfModel(Model& model);
  ~UseOfModel();
  UseOfModel(const UseOfModel&) = delete;
  UseOfModel& operator=(const UseOfModel&) = delete;

 private:
  Model& model_;
};

/// The model's tokenizer; loaded at the first call. Throws what load_tokenizer throws.
const Tokenizer& tokenizer_of(Model& model);

void bind_model(py::module_& module);

}  // namespace cbq::python
