#include "experiments/table_spec.h"

#include <algorithm>
#include <charconv>

#include "cbq/method_parts.h"
#include "cbq/settings.h"
#include "experiments/paper_models.h"
#include "experiments/task_columns.h"
#include "nn/formats/json.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr size_t max_label = 30, max_claim = 40;

bool contains(const std::vector<std::string>& all, const std::string& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

/// A JSON object that remembers where it stands, and which of its fields nobody asked for.
class Fields {
 public:
  Fields(const nlohmann::json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) fail(where_, ": expected an object, got ", json.dump().substr(0, 60));
  }
  const nlohmann::json* find(const std::string& key) {
    asked_.push_back(key);
    const auto found = json_.find(key);
    return found == json_.end() ? nullptr : &*found;
  }
  const nlohmann::json& at(const std::string& key) {
    const nlohmann::json* value = find(key);
    if (value == nullptr) fail(where_, ": field '", key, "' is missing");
    return *value;
  }
  std::string text(const std::string& key) { return json_string(at(key), key, where_); }
  std::string text_or(const std::string& key, const std::string& otherwise) {
    const nlohmann::json* value = find(key);
    return value == nullptr ? otherwise : json_string(*value, key, where_);
  }
  std::vector<std::string> texts(const std::string& key) {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return {};
    if (!value->is_array()) fail(where_, ": ", key, ": expected a list of texts");
    std::vector<std::string> all;
    for (const nlohmann::json& one : *value) all.push_back(json_string(one, key, where_));
    return all;
  }
  const nlohmann::json& list(const std::string& key) {
    const nlohmann::json& value = at(key);
    if (!value.is_array()) fail(where_, ": ", key, ": expected a list, got ", value.type_name());
    return value;
  }
  /// A misspelt field would otherwise be a setting that silently does nothing.
  void nothing_else() const {
    for (const auto& [key, value] : json_.items()) {
      if (!contains(asked_, key)) {
        fail(where_, ": unknown field '", key, "'; known: ", joined(asked_));
      }
    }
  }
  const std::string& where() const { return where_; }

 private:
  const nlohmann::json& json_;
  std::string where_;
  std::vector<std::string> asked_;
};

nlohmann::json read_settings(Fields& fields) {
  const nlohmann::json* value = fields.find("settings");
  if (value == nullptr) return nlohmann::json::object();
  Settings trial;
  try {
    apply_json(trial, *value);
  } catch (const std::invalid_argument& error) {
    fail(fields.where(), ": settings: ", error.what());
  }
  return *value;
}

std::string read_bits(Fields& fields, const std::string& otherwise) {
  const std::string bits = fields.text_or("bits", otherwise);
  try {
    if (!bits.empty()) parse_bits(bits);
  } catch (const std::invalid_argument& error) {
    fail(fields.where(), ": bits: ", error.what());
  }
  return bits;
}

std::vector<std::string> read_metrics(Fields& fields, const std::string& key) {
  const std::vector<std::string> metrics = fields.texts(key);
  for (const std::string& metric : metrics) {
    if (!contains(metric_names(), metric)) {
      fail(fields.where(), ": ", key, ": unknown '", metric, "'; known: ", joined(metric_names()));
    }
  }
  return metrics;
}

void check_length(const Fields& fields, const std::string& key, const std::string& text,
                  size_t most) {
  if (text.empty() || text.size() > most) {
    fail(fields.where(), ": ", key, ": '", text, "' has ", text.size(),
         " characters; expected 1 to ", most, ", so that the table fits a terminal");
  }
}

RowSpec read_row(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  RowSpec row;
  row.name = fields.text("name");
  row.label = fields.text("label");
  check_length(fields, "label", row.label, max_label);
  row.settings = read_settings(fields);
  row.bits = read_bits(fields, "");
  row.group = fields.text_or("group", "");
  if (const nlohmann::json* factor = fields.find("epochs_factor")) {
    row.epochs_factor = json_int(*factor, "epochs_factor", where, 1, 100);
  }
  row.source = fields.texts("source");
  if (const nlohmann::json* paper = fields.find("paper")) {
    Fields values(*paper, where + ": paper");
    for (const std::string& metric : metric_names()) {
      const nlohmann::json* value = values.find(metric);
      if (value != nullptr) row.paper[metric] = json_double(*value, metric, where);
    }
    values.nothing_else();
  }
  fields.nothing_else();
  return row;
}

