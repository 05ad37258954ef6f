#include "experiments/report_files.h"

#include <nlohmann/json.hpp>

#include "nn/formats/atomic_file.h"

namespace cbq {
namespace {

void write_lm_eval(const std::filesystem::path& folder, const TableReport& report) {
  for (const LmEvalFile& file : to_lm_eval(report)) {
    const std::filesystem::path path = folder / file.path;
    std::filesystem::create_directories(path.parent_path());
    write_text_atomically(path, file.content.dump(2) + "\n");
  }
}

}  // namespace

void write_reports(const std::filesystem::path& folder, const std::vector<TableReport>& reports,
                   const Summary& summary, const std::vector<Figure>& figures) {
  nlohmann::json json = nlohmann::json::array();
  std::string markdown;
  for (const TableReport& report : reports) {
    json.push_back(to_json(report));
    markdown += to_markdown(report) + "\n";
  }
  if (!reports.empty()) write_lm_eval(folder / "lm_eval", reports.back());
  const std::pair<const char*, std::string> files[] = {
      {"ablation.json", json.dump(2) + "\n"},
      {"ablation_summary.json", to_json(summary).dump(2) + "\n"},
      {"ablation.md", markdown + to_markdown(summary)},
      {"ablation.csv", to_csv(reports)},
      {"ablation.tex", to_latex(reports)},
      {"ablation.html", to_html(reports, summary, figures)}};
  for (const auto& [name, text] : files) write_text_atomically(folder / name, text);
}

}  // namespace cbq
