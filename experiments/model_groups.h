// Which model at hand stands for which model of the paper: --models and the groups of a table.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "experiments/table_spec.h"

namespace cbq {

/// "LLAMA2-7B=FOLDER" or "opt=FOLDER".
struct NamedModel {
  std::string name;  // PaperModel::name, or a family
  std::string folder;
  bool is_given = true;  // on the command line; false: it comes with the project
};

/// Throws std::invalid_argument for a text without '=' or folder, a name that comes twice, or one
/// that none of `tables` knows (with the known ones).
std::vector<NamedModel> parse_models(const std::vector<std::string>& texts,
                                     const std::vector<TableSpec>& tables);

/// Adds to `named` those of `shipped` (named by families) whose family the tables know, and of
/// which neither the family nor one of its models is named yet.
void add_shipped_models(const std::vector<NamedModel>& shipped,
                        const std::vector<TableSpec>& tables, std::vector<NamedModel>& named);

struct GroupModel {
  enum class How { by_name, by_family, by_default };
  std::string group;            // "": the table's only model
  std::optional<size_t> model;  // 0: the default model, i + 1: named[i]; none: not at hand
  How how = How::by_default;
};

/// Of each of the table's groups the model named for it. The family's model stands for the first
/// group of the family that no name took; so does the default model where it is of this family and
/// neither the family nor one of its groups is named. (One model cannot stand for two groups: its
/// rows would be counted twice.) In a table of hours, which are extrapolated, it stands for all of
/// them, and so does a model that is named for one. A table without groups has one of name "", for
/// which any default model will do.
std::vector<GroupModel> models_of_groups(const TableSpec& table,
                                         const std::vector<NamedModel>& named,
                                         const std::string& default_family);

}  // namespace cbq