TrendSpec read_trend(const nlohmann::json& json, const TableSpec& table, const std::string& where) {
  Fields fields(json, where);
  TrendSpec trend;
  trend.claim = fields.text("claim");
  check_length(fields, "claim", trend.claim, max_claim);
  trend.rows = fields.texts("rows");
  if (trend.rows.size() < 2) fail(where, ": rows: a trend needs at least two");
  for (const std::string& name : trend.rows) {
    if (table.find_row(name) == nullptr) fail(where, ": rows: there is no row '", name, "'");
  }
  trend.metrics = read_metrics(fields, "metrics");
  if (trend.metrics.empty()) trend.metrics = {first_text_ppl, second_text_ppl};
  fields.nothing_else();
  return trend;
}

DoubtSpec read_doubt(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  const DoubtSpec doubt{fields.text("where"), fields.at("kept"), fields.text("other"),
                        fields.text("why")};
  fields.nothing_else();
  return doubt;
}

TableKind read_kind(Fields& fields) {
  const std::string kind = fields.text_or("kind", "settings");
  if (kind == "settings") return TableKind::settings;
  if (kind == "components") return TableKind::components;
  if (kind == "hours") return TableKind::hours;
  fail(fields.where(), ": kind: unknown '", kind, "'; known: settings, components, hours");
}

/// Models of the paper, by which --models can name them.
std::vector<std::string> read_models(Fields& fields) {
  std::vector<std::string> models = fields.texts("models");
  for (const std::string& model : models) {
    const PaperModel* known = find_paper_model(model);
    if (known == nullptr || known->name != model) {
      std::vector<std::string> names;
      for (const PaperModel& one : paper_models()) names.push_back(one.name);
      fail(fields.where(), ": models: unknown '", model, "'; known: ", joined(names));
    }
  }
  return models;
}

/// Groups of the rows, which are known only with the table.
void check_groups(const TableSpec& table, const std::string& what) {
  if (table.kind == TableKind::hours && table.models.empty()) {
    fail(what, ": models: a table of hours needs the models whose sizes its hours are for");
  }
  for (const RowSpec& row : table.rows) {
    if (table.kind == TableKind::components && !row.settings.contains("method")) {
      fail(what, ": row '", row.name, "': settings: a row of components names its \"method\"");
    }
    const bool has_values = !row.paper.empty() || table.kind != TableKind::hours;
    if (row.group.empty() && (table.models.empty() || !has_values)) continue;
    if (!contains(table.models, row.group)) {
      fail(what, ": row '", row.name, "': group '", row.group, "' is none of the table's models: ",
           table.models.empty() ? "it has none" : joined(table.models));
    }
  }
}

/// The version's place (ICLR first), the table's number, letters behind it: 3a < 3b < 12 < v4.3.
std::tuple<int, int, std::string> order_of(const TableSpec& table) {
  const std::string version = table.version();
  const size_t begin = version == "iclr" ? 0 : version.size() + 1;
  int number = 0;
  const char* const end = table.key.data() + table.key.size();
  const auto rest = std::from_chars(table.key.data() + begin, end, number).ptr;
  return {version == "iclr" ? 0 : version == "v4" ? 1 : 2, number, std::string(rest, end)};
}

bool key_less(const TableSpec& a, const TableSpec& b) { return order_of(a) < order_of(b); }

std::vector<std::string> all_metrics() {
  std::vector<std::string> names = {first_text_ppl, second_text_ppl, "gpu_memory_gb", "time_hours",
                                    "epochs",       "iterations",    "window_seconds"};
  for (const std::string& name : task_metric_names()) names.push_back(name);
  const MethodFile any = find_method("nearest");
  for (const auto& [component, has] : components_of(any)) names.push_back(component);
  return names;
}

}  // namespace

const std::vector<std::string>& metric_names() {
  static const std::vector<std::string> names = all_metrics();
  return names;
}

std::string DoubtSpec::text() const {
  std::string text = where + ": " + (kept.is_string() ? kept.get<std::string>() : kept.dump());
  if (other != "none" && other != "not known") text += ", or " + other;
  return text + " (" + why + ")";
}

std::string TableSpec::version() const {
  for (const char* earlier : {"v4", "v1"}) {
    if (key.starts_with(concat(earlier, "."))) return earlier;
  }
  return "iclr";
}

