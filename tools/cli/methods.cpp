// cbq methods: which published methods there are, and what each is made of.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>

#include "cbq/method_parts.h"
#include "experiments/table_spec.h"
#include "tools/cli/command.h"

using nlohmann::json;

namespace cbq::cli {
namespace {

struct Options {
  std::string name;
  std::string bits;
  std::optional<int> wbits, abits;  // none: the method's example
  bool components = false, json = false;
};

using Row = std::vector<std::string>;

/// The first row is the heading.
void print_table(const std::vector<Row>& rows) {
  std::vector<size_t> widths;
  for (const Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  for (const Row& row : rows) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) line += fmt::format("{:<{}}  ", row[c], widths[c]);
    line.erase(line.find_last_not_of(' ') + 1);
    std::cout << line << "\n";
  }
}

std::string in_words(const json& value) {
  if (!value.is_string()) return value.dump();
  return value.get_ref<const std::string&>().empty() ? "-" : value.get<std::string>();
}

Settings example_of(const MethodFile& method) {
  const auto [wbits, abits] = example_bits(method);
  return method.at(wbits, abits);
}

void list_parts() {
  std::vector<Row> rows = {{"name", "title"}};
  for (const std::string& name : method_names()) {
    const MethodFile method = find_method(name);
    Row row = {name, method.title};
    const bool is_first = rows.size() == 1;
    for (const auto& [slot, part] : parts_of(example_of(method))) {
      if (is_first) rows.front().push_back(slot);
      row.push_back(part);
    }
    rows.push_back(std::move(row));
  }
  print_table(rows);
  std::cout << "\ncbq methods NAME explains one; --components: the paper's table of components\n";
}

void list_components() {
  std::vector<Row> rows = {{"name"}};
  for (const std::string& name : method_names()) {
    Row row = {name};
    const bool is_first = rows.size() == 1;
    for (const auto& [component, has] : components_of(find_method(name))) {
      if (is_first) rows.front().push_back(component);
      row.emplace_back(has ? "x" : "-");
    }
    rows.push_back(std::move(row));
  }
  print_table(rows);
}

json to_json(const MethodFile& method) {
  json parts = json::object(), components = json::object();
  for (const auto& [slot, part] : parts_of(example_of(method))) parts[slot] = part;
  for (const auto& [component, has] : components_of(method)) components[component] = has;
  return {{"name", method.name},   {"title", method.title}, {"source", method.source},
          {"notes", method.notes}, {"parts", parts},        {"components", components}};
}

/// The method at the bits that were asked for, in part or not at all.
Settings asked_settings(const MethodFile& method, const Options& o) {
  auto [wbits, abits] = example_bits(method);
  // As `cbq quantize` takes them: what is not given stays in floating point.
  if (o.wbits || o.abits) std::tie(wbits, abits) = std::pair(4, float_bits);
  if (!o.bits.empty()) std::tie(wbits, abits) = parse_bits(o.bits);
  wbits = o.wbits.value_or(wbits);
  abits = o.abits.value_or(abits);
  Settings settings = method.at(wbits, abits);
  validate_values(settings);
  return settings;
}

void explain(const MethodFile& method, const Settings& settings) {
  std::cout << method.name << ": " << method.title << "\nsource: " << method.source << "\n\n";
  std::vector<Row> rows = {
      {"slot", "setting", fmt::format("W{}A{}", settings.wbits, settings.abits), "without method"}};
  const char* last = "";
  for (const SlotSetting& s : slot_settings(settings)) {
    const char* slot = name_of(s.slot);
    rows.push_back({slot == last ? "" : slot, s.name, in_words(s.value),
                    s.value == s.standard ? "" : in_words(s.standard)});
    last = slot;
  }
  print_table(rows);
  std::cout << "\ndefault: given where it is another value\n";
  if (!settings.reconstructs()) {
    std::cout << "nothing is learned: no window, rounding, rate or loss\n";
  }
  if (!method.notes.empty()) std::cout << "\nnotes:\n";
  for (const std::string& note : method.notes) std::cout << "- " << note << "\n";
}

json explained(const MethodFile& method, const Settings& settings) {
  json all = to_json(method);
  all["wbits"] = settings.wbits;
  all["abits"] = settings.abits;
  all["parts"] = json::object();
  for (const auto& [slot, part] : parts_of(settings)) all["parts"][slot] = part;
  json& slots = all["slots"] = json::object();
  for (const SlotSetting& s : slot_settings(settings)) {
    slots[name_of(s.slot)][s.name] = {{"value", s.value}, {"default", s.standard}};
  }
  all["settings"] = cbq::to_json(settings);
  return all;
}

void show(const Options& o) {
  if (!o.name.empty()) {
    check(!o.components, "--components: is a table of all methods; leave ", o.name, " out");
    const MethodFile method = find_method(o.name);
    const Settings settings = asked_settings(method, o);
    if (o.json) {
      std::cout << explained(method, settings).dump(2) << "\n";
    } else {
      explain(method, settings);
    }
    return;
  }
  check(o.bits.empty() && !o.wbits && !o.abits,
        "bits: of which method? as in cbq methods cbq --wbits 2");
  if (!o.json) return o.components ? list_components() : list_parts();
  json all = json::array();
  for (const std::string& name : method_names()) all.push_back(to_json(find_method(name)));
  std::cout << all.dump(2) << "\n";
}

}  // namespace

Action setup_methods(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("name", o->name, "method to explain, or a file PATH.json; without: list all");
  app.add_option("--bits", o->bits, "bits to explain it at, as W2A16");
  app.add_option("--wbits", o->wbits, "bits of the weights to explain it at");
  app.add_option("--abits", o->abits, "bits of the activations to explain it at");
  app.add_flag("--components", o->components, "which components each has, as the paper's table 4");
  app.add_flag("--json", o->json, "for programs");
  return [o] { show(*o); };
}

}  // namespace cbq::cli
