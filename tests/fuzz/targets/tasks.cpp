// Zero-shot tasks: every data set's own files, and request files.
#include "experiments/tasks/data_sets.h"
#include "experiments/tasks/request_file.h"
#include "tests/fuzz/fuzz.h"

namespace fs = std::filesystem;

namespace cbq::fuzz {
namespace {

struct DataSet {
  const char* task;
  const char* file;  // below the folder of data sets
  Format format;
  std::vector<const char*> rows;  // each a seed
};

const std::vector<DataSet>& data_sets() {
  static const std::vector<DataSet> all = {
      {"piqa",
       "piqa/valid.jsonl",
       Format::json,
       {R"({"goal": "Cool soup", "sol1": "Blow on it. ", "sol2": "S\u00fc\u00df it.", "label": 1})"}},
      {"hellaswag",
       "hellaswag/hellaswag_val.jsonl",
       Format::json,
       {R"({"activity_label": "Baking", "ctx_a": " [header] A man [step] it.", "ctx_b": "the DOUGH",
            "label": "2", "endings": ["rises [substeps].", " sings [title] it.", "a [b\nc] d"]})",
        R"({"query": "A man", "choices": ["sings.", "eats."], "label": 1})"}},
      {"arc_easy",
       "arc/arc_easy_test.jsonl",
       Format::json,
       {R"({"question": "What melts?", "choices": ["ice", "iron"], "label": 0})",
        R"({"question": "What?", "choices": {"text": ["ice", "b"], "label": ["1", "2"]}, "answerKey": "1"})",
        R"({"question": {"stem": "What?", "choices": [{"text": "ice", "label": "A"},
            {"text": "iron", "label": "B"}]}, "answerKey": "A"})"}},
      {"openbookqa",
       "openbookqa/test.jsonl",
       Format::json,
       {R"({"question_stem": "The sun is", "choices": {"text": ["a star", "wet"], "label": ["A", "B"]},
            "answerKey": "A "})"}},
      {"winogrande",
       "winogrande/dev.jsonl",
       Format::json,
       {R"({"sentence": "The cup fell as _ was round. ", "option1": "the cup", "option2": "Ann",
            "answer": "2"})"}},
      {"mutual",
       "mutual/mutual_dev.jsonl",
       Format::json,
       {R"({"answers": "B", "options": ["m : do n't !", "f : `` yes '' ."],
            "article": "m : it 's , well ?", "id": "x"})"}},
      {"lambada",
       "lambada/lambada_test.jsonl",
       Format::json,
       {R"({"text": "They gave the dog a bone"})"}},
      {"ethics_cm",
       "ethics/cm_test.csv",
       Format::text,
       {"label,input,is_short\n1,\"I said \"\"no\"\",\nand left.\",True\n0,I ate.,True\n"}},
      {"ethics_deontology",
       "ethics/deontology_test.csv",
       Format::text,
       {"label,scenario,excuse\r\n0,Will you cook?,No as I ate. \r\n"}},
      {"ethics_justice",
       "ethics/justice_test.csv",
       Format::text,
       {"label,scenario\n1,I paid her.\n0,\"a, b\"\n"}},
      {"ethics_virtue",
       "ethics/virtue_test.csv",
       Format::text,
       {"label,scenario\n1,He gave all. [SEP] generous\n"}},
      {"ethics_utilitarianism",
       "ethics/ethics_utilitarianism.jsonl",
       Format::json,
       {R"({"task": "ethics_utilitarianism", "doc_id": 0, "idx": 0, "context": "c", "continuation": " a"})"}},
  };
  return all;
}

/// JSON rows stand on one line each.
std::string on_one_line(std::string text, Format format) {
  if (format == Format::json) std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

bool add_data_sets() {
  for (const DataSet& set : data_sets()) {
    const auto seeds = [&set](const fs::path& folder) {
      size_t number = 0;
      for (const char* row : set.rows) {
        const std::string text = on_one_line(row, set.format);
        write_seed(folder, number++, set.file, text);
        if (set.format == Format::json && std::string(set.task) != "ethics_utilitarianism") {
          write_seed(folder, number++, set.file, text + "\n\n" + text + "\n");
        }
      }
    };
    const auto run = [&set](const fs::path& file) {
      load_task(set.task, file.parent_path().parent_path());
    };
    add_target({std::string("task_") + set.task, set.format, set.file, seeds, run, {}, {}});
  }
  return true;
}

const bool all_data_sets = add_data_sets();

const bool piqa_labels = add_target(
    {.name = "task_piqa_labels",
     .format = Format::text,
     .file = "piqa/valid-labels.lst",
     .seeds =
         [](const fs::path& folder) {
           const std::string row = R"({"goal": "a", "sol1": "b", "sol2": "c"})";
           write_seed(folder, 0, "piqa/valid.jsonl", row + "\n" + row + "\n");
           write_seed(folder, 0, "piqa/valid-labels.lst", "0\n1\n");
         },
     .run = [](const fs::path& file) { load_task("piqa", file.parent_path().parent_path()); }});

const bool mutual_folder =
    add_target({.name = "task_mutual_folder",
                .format = Format::json,
                .file = "mutual/dev/dev_1.txt",
                .seeds =
                    [](const fs::path& folder) {
                      const char* row =
                          R"({"answers": "A", "options": ["m : a", "f : b"], "article": "m : c"})";
                      write_seed(folder, 0, "mutual/dev/dev_1.txt", row);
                      write_seed(folder, 0, "mutual/dev/dev_2.txt", row);
                    },
                .run =
                    [](const fs::path& file) {
                      load_task("mutual", file.parent_path().parent_path().parent_path());
                    }});

const bool requests = add_target(
    {.name = "request_file",
     .format = Format::json,
     .file = "requests.jsonl",
     .seeds =
         [](const fs::path& folder) {
           write_seed(
               folder, 0, "requests.jsonl",
               R"({"task": "b", "doc_id": 1, "idx": 1, "context": "c1", "continuation": " second", "gold": 1}
{"task": "b", "doc_id": 0, "idx": 0, "context": "c0", "continuation": " only", "choice": "\u00e9"}
{"task": "b", "doc_id": 1, "idx": 0, "context": "c1", "continuation": " first", "gold": 1}
{"task": "mutual_x", "doc_id": 7, "idx": 0, "context": "", "continuation": "a", "gold": null}
)");
         },
     .run = [](const fs::path& file) { read_request_file(file); }});

}  // namespace
}  // namespace cbq::fuzz
