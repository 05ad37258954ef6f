#include "tools/cli/model_card.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cbq/method_parts.h"
#include "cbq/methods.h"
#include "nn/formats/atomic_file.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace cbq::cli {
namespace {

constexpr const char* mark = "quantized_by: cbq";

std::string dashed(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string text_of(const json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

/// As a word of a shell.
std::string quoted(const std::string& word) {
  const bool is_plain =
      !word.empty() && word.find_first_of(" '\"\\$`*?[](){}<>|&;#!~") == std::string::npos;
  if (is_plain) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

/// What the method itself would set; null where it is not known here.
json method_values(const Settings& settings) {
  try {
    return to_json(method_settings(settings.method, settings.wbits, settings.abits));
  } catch (const std::exception&) {  // a file that lies elsewhere, or another program's method
    return nullptr;
  }
}

/// What a path ends with. The folders in front of it are those of this machine, and a card is read
/// on others.
std::string last_part(const std::string& path) {
  const fs::path whole = fs::absolute(path).lexically_normal();
  return whole.has_filename() ? whole.filename() : whole.parent_path().filename();
}

std::string command_of(const json& recipe, const Settings& settings) {
  const json& identity = recipe.at("identity");
  const json& calibration = recipe.at("calibration");
  std::string command = "cbq quantize " + quoted(last_part(text_of(recipe.at("model")))) +
                        " -o FOLDER" + " --method " + quoted(settings.method);
  const auto option = [&](const std::string& name, const std::string& value) {
    command += " --" + dashed(name) + " " + quoted(value);
  };
  const json known = method_values(settings), all = to_json(settings);
  for (const auto& [name, value] : all.items()) {
    if (name == "method") continue;
    const bool is_bits = name == "wbits" || name == "abits";
    if (!is_bits && known.is_object() && known.value(name, json()) == value) continue;
    if (name == "granularity" && settings.group_size > 0) continue;  // follows from the size
    if (value.is_boolean()) {
      command += (value.get<bool>() ? " --" : " --no-") + dashed(name);
    } else {
      option(name, text_of(value));
    }
  }
  if (calibration.at("protocol") != "none needed") {
    option("calibration", last_part(text_of(calibration.at("source"))));
    option("segments", calibration.at("segments").dump());
    option("segment_length", calibration.at("tokens").dump());
  }
  option("dtype", text_of(recipe.at("dtype")));
  option("export", text_of(identity.at("export_format")));
  const std::string dtype = identity.value("export_dtype", "");
  if (!dtype.empty()) option("export_dtype", dtype);
  return command;
}

/// Lines of a table: perplexity of every text before and after.
std::string figures_of(const json& report) {
  const json none = json::object();
  const auto results = [&](const char* key) {
    return report.contains(key) ? report.at(key).value("results", none) : none;
  };
  const json before = results("original"), after = results("quantized");
  std::string lines;
  for (const auto& [name, score] : after.items()) {
    const json original = before.value(name, none);
    const auto perplexity = [](const json& s) {
      return s.contains("perplexity") ? fmt::format("{:.4f}", s["perplexity"].get<double>()) : "-";
    };
    lines += fmt::format("| {} | {} | {} | {} |\n", name, perplexity(original), perplexity(score),
                         score.value("tokens", json(0)).dump());
  }
  if (lines.empty()) return "Perplexity was not measured on this folder.\n";
  return "| text | perplexity, original | quantized | tokens |\n|---|---|---|---|\n" + lines;
}

std::string table_of(const json& recipe, const Settings& settings) {
  const json& calibration = recipe.at("calibration");
  std::string rows;
  const auto row = [&](const std::string& name, const std::string& value) {
    rows += "| " + name + " | " + value + " |\n";
  };
  row("method", settings.method);
  row("bits", fmt::format("W{}A{}", settings.wbits, settings.abits) +
                  (settings.layer_bits.empty() ? "" : ", by layer: `" + settings.layer_bits + "`"));
  for (const auto& [slot, part] : parts_of(settings)) {
    if (part != "-") row(slot, part);
  }
  row("type of the scales", settings.scale_type);
  if (calibration.at("protocol") != "none needed") {
    row("calibration", fmt::format("{} segments of {} tokens", calibration.at("segments").dump(),
                                   calibration.at("tokens").dump()));
  }
  row("seed", std::to_string(settings.seed));
  return "| setting | value |\n|---|---|\n" + rows;
}

/// The licence that the model's own card names, with its key; it holds for this model, too.
std::string licence_lines(const fs::path& folder) {
  std::ifstream in(folder / card_name);
  std::string line, lines;
  if (!std::getline(in, line) || line != "---") return "";
  while (std::getline(in, line) && line != "---") {
    if (line.starts_with("license")) lines += line + "\n";
  }
  return lines;
}

}  // namespace

bool is_model_card(const fs::path& file) {
  const std::string name = file.filename().string();
  if (name != card_name && name != second_card_name) return false;
  std::ifstream in(file);
  std::string line;
  for (int i = 0; i < 16 && std::getline(in, line); ++i) {
    if (line.starts_with(mark)) return true;
  }
  return false;
}

void write_model_card(const fs::path& folder, const json& recipe, const json& report) {
  Settings settings;
  apply_json(settings, recipe.at("settings"));
  const fs::path first = folder / card_name;
  std::error_code absent;
  const bool is_taken = fs::exists(fs::symlink_status(first, absent)) && !is_model_card(first);
  const std::string model = last_part(text_of(recipe.at("model")));
  const std::string format = text_of(recipe.at("identity").at("export_format"));
  const std::string bits = fmt::format("W{}A{}", settings.wbits, settings.abits);
  std::string card = "---\n";
  card += "base_model: " + json(model).dump() + "\nbase_model_relation: quantized\n";
  card += std::string(mark) + " " + text_of(recipe.at("cbq_version")) + "\n";
  if (is_taken) card += licence_lines(folder);
  card += "tags:\n- quantized\n- cbq\n- " + format + "\n---\n\n";
  card += "# " + model + ", " + bits + "\n\n";
  card += "The weights of " + model + " in " + bits + ", in the format `" + format +
          "`. `recipe.json` beside this file has every setting.\n\n";
  card += table_of(recipe, settings) + "\n" + figures_of(report) + "\n";
  card += "Made with\n\n```\n" + command_of(recipe, settings) + "\n```\n";
  write_text_atomically(is_taken ? folder / second_card_name : first, card);
}

}  // namespace cbq::cli
