// A run of run_ablation whose cells are made up: numbers that say which cell they are of.
#pragma once

#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "experiments/ablation.h"
#include "nn/formats/json.h"
#include "tests/test_data.h"

namespace cbq::fake_ablation {

inline TableSpec window_table() {
  return parse_table(parse_json(R"({
    "key": "3z", "title": "Windows",
    "paper": {"tables": ["iclr.3z"], "model": "LLaMA-7B", "bits": "W4A4"},
    "method": "cbq_windows",
    "columns": ["gpu_memory_gb", "time_hours"],
    "rows": [
      {"name": "1/0", "label": "1 block", "settings": {"window": 1, "overlap": 0},
       "paper": {"c4_ppl": 14.57, "wikitext2_ppl": 11.98, "gpu_memory_gb": 17.2}},
      {"name": "2/1", "label": "2 blocks, overlap 1", "settings": {"window": 2, "overlap": 1},
       "paper": {"c4_ppl": 13.29, "wikitext2_ppl": 10.63, "gpu_memory_gb": 21}},
      {"name": "4/3", "label": "4 blocks, overlap 3", "settings": {"window": 4, "overlap": 3},
       "paper": {"c4_ppl": 12.32, "wikitext2_ppl": 9.45, "gpu_memory_gb": 39}},
      {"name": "omse", "label": "OMSE", "settings": {"preprocess": "omse"},
       "paper": {"c4_ppl": 25.34, "wikitext2_ppl": 19.53}}
    ],
    "trends": [
      {"claim": "wider is better", "rows": ["1/0", "2/1", "4/3"]},
      {"claim": "OMSE against none", "rows": ["2/1", "omse"]},
      {"claim": "memory grows", "rows": ["1/0", "2/1"], "metrics": ["gpu_memory_gb"]}]})",
                                "test"),
                     "test");
}

/// A text of four segments of 25 tokens whose losses lie around the mean by `spread` nats.
inline TextScore fake_text(double perplexity, double spread, double kl) {
  TextScore text;
  text.mean_nll = std::log(perplexity);
  text.tokens = 100;
  text.kl = kl;
  text.kl_p99 = 4.0 * kl;
  text.top1 = kl == 0.0 ? 1.0 : 0.5;
  for (const double away : {1.0, -1.0, 2.0, -2.0}) {
    text.segment_tokens.push_back(25);
    text.segment_nll.push_back(25.0 * (text.mean_nll + away * spread));
    text.segment_kl.push_back(25.0 * kl);
    text.segment_agreed.push_back(kl == 0.0 ? 25 : 12);
  }
  return text;
}

/// Perplexities that say which cell they are of.
inline CellResult fake_result(const Cell& cell) {
  const Settings& s = cell.settings;
  const auto window = static_cast<double>(s.window);
  double c4 = 20.0, wiki = 10.0;
  if (s.wbits < 16) c4 = s.reconstruct == "none" ? 1234.5 : 40.0 - 4.0 * window;
  if (s.wbits < 16) wiki = s.reconstruct == "none" ? 5e7 : 30.0;
  c4 *= std::exp(0.01 * static_cast<double>(s.seed));
  CellResult result;
  const double kl = s.wbits < 16 ? 0.1 * window : 0.0;
  result.texts = {fake_text(c4, 0.01 * window, kl), fake_text(wiki, 0.02 * window, 2.0 * kl)};
  result.seconds = s.reconstruct == "none" ? 0.5 : 10.0 * window;
  result.peak_bytes = (int64_t{1} << 20) * 5 * s.window;
  result.version = "v1";
  result.device = "cpu";
  result.finished = 1795995480;  // 2026-11-29 23:38:00 UTC
  return result;
}

inline Ablation fakes(const TemporaryFolder& folder, int64_t blocks, int64_t seeds = 1,
                      const std::vector<std::string>& granularities = {"per-channel"}) {
  Ablation ablation;
  PlanOptions options;
  options.seeds = seeds;
  options.granularities.clear();
  for (const std::string& name : granularities) {
    options.granularities.push_back(parse_granularity(name));
  }
  ablation.inputs = {"model", "calibration", "texts"};
  const PlanModel model = {blocks, [](const Settings& s) -> std::string {
                             return s.preprocess == "omse" ? "unknown preprocessor 'omse'" : "";
                           }};
  ablation.plan = make_plan({window_table()}, model, options, ablation.inputs);
  ablation.runner = [](const Cell& cell, const std::function<void(double)>& show) {
    show(0.5);
    return fake_result(cell);
  };
  ablation.texts = {"gcide", "wordnet"};
  ablation.budget = {"budget: 8 segments of 16 tokens"};
  ablation.version = "v1";
  ablation.output = folder.path();
  return ablation;
}

inline std::string run(const Ablation& ablation) {
  std::ostringstream out, log;
  Progress progress(log, false);
  run_ablation(ablation, out, progress);
  return out.str();
}

}  // namespace cbq::fake_ablation
