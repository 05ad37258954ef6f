// Perplexity, log-likelihoods and generated text.
#include "experiments/tasks/scoring.h"

#include <pybind11/stl.h>

#include <optional>

#include "cbq/generation.h"
#include "nn/text/text_stream.h"
#include "tools/cli/evaluation.h"
#include "tools/python/array.h"
#include "tools/python/listener.h"
#include "tools/python/model.h"
#include "tools/python/module.h"

namespace cbq::python {
namespace {

/// `tokens`: the name of a text or token file, or ids.
cli::Score evaluate(Model& model, const py::object& tokens, int64_t segments,
                    int64_t segment_length, int64_t batch, py::object progress) {
  cli::EvaluationOptions options;
  options.segments = segments;
  options.segment_length = segment_length;
  options.length_option = "segment_length";
  cli::NamedTokens given{"ids", {}};
  const bool is_source = py::isinstance<py::str>(tokens);
  if (is_source) {
    options.sources = {tokens.cast<std::string>()};
  } else {
    check(segments == 0 && segment_length == 0,
          "segments and segment_length cut texts and files; cut the ids before you give them");
    given.tokens.segments = ids_of(tokens, "tokens");
    given.tokens.protocol = "ids given by the caller";
  }
  PythonListener listener(std::move(progress), py::none());
  return run_unlocked(listener, [&] {
    const UseOfModel alone(model);
    Transformer& t = *model.transformer;
    std::vector<cli::NamedTokens> sets = {given};
    if (is_source) {
      sets = cli::load_evaluation(options, {t.config, model.tokenizer_path});
    } else {
      given.tokens.check_vocabulary(t.config.vocab_size);
    }
    return cli::evaluate(t, sets, batch, listener).at(0);
  });
}

using Pairs = std::vector<std::pair<double, bool>>;

Pairs scored(Model& model, const std::vector<EncodedRequest>& requests, int64_t pass_tokens,
             PythonListener& listener) {
  check(pass_tokens >= 1, "pass_tokens: expected at least 1, got ", pass_tokens);
  const Watch watch = listener.watch();
  ScoringOptions options;
  options.tokens = pass_tokens;
  options.want_greedy = true;
  options.progress = [&](int64_t done, int64_t all) { watch.step(done, all, "scoring"); };
  Pairs pairs;
  if (requests.empty()) return pairs;
  for (const RequestScore& s : score(*model.transformer, requests, options)) {
    pairs.emplace_back(s.log_likelihood, s.is_greedy);
  }
  return pairs;
}

Pairs loglikelihood(Model& model, const std::vector<std::pair<std::string, std::string>>& texts,
                    const std::string& encoding, int64_t pass_tokens, py::object progress) {
  PythonListener listener(std::move(progress), py::none());
  return run_unlocked(listener, [&] {
    const UseOfModel alone(model);
    const Encoding how = encoding_from_name(encoding);
    const Tokenizer& tokenizer = tokenizer_of(model);
    std::vector<EncodedRequest> requests;
    for (const auto& [context, continuation] : texts) {
      requests.push_back(
          encode({context, continuation}, tokenizer, how, model.transformer->config.context()));
    }
    return scored(model, requests, pass_tokens, listener);
  });
}

Pairs loglikelihood_ids(
    Model& model, const std::vector<std::pair<std::vector<int32_t>, std::vector<int32_t>>>& ids,
    int64_t pass_tokens, py::object progress) {
  PythonListener listener(std::move(progress), py::none());
  return run_unlocked(listener, [&] {
    const UseOfModel alone(model);
    const auto context = static_cast<size_t>(model.transformer->config.context());
    std::vector<EncodedRequest> requests;
    for (const auto& [before, after] : ids) {
      check(!before.empty() && !after.empty(), "a request needs ids in front and a continuation");
      check(before.size() + after.size() <= context + 1, "a request of ", before.size(), " and ",
            after.size(), " ids; the model reads ", context);
      EncodedRequest request{before, static_cast<int64_t>(after.size())};
      request.ids.insert(request.ids.end(), after.begin(), after.end());
      requests.push_back(std::move(request));
    }
    return scored(model, requests, pass_tokens, listener);
  });
}

struct Text {
  std::string text;
  std::vector<int32_t> ids;
  std::string reason;
  bool has_text = false;
};

/// Ends generate() from its callback.
struct Enough {};

size_t first_stop(const std::string& text, const std::vector<std::string>& until) {
  size_t at = std::string::npos;
  for (const std::string& stop : until) {
    if (!stop.empty()) at = std::min(at, text.find(stop));
  }
  return at;
}

Text generate_text(Model& model, const std::vector<int32_t>& prompt,
                   const GenerationSettings& settings, const std::vector<std::string>& until,
                   const Watch& watch) {
  Text made;
  // Ids are continued without a tokenizer, too, where nobody asks for text.
  made.has_text = !until.empty() || !tokenizer_files(model.tokenizer_path).empty();
  std::optional<TextStream> stream;
  if (made.has_text) stream.emplace(tokenizer_of(model), prompt);
  try {
    const Generation whole = generate(*model.transformer, prompt, settings, [&](int32_t id) {
      watch.step(static_cast<int64_t>(made.ids.size()), settings.tokens, "generating");
      made.ids.push_back(id);
      if (!stream) return;
      made.text += stream->add(id);
      if (first_stop(made.text, until) != std::string::npos) throw Enough();
    });
    if (stream) made.text += stream->rest();
    made.reason = whole.reason == StopReason::end_of_text       ? "end_of_text"
                  : whole.reason == StopReason::context_is_full ? "context_is_full"
                                                                : "tokens";
  } catch (const Enough&) {
    made.reason = "until";
  }
  // A stop may also appear with the last characters.
  if (const size_t at = first_stop(made.text, until); at != std::string::npos) {
    made.text.resize(at);
    made.reason = "until";
  }
  return made;
}

Text generate(Model& model, const py::object& prompt, int64_t tokens, double temperature,
              uint64_t seed, const std::vector<std::string>& until, py::object progress) {
  const bool is_text = py::isinstance<py::str>(prompt);
  const std::string text = is_text ? prompt.cast<std::string>() : "";
  std::vector<int32_t> ids;
  if (!is_text) {
    auto rows = ids_of(prompt, "prompt");
    check(rows.size() == 1, "prompt: expected one row of ids, got ", rows.size());
    ids = std::move(rows[0]);
  }
  PythonListener listener(std::move(progress), py::none());
  return run_unlocked(listener, [&] {
    const UseOfModel alone(model);
    if (is_text) {
      ids = tokenizer_of(model).prefix();
      const std::vector<int32_t> more = tokenizer_of(model).encode(text);
      ids.insert(ids.end(), more.begin(), more.end());
    }
    const NoGrad none;
    return generate_text(model, ids, {tokens, temperature, seed}, until, listener.watch());
  });
}

py::object lenient(const std::string& text) {
  return py::reinterpret_steal<py::object>(
      PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "replace"));
}

}  // namespace

