#include "tools/python/model.h"

#include <pybind11/stl.h>

#include <nlohmann/json.hpp>

#include "autograd/var.h"
#include "experiments/model_loading.h"
#include "experiments/token_source.h"
#include "tensor/runtime/environment.h"
#include "tools/cli/command.h"
#include "tools/python/array.h"
#include "tools/python/listener.h"

namespace cbq::python {
UseOfModel::UseOfModel(Model& model) : model_(model) {
  if (model.user.load() == std::this_thread::get_id()) {
    throw std::runtime_error(
        "the model is in use by the call whose callback this is; use it when that call is over");
  }
  model.busy.lock();
  model.user = std::this_thread::get_id();
}
UseOfModel::~UseOfModel() {
  model_.user = std::thread::id();
  model_.busy.unlock();
}

namespace {

std::shared_ptr<Model> load(const std::string& folder, const std::string& dtype,
                            const std::string& device, int threads, const std::string& load,
                            const std::string& tokenizer) {
  PythonListener listener((py::none()), py::none());
  return run_unlocked(listener, [&] {
    check_environment();
    cli::ComputeOptions compute;
    compute.device = device;
    compute.threads = threads;
    compute.dtype = dtype;
    LoadOptions loading;
    loading.load = load;
    const Device on = compute.apply();
    auto model = std::make_shared<Model>();
    model->folder = folder;
    model->tokenizer_path = tokenizer.empty() ? folder : tokenizer;
    model->transformer =
        loading.open(folder, compute.dtype_for(folder, on), on, {{}, listener.watch().interrupted});
    return model;
  });
}

/// Ids [rows, tokens] as the model reads them.
struct Batch {
  Tensor ids;
  Sequence sequence;
};

Batch batch_of(const Model& model, const py::object& object) {
  const std::vector<std::vector<int32_t>> rows = ids_of(object, "ids");
  Batch batch;
  batch.sequence.batch = static_cast<int64_t>(rows.size());
  batch.sequence.tokens = static_cast<int64_t>(rows[0].size());
  std::vector<int32_t> all;
  for (const std::vector<int32_t>& row : rows) {
    check(row.size() == rows[0].size(), "ids: rows of ", rows[0].size(), " and ", row.size(),
          " tokens; give rows of one length, or one after the other");
    all.insert(all.end(), row.begin(), row.end());
  }
  check(!all.empty(), "ids: there are no token ids");
  for (const int32_t id : all) {
    check(id < model.transformer->config.vocab_size, "ids: token ", id,
          " is outside the model's vocabulary of ", model.transformer->config.vocab_size);
  }
  batch.ids = Tensor::from(all, {static_cast<int64_t>(all.size())}, Dtype::i32,
                           model.transformer->device());
  return batch;
}

Sequence sequence_of(const Model& model, const Tensor& hidden) {
  const Transformer& t = *model.transformer;
  check(hidden.rank() == 3 && hidden.size(2) == t.config.hidden_size, "hidden: expected [rows, ",
        "tokens, ", t.config.hidden_size, "], got ", hidden.shape());
  check(hidden.dtype() == t.dtype(), "hidden: it is ", hidden.dtype(), ", the model computes in ",
        t.dtype(), "; convert it (hidden.to(\"", t.dtype(), "\"))");
  const int64_t context = t.config.context();
  check(hidden.size(1) <= context, "hidden: ", hidden.size(1), " tokens, more than the model's ",
        "context of ", context);
  Sequence sequence;
  sequence.batch = hidden.size(0);
  sequence.tokens = hidden.size(1);
  return sequence;
}

Array shaped(const Var& rows, const Sequence& sequence) {
  const Tensor& value = rows.value();
  return {value.to(Device::cpu()).reshape({sequence.batch, sequence.tokens, value.size(1)})};
}

Var flat(const Model& model, const Array& hidden) {
  const Tensor& t = hidden.tensor;
  return Var(t.to(model.transformer->device()).reshape({-1, t.size(2)}));
}

/// f() with the model to itself, without gradients and without the interpreter's lock.
template <class F>
auto computing(Model& model, F&& f) {
  const py::gil_scoped_release unlocked;
  const UseOfModel alone(model);
  const NoGrad none;
  return f();
}

Array embed(Model& model, const py::object& ids) {
  const Batch batch = batch_of(model, ids);
  return computing(model, [&] {
    return shaped(model.transformer->embed(batch.ids, batch.sequence), batch.sequence);
  });
}

Array logits(Model& model, const py::object& ids) {
  const Batch batch = batch_of(model, ids);
  return computing(model, [&] {
    return shaped(model.transformer->forward(batch.ids, batch.sequence), batch.sequence);
  });
}

Array head(Model& model, const py::object& object) {
  const Array hidden = array_of(object, "hidden");
  const Sequence sequence = sequence_of(model, hidden.tensor);
  return computing(model,
                   [&] { return shaped(model.transformer->head(flat(model, hidden)), sequence); });
}

/// One block, to be called like a function.
struct BlockOfModel {
  std::shared_ptr<Model> model;
  int64_t number = 0;

