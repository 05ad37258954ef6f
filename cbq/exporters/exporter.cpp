#include "cbq/exporters/exporter.h"

#include <algorithm>

#include "nn/block_walk.h"
#include "tensor/error.h"

namespace cbq {
namespace {

/// "f32, bf16 or f16".
std::string joined(const std::vector<std::string>& words, const char* last = ", ") {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? last : ", ";
    text += words[i];
  }
  return text;
}

std::vector<std::string> dtype_names(const Exporter& exporter) {
  std::vector<std::string> names;
  for (const Dtype dtype : exporter.dtypes()) names.emplace_back(name_of(dtype));
  return names;
}

}  // namespace

Registry<Exporter>& exporters() {
  static Registry<Exporter> registry("export format");
  return registry;
}

void export_model(Exporter& exporter, Transformer& model, const ExportTarget& target,
                  const Poll& poll) {
  exporter.begin(model, target);
  for_each_block(
      model, [&](Block&, int64_t b) { exporter.add_block(b); }, poll);
  exporter.finish();
}

std::string formats_help() {
  std::string text;
  for (const std::string& name : exporters().names()) {
    text += concat(text.empty() ? "" : "; ", name, ": ", exporters().make(name)->help());
  }
  return text;
}

std::string format_dtypes_help() {
  std::string text;
  for (const std::string& name : exporters().names()) {
    const std::vector<std::string> dtypes = dtype_names(*exporters().make(name));
    if (!dtypes.empty()) text += concat(text.empty() ? "" : "; ", name, ": ", joined(dtypes));
  }
  return text;
}

Dtype export_dtype(const Exporter& exporter, const std::string& option, const std::string& name) {
  const std::vector<Dtype> known = exporter.dtypes();
  if (known.empty()) return Dtype::f32;
  if (name.empty()) return known.front();
  for (const Dtype dtype : known) {
    if (name == name_of(dtype)) return dtype;
  }
  check(false, option, " ", name, ": expected ", joined(dtype_names(exporter), " or "));
  return known.front();
}

void check_exportable(const Exporter& exporter, const ExportPlan& plan, const std::string& option) {
  const std::string obstacle = exporter.obstacle(plan);
  if (obstacle.empty()) return;
  std::vector<std::string> others;
  for (const std::string& name : exporters().names()) {
    if (exporters().make(name)->obstacle(plan).empty()) others.push_back(name);
  }
  const std::string remedy =
      others.empty() ? "no format can hold this result"
                     : concat("this result fits into ", option, " ", joined(others, " or "));
  check(false, option, " ", exporter.name(), ": ", obstacle, "; ", remedy);
}

}  // namespace cbq
