// Short texts that stand on a command line or in a recipe.
#include "cbq/settings.h"
#include "cbq/window.h"
#include "experiments/plan.h"
#include "experiments/table_spec.h"
#include "nn/text/tokens.h"
#include "quant/solvers/solver.h"
#include "quant/transforms/local/preprocessor.h"
#include "tensor/runtime/device.h"
#include "tests/fuzz/fuzz.h"

namespace fs = std::filesystem;

namespace cbq::fuzz {
namespace {

// Linux hands no longer argument to a program.
constexpr size_t longest_argument = size_t{128} << 10;

bool add_string(const std::string& name, const std::vector<std::string>& seeds,
                const std::vector<std::string>& names,
                const std::function<void(const std::string&)>& run) {
  return add_target(
      {.name = "string_" + name,
       .format = Format::text,
       .file = "text",
       .seeds =
           [seeds](const fs::path& folder) {
             for (size_t i = 0; i < seeds.size(); ++i) {
               write_seed(folder, i, "text", seeds[i]);
             }
           },
       .run = [run](const fs::path& file) { run(read_bytes(file).substr(0, longest_argument)); },
       .names = names,
       .damage = {}});
}

const bool schedule =
    add_string("schedule", {"0,0-1,1-2,2-3", "0-3", "0-1, 1-2 ,2-3"}, {"schedule: "},
               [](const std::string& text) { to_string(parse_schedule(text, 4)); });

const bool layer_bits = add_string(
    "layer_bits", {"down_proj=4", "*.0.mlp.*=8,down_proj=2,?=3", "a=16"}, {"layer_bits: "},
    [](const std::string& text) {
      Settings settings;
      settings.layer_bits = text;
      validate(settings, 4);
      for (const char* layer : {"model.layers.0.mlp.down_proj", "aaaaaaaaaaaaaaaaaaaaaaaa"}) {
        settings.weight_config(layer, false);
      }
      check_layer_bits(settings, {"model.layers.0.mlp.down_proj", "a"});
    });

const bool preprocess = add_string("preprocess",
                                   {"none", "cfp_weight_activation", "outliers:4x30+smoothquant",
                                    "omse+percentile", "outlier_suppression"},
                                   {"pre-processing", "outliers: "},
                                   [](const std::string& text) { parse_preprocessors(text); });

const bool solver = add_string("solver", {"gptq", "gptq:damping=0.05,act_order,block=32"},
                               {"solver"}, [](const std::string& text) {
                                 // What a solver says of its arguments means the same solver.
                                 const std::string whole = canonical_solver(text);
                                 if (whole != text) parse_solver(whole);
                               });

const bool bits = add_string("bits", {"W4A4", "W2A16"}, {"bits "},
                             [](const std::string& text) { parse_bits(text); });

const bool granularity =
    add_string("granularity", {"per-channel", "per-tensor", "g64"}, {"granularity"},
               [](const std::string& text) { parse_granularity(text); });

const bool device = add_string("device", {"cpu", "auto"}, {"device"},
                               [](const std::string& text) { device_from_name(text); });

const bool token_source = add_string("token_source", {"a/b.json:test", "x.h5", "text.txt"}, {},
                                     [](const std::string& text) {
                                       const TokenSource source = TokenSource::parse(text);
                                       source.name();
                                       source.holds_ids();
                                     });

const bool axis = add_string("axis", {"window=1,2,4", "rounding=", "l2=sum,mean", "rate_scale=0.1"},
                             {"axis: ", "expected", "range"}, [](const std::string& text) {
                               const size_t equals = text.find('=');
                               std::vector<std::string> values;
                               for (size_t at = equals; at < text.size();) {
                                 const size_t end = std::min(text.find(',', at + 1), text.size());
                                 if (end > at + 1)
                                   values.push_back(text.substr(at + 1, end - at - 1));
                                 at = end;
                               }
                               axis_table(text.substr(0, equals), values, 4);
                             });

const bool environment_table =
    add_string("tables", {"all", "3a,3b", "12"}, {"unknown table"}, [](const std::string& text) {
      static const auto all = load_tables(fs::path(CBQ_SOURCE_DIR) / "experiments/tables");
      select_tables(all, text);
    });

}  // namespace
}  // namespace cbq::fuzz