  Array operator()(const py::object& object) const {
    const Array hidden = array_of(object, "hidden");
    const Sequence sequence = sequence_of(*model, hidden.tensor);
    return computing(*model, [&] {
      const LoadedBlock loaded(*model->transformer, number);
      return shaped(model->transformer->block(number).forward(flat(*model, hidden), sequence),
                    sequence);
    });
  }
};

BlockOfModel block_of(const std::shared_ptr<Model>& model, int64_t number) {
  const int64_t count = model->transformer->block_count();
  if (number < -count || number >= count) {
    throw py::index_error(concat("block ", number, " of a model with ", count, " blocks"));
  }
  return {model, number < 0 ? number + count : number};
}

py::object config_of(const Model& model) {
  const std::string text = model.transformer->config.to_json().dump();
  return py::module_::import("json").attr("loads")(text);
}

std::vector<int32_t> encode(Model& model, const std::string& text) {
  return computing(model, [&] { return tokenizer_of(model).encode(text); });
}

py::object decode(Model& model, const std::vector<int32_t>& ids) {
  const std::string text = computing(model, [&] { return tokenizer_of(model).decode(ids); });
  return py::reinterpret_steal<py::object>(
      PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "replace"));
}

}  // namespace

const Tokenizer& tokenizer_of(Model& model) {
  if (!model.tokenizer) {
    model.tokenizer = tokenizer_for(model.transformer->config.vocab_size, model.tokenizer_path);
  }
  return *model.tokenizer;
}

void bind_model(py::module_& module) {
  py::class_<BlockOfModel>(module, "Block", "One block of a model: call it with a residual stream.")
      .def("__call__", &BlockOfModel::operator(), py::arg("hidden"),
           "hidden [rows, tokens, width] in front of the block -> the same behind it.")
      .def_readonly("number", &BlockOfModel::number);
  py::class_<Model, std::shared_ptr<Model>>(module, "Model", "A model folder in memory.")
      .def_readonly("folder", &Model::folder)
      .def_property_readonly("config", &config_of, "What config.json says, as a dictionary.")
      .def_property_readonly("dtype",
                             [](const Model& m) { return name_of(m.transformer->dtype()); })
      .def_property_readonly("device",
                             [](const Model& m) { return name_of(m.transformer->device()); })
      .def_property_readonly(
          "context", [](const Model& m) { return m.transformer->config.context(); },
          "The longest sequence, in tokens.")
      .def_property_readonly("vocab_size",
                             [](const Model& m) { return m.transformer->config.vocab_size; })
      .def(
          "__len__", [](const Model& m) { return m.transformer->block_count(); },
          "The number of blocks.")
      .def("embed", &embed, py::arg("ids"),
           "ids [rows, tokens] (or one row) -> the residual stream in front of block 0,\n"
           "[rows, tokens, width]. ValueError for ids outside the vocabulary, rows that differ in\n"
           "length or exceed the context.")
      .def("block", &block_of, py::arg("number"),
           "Block `number`; negative ones count from the end. IndexError for another.")
      .def("head", &head, py::arg("hidden"),
           "The residual stream behind the last block -> logits [rows, tokens, vocabulary].")
      .def("logits", &logits, py::arg("ids"),
           "ids [rows, tokens] -> logits [rows, tokens, vocabulary]: embed, all blocks, head.")
      .def("encode", &encode, py::arg("text"),
           "Ids of a text, without what the family puts in front (prefix).")
      .def("decode", &decode, py::arg("ids"), "The text of ids.")
      .def_property_readonly(
          "prefix", [](Model& m) { return computing(m, [&] { return tokenizer_of(m).prefix(); }); },
          "Ids that the family was trained to see in front of a text.")
      .def_property_readonly(
          "bos_id", [](Model& m) { return computing(m, [&] { return tokenizer_of(m).bos_id(); }); },
          "The id that begins a text; -1 where there is none.")
      .def_property_readonly(
          "eos_id", [](Model& m) { return computing(m, [&] { return tokenizer_of(m).eos_id(); }); },
          "The id that ends a text; -1 where there is none.")
      .def("__repr__", [](const Model& m) {
        return concat("cbq.Model(", m.folder, ": ", m.transformer->config.model_type, ", ",
                      m.transformer->block_count(), " blocks, ", m.transformer->dtype(), " on ",
                      m.transformer->device(), ")");
      });
  module.def("load", &load, py::arg("folder"), py::arg("dtype"), py::arg("device"),
             py::arg("threads"), py::arg("load"), py::arg("tokenizer"));
}

}  // namespace cbq::python
