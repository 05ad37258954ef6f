#include "quant/preprocess/preprocessor.h"

#include "tensor/error.h"

namespace cbq {

void Preprocessor::configure(const std::string& arguments) {
  check(arguments.empty(), "pre-processing '", name(), "' takes no arguments, got ':", arguments,
        "'");
}

Registry<Preprocessor>& preprocessors() {
  static Registry<Preprocessor> registry("pre-processing");
  return registry;
}

std::vector<std::unique_ptr<Preprocessor>> parse_preprocessors(const std::string& names) {
  std::vector<std::unique_ptr<Preprocessor>> stages;
  for (size_t begin = 0; begin <= names.size();) {
    const size_t end = std::min(names.find('+', begin), names.size());
    const std::string stage = names.substr(begin, end - begin);
    check(!stage.empty(), "pre-processing '", names, "' has an empty stage; write 'none' for none");
    const size_t colon = stage.find(':');
    stages.push_back(preprocessors().make(stage.substr(0, colon)));
    stages.back()->configure(colon == std::string::npos ? "" : stage.substr(colon + 1));
    begin = end + 1;
  }
  return stages;
}

std::vector<std::string> apply_preprocess(const std::string& names, Transformer& model,
                                          const std::vector<std::vector<int32_t>>& segments,
                                          PreprocessContext& context) {
  std::vector<std::string> notes;
  for (const auto& stage : parse_preprocessors(names)) {
    CalibrationStatistics statistics;
    if (stage->needs_statistics()) {
      statistics = collect_statistics(model, segments, context.statistics);
    }
    for (std::string& note : stage->apply(model, statistics, context)) {
      notes.push_back(std::move(note));
    }
  }
  return notes;
}

}  // namespace cbq