void bind_scoring(py::module_& module) {
  py::class_<cli::Score>(module, "Score", "Perplexity of a model on some tokens.")
      .def_readonly("name", &cli::Score::name)
      .def_readonly("protocol", &cli::Score::protocol)
      .def_property_readonly(
          "perplexity", [](const cli::Score& s) { return s.result.perplexity(); }, "exp(mean_nll)")
      .def_property_readonly(
          "mean_nll", [](const cli::Score& s) { return s.result.mean_nll(); },
          "Mean negative log-likelihood in nats.")
      .def_property_readonly(
          "tokens", [](const cli::Score& s) { return s.result.tokens; },
          "The number of scored tokens.")
      .def_property_readonly(
          "segment_nll", [](const cli::Score& s) { return s.result.segment_nll; },
          "Nats of each segment.")
      .def("__repr__", [](const cli::Score& s) {
        return concat("cbq.Score(", s.name, ": perplexity ", s.result.perplexity(), ", ",
                      s.result.tokens, " tokens, ", s.protocol, ")");
      });
  py::class_<Text>(module, "Generation", "A text that continues a prompt.")
      .def_property_readonly(
          "text", [](const Text& t) { return t.has_text ? lenient(t.text) : py::none(); },
          "None where the model has no tokenizer.")
      .def_readonly("ids", &Text::ids)
      .def_readonly("reason", &Text::reason,
                    "\"end_of_text\", \"until\", \"tokens\" or \"context_is_full\"")
      .def("__repr__", [](const Text& t) { return concat("cbq.Generation(", t.reason, ")"); });
  module.def("evaluate", &evaluate, py::arg("model"), py::arg("tokens"), py::arg("segments"),
             py::arg("segment_length"), py::arg("batch"), py::arg("progress"));
  module.def("loglikelihood", &loglikelihood, py::arg("model"), py::arg("requests"),
             py::arg("encoding"), py::arg("pass_tokens"), py::arg("progress"));
  module.def("loglikelihood_ids", &loglikelihood_ids, py::arg("model"), py::arg("requests"),
             py::arg("pass_tokens"), py::arg("progress"));
  module.def("generate", &generate, py::arg("model"), py::arg("prompt"), py::arg("tokens"),
             py::arg("temperature"), py::arg("seed"), py::arg("until"), py::arg("progress"));
}

}  // namespace cbq::python
