// The commands `cbq quantize` and `cbq export`, with the same options, checks and files; methods
// and their settings.
#include <pybind11/stl.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "cbq/methods.h"
#include "experiments/command_line.h"
#include "tensor/runtime/environment.h"
#include "tools/cli/export_run.h"
#include "tools/cli/quantize_run.h"
#include "tools/python/array.h"
#include "tools/python/listener.h"
#include "tools/python/module.h"

namespace cbq::python {
namespace {

py::object from_json(const nlohmann::json& json) {
  return py::module_::import("json").attr("loads")(json.dump());
}

std::string option_of(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return "--" + name;
}

std::string text_of(const py::handle& value) {
  if (py::isinstance<py::bool_>(value)) return value.cast<bool>() ? "true" : "false";
  if (py::hasattr(value, "__fspath__")) return py::str(value.attr("__fspath__")());
  return py::isinstance<py::float_>(value) ? std::string(py::repr(value))
                                           : std::string(py::str(value));
}

/// The names of all options, as keyword arguments.
std::string known_names(const CLI::App& app) {
  std::string known;
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_lnames().empty() || option->get_group().empty()) continue;
    std::string name = option->get_lnames()[0];
    std::replace(name.begin(), name.end(), '-', '_');
    known += (known.empty() ? "" : ", ") + name;
  }
  return known;
}

/// A keyword argument as the command line writes it; None is left out.
void add_argument(const CLI::App& app, const std::string& name, const py::handle& value,
                  std::vector<std::string>* arguments) {
  const std::string option_name = option_of(name);
  const CLI::Option* option = app.get_option_no_throw(option_name);
  check(option != nullptr, "unknown setting '", name,
        "'; known: ", [&] { return known_names(app); });
  if (value.is_none()) return;
  if (option->get_expected_max() == 0) {  // a flag
    check(py::isinstance<py::bool_>(value), name, ": expected True or False, got ",
          std::string(py::repr(value)));
    const std::vector<std::string>& no = option->get_fnames();
    if (value.cast<bool>()) {
      arguments->push_back(option_name);
    } else if (!no.empty()) {
      arguments->push_back("--" + no[0]);
    }
  } else if (py::isinstance<py::list>(value) || py::isinstance<py::tuple>(value)) {
    for (const py::handle& one : value) arguments->push_back(option_name + "=" + text_of(one));
  } else {
    check(!py::isinstance<py::bool_>(value), name, ": expected a value, got ",
          std::string(py::repr(value)));
    arguments->push_back(option_name + "=" + text_of(value));
  }
}

/// Parses a command whose positional argument is `input`.
void parse(CLI::App& app, const std::string& input, const py::dict& settings) {
  let_later_values_win(app);
  cli::refuse_negative_counts(app);
  std::vector<std::string> arguments;
  for (const auto& [name, value] : settings) {
    add_argument(app, name.cast<std::string>(), value, &arguments);
  }
  arguments.push_back("--");
  arguments.push_back(input);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes them
  try {
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    throw std::invalid_argument(message_of(error.what()));
  }
}

void quantize(const std::string& model, const py::object& calibration_ids, const py::dict& settings,
              py::object progress, py::object log) {
  CLI::App app("quantize");
  const auto options = cli::add_quantize_options(app);
  parse(app, model, settings);
  if (!calibration_ids.is_none()) {
    options->given_segments = ids_of(calibration_ids, "calibration");
    options->calibration = "ids given by the caller";
  }
  PythonListener listener(std::move(progress), std::move(log));
  run_unlocked(listener, [&] {
    check_environment();
    cli::run_quantize(*options, listener);
  });
}

void export_result(const std::string& result, const py::dict& settings, py::object progress,
                   py::object log) {
  CLI::App app("export");
  const auto options = cli::add_export_options(app);
  parse(app, result, settings);
  PythonListener listener(std::move(progress), std::move(log));
  run_unlocked(listener, [&] {
    check_environment();
    cli::run_export(*options, listener);
  });
}

py::dict methods() {
  py::dict titles;
  for (const std::string& name : method_names()) titles[py::str(name)] = find_method(name).title;
  return titles;
}

py::object settings_of(const std::string& method, int wbits, int abits) {
  const Settings settings = method_settings(method, wbits, abits);
  validate_values(settings);
  return from_json(to_json(settings));
}

}  // namespace

void bind_commands(py::module_& module) {
  module.def("quantize", &quantize, py::arg("model"), py::arg("calibration_ids"),
             py::arg("settings"), py::arg("progress"), py::arg("log"));
  module.def("export", &export_result, py::arg("result"), py::arg("settings"), py::arg("progress"),
             py::arg("log"));
  module.def("methods", &methods);
  module.def("settings", &settings_of, py::arg("method"), py::arg("wbits"), py::arg("abits"));
}

}  // namespace cbq::python
