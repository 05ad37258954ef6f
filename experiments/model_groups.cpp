#include "experiments/model_groups.h"

#include <algorithm>
#include <set>

#include "experiments/paper_models.h"
#include "tensor/error.h"

namespace cbq {
namespace {

/// The models that a table is about.
std::vector<std::string> models_of(const TableSpec& table) {
  if (!table.models.empty()) return table.models;
  const PaperModel* only = find_paper_model(table.paper_model);
  return only == nullptr ? std::vector<std::string>() : std::vector<std::string>{only->name};
}

std::string family_of(const std::string& model) {
  const PaperModel* known = find_paper_model(model);
  return known == nullptr ? "" : known->family;
}

std::string joined(const std::set<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

/// The name as tables have it: LLaMA-7B is LLAMA1-7B.
std::string plain_name(const std::string& name) {
  const PaperModel* known = find_paper_model(name);
  return known == nullptr ? name : known->name;
}

std::optional<size_t> find_named(const std::vector<NamedModel>& named, const std::string& name) {
  for (size_t i = 0; i < named.size(); ++i) {
    if (named[i].name == name) return i;
  }
  return std::nullopt;
}

/// The first of `named` that is one of the models, and of this family.
std::optional<size_t> find_of_family(const std::vector<NamedModel>& named,
                                     const std::vector<std::string>& models,
                                     const std::string& family) {
  for (size_t i = 0; i < named.size(); ++i) {
    const bool is_here = std::find(models.begin(), models.end(), named[i].name) != models.end();
    if (is_here && family_of(named[i].name) == family) return i;
  }
  return std::nullopt;
}

struct KnownNames {
  std::set<std::string> models, families;
};

KnownNames known_names(const std::vector<TableSpec>& tables) {
  KnownNames known;
  for (const TableSpec& table : tables) {
    for (const std::string& model : models_of(table)) {
      known.models.insert(model);
      known.families.insert(family_of(model));
    }
  }
  return known;
}

}  // namespace

std::vector<NamedModel> parse_models(const std::vector<std::string>& texts,
                                     const std::vector<TableSpec>& tables) {
  const auto [models, families] = known_names(tables);
  std::vector<NamedModel> named;
  for (const std::string& text : texts) {
    const size_t equals = text.find('=');
    check(equals != std::string::npos && equals > 0 && equals + 1 < text.size(), "--models ", text,
          ": expected NAME=FOLDER, as in LLAMA2-7B=models/llama2 or opt=models/opt");
    const NamedModel model{plain_name(text.substr(0, equals)), text.substr(equals + 1)};
    check(models.count(model.name) + families.count(model.name) > 0, "--models ", text,
          ": no table knows '", text.substr(0, equals), "'; known models: ", joined(models),
          "; known families: ", joined(families));
    check(!find_named(named, model.name), "--models: ", model.name, " is named twice");
    named.push_back(model);
  }
  return named;
}

void add_shipped_models(const std::vector<NamedModel>& shipped,
                        const std::vector<TableSpec>& tables, std::vector<NamedModel>& named) {
  const std::set<std::string> families = known_names(tables).families;
  for (const NamedModel& model : shipped) {
    const bool is_named = std::any_of(named.begin(), named.end(), [&](const NamedModel& other) {
      return other.name == model.name || family_of(other.name) == model.name;
    });
    if (families.count(model.name) > 0 && !is_named) named.push_back(model);
  }
}

std::vector<GroupModel> models_of_groups(const TableSpec& table,
                                         const std::vector<NamedModel>& named,
                                         const std::string& default_family) {
  const std::vector<std::string> models = models_of(table);
  std::vector<GroupModel> groups;
  std::set<std::string> taken;  // families whose model stands for a group already
  for (const std::string& model : models) {
    GroupModel group{model, {}, GroupModel::How::by_name};
    const std::string family = family_of(model);
    if (const auto by_name = find_named(named, model)) {
      group.model = *by_name + 1;
    } else if (taken.count(family) == 0 || table.kind == TableKind::hours) {
      const auto by_family = find_named(named, family);
      const auto relative = find_of_family(named, models, family);
      if (by_family || (relative && table.kind == TableKind::hours)) {
        group.model = (by_family ? *by_family : *relative) + 1;
        group.how = GroupModel::How::by_family;
      } else if (family == default_family && !relative) {
        group.model = 0;
        group.how = GroupModel::How::by_default;
      }
      taken.insert(family);
    }
    groups.push_back(group);
  }
  if (!table.models.empty()) return groups;
  if (groups.empty()) groups.push_back({"", 0, GroupModel::How::by_default});
  groups.front().group = "";
  if (!groups.front().model) groups.front() = {"", 0, GroupModel::How::by_default};
  return groups;
}

}  // namespace cbq