const RowSpec* TableSpec::find_row(const std::string& name) const {
  for (const RowSpec& row : rows) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

std::pair<int, int> parse_bits(const std::string& text) {
  int wbits = 0, abits = 0;
  const char* const end = text.data() + text.size();
  const char* at = text.data();
  bool ok = !text.empty() && *at == 'W';
  if (ok) {
    const auto first = std::from_chars(at + 1, end, wbits);
    ok = first.ec == std::errc() && first.ptr != end && *first.ptr == 'A';
    at = first.ptr;
  }
  if (ok) {
    const auto second = std::from_chars(at + 1, end, abits);
    ok = second.ec == std::errc() && second.ptr == end;
  }
  check(ok && wbits >= 1 && wbits <= 16 && abits >= 1 && abits <= 16, "bits '", text,
        "': expected bits of weights and activations, as in W4A4; W2A16 leaves the activations");
  return {wbits, abits};
}

TableSpec parse_table(const nlohmann::json& json, const std::string& what) {
  Fields fields(json, what);
  TableSpec table;
  table.key = fields.text("key");
  table.title = fields.text("title");
  Fields paper(fields.at("paper"), what + ": paper");
  table.paper_tables = paper.texts("tables");
  table.paper_model = paper.text("model");
  table.paper_bits = paper.text("bits");
  table.paper_note = paper.text_or("note", "");
  paper.nothing_else();
  table.kind = read_kind(fields);
  table.bits = read_bits(fields, table.bits);
  table.method = fields.text_or("method", table.method);
  table.models = read_models(fields);
  table.accuracy = fields.text_or("accuracy", table.accuracy);
  if (table.accuracy != "acc" && table.accuracy != "acc_norm") {
    fail(what, ": accuracy: unknown '", table.accuracy, "'; known: acc, acc_norm");
  }
  table.axis = fields.texts("axis");
  table.columns = read_metrics(fields, "columns");
  table.note = fields.text_or("note", "");
  table.settings = read_settings(fields);
  for (const nlohmann::json& row : fields.list("rows")) {
    const std::string where = concat(what, ": rows[", table.rows.size(), "]");
    table.rows.push_back(read_row(row, where));
    const std::string& name = table.rows.back().name;
    if (table.find_row(name) != &table.rows.back()) fail(where, ": a second row '", name, "'");
  }
  if (table.rows.empty()) fail(what, ": rows: a table needs at least one");
  if (const nlohmann::json* trends = fields.find("trends")) {
    if (!trends->is_array()) fail(what, ": trends: expected a list");
    for (const nlohmann::json& trend : *trends) {
      const std::string where = concat(what, ": trends[", table.trends.size(), "]");
      table.trends.push_back(read_trend(trend, table, where));
    }
  }
  if (fields.find("doubts") != nullptr) {
    for (const nlohmann::json& doubt : fields.list("doubts")) {
      table.doubts.push_back(
          read_doubt(doubt, concat(what, ": doubts[", table.doubts.size(), "]")));
    }
  }
  fields.nothing_else();
  check_groups(table, what);
  return table;
}

std::vector<TableSpec> load_tables(const std::filesystem::path& folder) {
  std::vector<TableSpec> all;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".json") continue;
    all.push_back(parse_table(read_json_file(entry.path(), size_t{1} << 20), entry.path()));
  }
  if (all.empty()) {
    fail("no tables (*.json) in ", folder.string(), error ? ": " + error.message() : std::string(),
         "; give their folder with --tables-folder");
  }
  std::sort(all.begin(), all.end(), key_less);
  for (size_t i = 1; i < all.size(); ++i) {
    if (all[i].key == all[i - 1].key) {
      fail(folder.string(), ": two files are table '", all[i].key, "'");
    }
  }
  return all;
}

std::vector<TableSpec> select_tables(const std::vector<TableSpec>& all, const std::string& keys) {
  if (keys == "all") return all;
  std::vector<std::string> wanted, known;
  for (size_t begin = 0; begin <= keys.size();) {
    const size_t end = std::min(keys.find(',', begin), keys.size());
    wanted.push_back(keys.substr(begin, end - begin));
    begin = end + 1;
  }
  for (const TableSpec& table : all) known.push_back(table.key);
  std::vector<TableSpec> chosen;
  for (const std::string& key : wanted) {
    const std::string plain = key.starts_with("iclr.") ? key.substr(5) : key;
    const auto found = std::find(known.begin(), known.end(), plain);
    check(
        found != known.end(), "unknown table '", key, "'; known: ", [&] { return joined(known); },
        ", all");
    chosen.push_back(all[static_cast<size_t>(found - known.begin())]);
  }
  return chosen;
}

}  // namespace cbq
