// Reports for other programs, and the summary of all tables.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "experiments/ablation.h"
#include "experiments/format_text.h"
#include "experiments/report_files.h"
#include "nn/formats/json.h"
#include "tests/fake_ablation.h"
#include "tests/test_data.h"

namespace cbq::test_experiments_report_files {
namespace {

using namespace fake_ablation;

/// The fields of a line of CSV, by RFC 4180.
std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (quoted && line[i] == '"' && i + 1 < line.size() && line[i + 1] == '"') {
      fields.back() += line[i++];
    } else if (line[i] == '"') {
      quoted = !quoted;
    } else if (line[i] == ',' && !quoted) {
      fields.emplace_back();
    } else {
      fields.back() += line[i];
    }
  }
  EXPECT_FALSE(quoted) << line;
  return fields;
}

TEST(Csv, FieldsComeBack) {
  EXPECT_EQ(csv_field("plain text"), "plain text");
  EXPECT_EQ(csv_field("a,b"), "\"a,b\"");
  EXPECT_EQ(csv_field("5\" wide"), "\"5\"\" wide\"");
  EXPECT_EQ(csv_field("two\nlines"), "\"two\nlines\"");
  for (const std::string text : {"", "\"", "a,\"b\",c", ",", "x;y"}) {
    EXPECT_EQ(fields_of(csv_field(text) + "," + csv_field("end")),
              (std::vector<std::string>{text, "end"}));
  }
}

TEST(Csv, OneValueALine) {
  const TemporaryFolder folder;
  Ablation ablation = fakes(folder, 12, 2, {"per-channel", "g64"});
  ablation.texts = {"gcide", "word, \"net\""};
  run(ablation);
  std::istringstream lines(read_text_file(folder / "ablation.csv"));
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(line, "table,bits,row,granularity,text,seed,metric,value,cell");
  std::map<std::string, double> values;
  size_t count = 0;
  while (std::getline(lines, line)) {
    const std::vector<std::string> f = fields_of(line);
    ASSERT_EQ(f.size(), 9u) << line;
    EXPECT_EQ(f[0], "3z");
    EXPECT_EQ(f[8].size(), 32u) << "the name of the cell's file";
    values[f[2] + "|" + f[3] + "|" + f[4] + "|" + f[5] + "|" + f[6]] = std::stod(f[7]);
    ++count;
  }
  EXPECT_EQ(values.size(), count) << "no line twice";
  // 5 rows with values, 2 granularities, 2 seeds; 2 texts of 7 values, 3 values without a text.
  EXPECT_EQ(count, 5u * 2 * 2 * (2 * 7 + 3));
  EXPECT_NEAR(values.at("1/0|g64|gcide|0|perplexity"), 36.0, 1e-12);
  EXPECT_NEAR(values.at("1/0|g64|gcide|1|mean_nll"), std::log(36.0) + 0.01, 1e-14);
  EXPECT_NEAR(values.at("4/3|per-channel|word, \"net\"|0|kl"), 0.8, 1e-12);
  // Deviations 0.01, -0.01, 0.02, -0.02: sqrt(10 / 3) hundredths, over the root of 4 segments.
  EXPECT_NEAR(values.at("1/0|g64|gcide|0|mean_nll_error"), 0.01 * std::sqrt(10.0 / 12.0), 1e-12);
  EXPECT_EQ(values.at("2/1|g64||0|peak_bytes"), 10485760.0);
}

TEST(Latex, EveryCommandIsText) {
  EXPECT_EQ(latex_text(R"(50% & $x_1$ #2 {a} ~ ^ \ "q" <b> |)"),
            R"(50\% \& \$x\_1\$ \#2 \{a\} \textasciitilde{} \textasciicircum{} \textbackslash{} )"
            R"(\textquotedbl{}q\textquotedbl{} \textless{}b\textgreater{} \textbar{})");
  EXPECT_EQ(latex_text("-0.14±0.02"), R"($-$0.14$\pm$0.02)");
  EXPECT_EQ(latex_text("+0.14"), "$+$0.14");
  EXPECT_EQ(latex_text("two-way, -"), "two-way, -");
}

const char* const golden_latex = R"(\begin{table}[htbp]
\centering
\caption{Table 3z: Windows (W2A16, per-channel); paper: LLaMA-7B, W4A4}
\label{tab:3z-W2A16}
\begin{tabular}{lrrrrrrr}
\toprule
 & \multicolumn{2}{c}{gcide as C4} & \multicolumn{2}{c}{wordnet as WikiText-2} & \multicolumn{2}{c}{peak memory} & \multicolumn{1}{c}{time} \\
