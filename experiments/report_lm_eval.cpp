// Results in the layout of lm-evaluation-harness 0.4: results[task]["metric,filter"].
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cctype>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>

#include "experiments/report_files.h"

namespace cbq {
namespace {

using nlohmann::json;

/// As the harness makes a folder's name of a model's: what file systems refuse becomes "__".
std::string sanitized(const std::string& name) {
  std::string out;
  for (const char c : name) {
    if (std::string_view("\"<>:/|\\?*[]").find(c) != std::string_view::npos) {
      if (!out.ends_with("__")) out += "__";
    } else {
      out += std::isspace(static_cast<unsigned char>(c)) != 0 ? '_' : c;
    }
  }
  return out;
}

std::tm utc_of(int64_t seconds) { return fmt::gmtime(static_cast<std::time_t>(seconds)); }

json result_of(const TextScore& score, const ReportText& text) {
  json result = {{"alias", text.name},
                 {"perplexity,none", std::exp(score.mean_nll)},
                 {"perplexity_stderr,none", "N/A"},
                 {"nll,none", score.mean_nll},
                 {"nll_stderr,none", "N/A"},
                 {"kl,none", score.kl},
                 {"kl_p99,none", score.kl_p99},
                 {"top1,none", score.top1}};
  if (score.segment_nll.empty()) return result;
  const Estimate loss = mean_per_token({{score.segment_nll}, score.segment_tokens}, text.documents);
  if (loss.has_error()) {
    result["nll_stderr,none"] = loss.error;
    result["perplexity_stderr,none"] = std::exp(score.mean_nll) * loss.error;
  }
  return result;
}

/// What the harness says of every task.
void add_task(const TextScore& score, const ReportText& text, json& content) {
  const std::string& name = text.name;
  const auto samples = score.segment_tokens.size();
  const json higher = {
      {"perplexity", false}, {"nll", false}, {"kl", false}, {"kl_p99", false}, {"top1", true}};
  content["results"][name] = result_of(score, text);
  content["group_subtasks"][name] = json::array();
  content["configs"][name] = {{"task", name},
                              {"output_type", "loglikelihood_rolling"},
                              {"num_fewshot", 0},
                              {"metadata", {{"version", 1.0}, {"scored_tokens", score.tokens}}}};
  content["versions"][name] = 1.0;
  content["n-shot"][name] = 0;
  content["higher_is_better"][name] = higher;
  content["n-samples"][name] = {{"original", samples}, {"effective", samples}};
}

json content_of(const TableReport& report, const ReportRow& row, size_t granularity, size_t seed,
                const std::string& model) {
  const CellResult& cell = row.results[granularity][seed];
  json content = {{"config",
                   {{"model", "cbq"},
                    {"model_args",
                     fmt::format("table={},row={},bits={},granularity={},seed={}", report.spec.key,
                                 row.name, row.bits, report.granularities[granularity], seed)},
                    {"batch_size", nullptr},
                    {"device", cell.device},
                    {"limit", nullptr},
                    {"random_seed", seed}}},
                  {"git_hash", cell.version},
                  {"date", cell.finished},
                  {"model_source", "cbq"},
                  {"model_name", model},
                  {"model_name_sanitized", model},
                  {"total_evaluation_time_seconds", fmt::format("{}", cell.seconds)},
                  {"budget", report.footnotes}};
  for (size_t t = 0; t < cell.texts.size() && t < report.texts.size(); ++t) {
    add_task(cell.texts[t], report.texts[t], content);
  }
  return content;
}

}  // namespace

std::vector<LmEvalFile> to_lm_eval(const TableReport& report) {
  std::vector<LmEvalFile> files;
  for (const ReportRow& row : report.rows) {
    for (size_t g = 0; g < row.results.size(); ++g) {
      for (size_t seed = 0; seed < row.results[g].size(); ++seed) {
        const std::string model =
            sanitized(fmt::format("{}/{}/{}/{}/seed{}", report.spec.key, row.bits, row.name,
                                  report.granularities[g], seed));
        const std::string date =
            fmt::format("{:%Y-%m-%dT%H-%M-%S}.000000", utc_of(row.results[g][seed].finished));
        files.push_back({std::filesystem::path(model) / ("results_" + date + ".json"),
                         content_of(report, row, g, seed, model)});
      }
    }
  }
  return files;
}

}  // namespace cbq
