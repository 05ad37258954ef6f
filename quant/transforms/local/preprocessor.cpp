#include "quant/transforms/local/preprocessor.h"

#include "quant/stages.h"
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
  for (const NamedStage& stage : stages_of("pre-processing", names)) {
    stages.push_back(preprocessors().make(stage.name));
    stages.back()->configure(stage.arguments);
  }
  for (size_t i = 0; i + 1 < stages.size(); ++i) {
    check(!stages[i]->leaves_factors(), "pre-processing '", stages[i]->name(),
          "' leaves factors to be learned, so it must be the last stage; put '",
          stages[i + 1]->name(), "' before it");
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