\cmidrule(lr){2-3}\cmidrule(lr){4-5}\cmidrule(lr){6-7}\cmidrule(lr){8-8}
row & ours & paper & ours & paper & ours & paper & ours \\
\midrule
original model & 20.00 & - & 10.00 & - & 10.5 MB & - & 0.5 s \\
nearest rounding & 1235 & - & 5e$+$07 & - & 10.5 MB & - & 0.5 s \\
\midrule
1 block & 36.00 & 14.57 & 30.00 & 11.98 & 5.2 MB & 17.2 GB & 10.0 s \\
2 blocks, overlap 1 & 32.00 & 13.29 & 30.00 & 10.63 & 10.5 MB & 21.0 GB & 20.0 s \\
= 4 blocks, overlap 3 & 32.00 & 12.32 & 30.00 & 9.45 & 10.5 MB & 39.0 GB & 20.0 s \\
OMSE & - & 25.34 & - & 19.53 & - & - & - \\
\bottomrule
\end{tabular}
\end{table}
)";

TEST(Latex, GoldenTable) {
  const TemporaryFolder folder;
  run(fakes(folder, 2));
  std::string expected = golden_latex;
  expected.replace(expected.find("5e$+$07"), 7, "5e+07");
  const std::string text = read_text_file(folder / "ablation.tex");
  EXPECT_NE(text.find(expected), std::string::npos) << text;
  EXPECT_NE(text.find("\\usepackage{booktabs}"), std::string::npos);
  EXPECT_NE(text.find("\\quad 1/0 -\\textgreater{} 2/1 & lower & $-$0.1178$\\pm$"),
            std::string::npos)
      << text;
}

/// Every start tag has its end, in order; empty elements and the document type aside.
void expect_balanced(const std::string& html) {
  std::vector<std::string> open;
  for (size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const size_t end = html.find('>', at);
    ASSERT_NE(end, std::string::npos);
    const std::string tag = html.substr(at + 1, end - at - 1);
    const bool closes = tag[0] == '/';
    const std::string name = tag.substr(closes ? 1 : 0, tag.find(' ') - (closes ? 1 : 0));
    if (name == "!DOCTYPE" || name == "meta" || tag.back() == '/') continue;
    if (!closes) {
      open.push_back(name);
      continue;
    }
    ASSERT_FALSE(open.empty()) << tag;
    EXPECT_EQ(open.back(), name) << html.substr(at > 80 ? at - 80 : 0, 160);
    open.pop_back();
  }
  EXPECT_TRUE(open.empty());
}

TEST(Html, OnePageWithEverythingInIt) {
  const TemporaryFolder folder;
  Ablation ablation = fakes(folder, 12, 2, {"per-channel", "g64"});
  ablation.texts = {"gcide", "<img src='x'>&\"w\""};
  ablation.plan.tables[0].spec.title = "Windows <script>alert(1)</script>";
  run(ablation);
  const std::string html = read_text_file(folder / "ablation.html");
  expect_balanced(html);
  for (const char* part :
       {"<td>36.18±0.26</td>", "Windows &lt;script&gt;alert(1)&lt;/script&gt;",
        "&lt;img src=&#39;x&#39;&gt;&amp;&quot;w&quot; as WikiText-2", "budget: 8 segments of 16",
        "class=\"verdict agree\">agree</td>", "prefers-color-scheme: dark", "<svg ",
        "id=\"summary\"", "name=\"viewport\""}) {
    EXPECT_NE(html.find(part), std::string::npos) << part;
  }
  EXPECT_EQ(html.find("<script"), std::string::npos);
  for (const char* loads : {"http:", "https:", "src=\"", "url(", "@import", "<link"}) {
    EXPECT_EQ(html.find(loads), std::string::npos) << loads << ": nothing comes from elsewhere";
  }
}

