#include "tools/python/module.h"

#include "tensor/runtime/program_version.h"
#include "tools/python/array.h"
#include "tools/python/listener.h"
#include "tools/python/model.h"

PYBIND11_MODULE(_core, module) {
  using namespace cbq::python;
  module.doc() = "The C++ part of cbq.";
  module.def(
      "version", [] { return cbq::program_version(); },
      "The program's version, with a digest of its sources.");
  bind_errors(module);
  bind_arrays(module);
  bind_model(module);
  bind_scoring(module);
  bind_commands(module);
  bind_rounding(module);
}
