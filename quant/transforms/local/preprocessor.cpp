#include "quant/transforms/local/preprocessor.h"

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

Preprocessing::Preprocessing(const std::string& names, Transformer& model,
                             const std::vector<std::vector<int32_t>>& segments,
                             PreprocessContext& context)
    : model_(model), context_(context) {
  for (auto& preprocessor : parse_preprocessors(names)) {
    Stage& stage = stages_.emplace_back();
    stage.preprocessor = std::move(preprocessor);
    if (stage.preprocessor->needs_statistics()) {
      stage.stream.emplace(model, segments, context.statistics);
    }
  }
}

void Preprocessing::apply_to_next_block() {
  for (Stage& stage : stages_) {
    if (context_.poll) context_.poll();
    const CalibrationStatistics statistics =
        stage.stream ? stage.stream->pass_block(context_.poll) : CalibrationStatistics();
    stage.preprocessor->apply(model_, next_, statistics, context_);
  }
  ++next_;
}

std::vector<std::string> Preprocessing::notes() const {
  std::vector<std::string> all;
  for (const Stage& stage : stages_) {
    for (std::string& note : stage.preprocessor->notes(context_)) all.push_back(std::move(note));
  }
  return all;
}

std::vector<std::string> apply_preprocess(const std::string& names, Transformer& model,
                                          const std::vector<std::vector<int32_t>>& segments,
                                          PreprocessContext& context) {
  Preprocessing preprocessing(names, model, segments, context);
  for (int64_t b = 0; b < model.block_count(); ++b) preprocessing.apply_to_next_block();
  return preprocessing.notes();
}

}  // namespace cbq