TEST(LmEval, LayoutOfTheHarness) {
  const TemporaryFolder folder;
  run(fakes(folder, 2));
  const auto path = folder / "lm_eval" / "3z__W2A16__1__0__per-channel__seed0" /
                    "results_2026-11-29T23-38-00.000000.json";
  const nlohmann::json json = read_json_file(path);
  const nlohmann::json& result = json.at("results").at("gcide");
  EXPECT_EQ(result.at("alias"), "gcide");
  EXPECT_NEAR(result.at("perplexity,none").get<double>(), 36.0, 1e-12);
  EXPECT_NEAR(result.at("perplexity_stderr,none").get<double>(),
              36.0 * 0.01 * std::sqrt(10.0 / 12.0), 1e-10);
  EXPECT_NEAR(result.at("top1,none").get<double>(), 0.5, 1e-12);
  for (const char* field :
       {"group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples"}) {
    EXPECT_TRUE(json.at(field).contains("gcide")) << field;
    EXPECT_TRUE(json.at(field).contains("wordnet")) << field;
  }
  EXPECT_EQ(json.at("n-samples").at("gcide").at("effective"), 4);
  EXPECT_EQ(json.at("higher_is_better").at("gcide").at("perplexity"), false);
  EXPECT_EQ(json.at("config").at("model_args"),
            "table=3z,row=1/0,bits=W2A16,granularity=per-channel,seed=0");
  EXPECT_EQ(json.at("date"), 1795995480);
  EXPECT_EQ(json.at("model_name_sanitized"), "3z__W2A16__1__0__per-channel__seed0");
  size_t folders = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator(folder / "lm_eval")) {
    ++folders;
  }
  EXPECT_EQ(folders, 5u) << "one for each row that has a value";
}

// The made-up cells: gcide falls with the window as in the paper, wordnet stays.
TEST(Summary, CountsThePairsOfThePaper) {
  const TemporaryFolder folder;
  run(fakes(folder, 12));
  const nlohmann::json json = read_json_file(folder / "ablation_summary.json");
  EXPECT_EQ(json.at("tables"), 1);
  // Four rows of the paper, six pairs for each text; OMSE has no value here.
  EXPECT_EQ(
      json.at("pairs"),
      nlohmann::json(
          {{"holds", 3}, {"refuted", 0}, {"not_resolved", 3}, {"same_cell", 0}, {"open", 6}}));
  const std::string markdown = read_text_file(folder / "ablation.md");
  EXPECT_NE(markdown.find("## Summary\n\n- pairwise orderings of the paper's perplexities "
                          "(1 table): 3 hold, 0 refuted, 3 not resolved, 6 without a value here\n"),
            std::string::npos)
      << markdown;
}

TEST(Summary, ALineForWhatIsRefuted) {
  const TemporaryFolder folder;
  Ablation ablation = fakes(folder, 12);
  for (PlannedRow& row : ablation.plan.tables[0].rows) {
    if (row.spec.name == "1/0") row.spec.paper["c4_ppl"] = 13.0;  // now below 2/1, above 4/3
  }
  const std::string text = run(ablation);
  const nlohmann::json json = read_json_file(folder / "ablation_summary.json");
  EXPECT_EQ(json.at("pairs").at("holds"), 2);
  EXPECT_EQ(json.at("pairs").at("refuted"), 1);
  ASSERT_EQ(json.at("refuted").size(), 1u);
  // ln(36 / 32) = 0.1178; deviations of 0.01 nats times 1, -1, 2, -2 over four segments.
  EXPECT_EQ(json.at("refuted")[0],
            "Table 3z, gcide as C4: the paper has 13.00 for 1 block, below 13.29 for 2 blocks, "
            "overlap 1; here it is above, by 0.1178 ± 0.0091 nats");
  EXPECT_NE(text.find("refuted: Table 3z"), std::string::npos) << text;
}

TEST(Summary, RowsOfOtherBitsAreNotCompared) {
  const TemporaryFolder folder;
  Ablation ablation = fakes(folder, 12);
  ablation.plan.tables[0].rows[2].bits = "W4A4";
  run(ablation);
  const nlohmann::json json = read_json_file(folder / "ablation_summary.json");
  EXPECT_EQ(json.at("pairs").at("holds"), 1) << "2/1 and 4/3 remain";
  EXPECT_EQ(json.at("pairs").at("not_resolved"), 1);
}

TEST(Documents, SegmentsOfOneDocumentCountOnce) {
  const TemporaryFolder folder, clustered_folder;
  run(fakes(folder, 12));
  Ablation clustered = fakes(clustered_folder, 12);
  clustered.documents = {{3, 8, 3, 8}, {}};
  run(clustered);
  const std::string apart = read_text_file(folder / "ablation.md");
  const std::string together = read_text_file(clustered_folder / "ablation.md");
  EXPECT_NE(apart.find("4 segments of gcide, 4 segments of wordnet"), std::string::npos) << apart;
  EXPECT_NE(together.find("2 documents of gcide, 4 segments of wordnet"), std::string::npos)
      << together;
  // Deviations of a document: 0.01 (1 + 2) / 2 and the same below; sqrt(2 * 0.015^2 / 1 / 2).
  EXPECT_NE(apart.find("-0.1178±0.0091 | agree"), std::string::npos) << apart;
  EXPECT_NE(together.find("-0.118±0.015 | not resolved"), std::string::npos) << together;
}

}  // namespace
}  // namespace cbq::test_experiments_report_files
