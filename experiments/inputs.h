// Where a table finds what it runs on: the project's folder, models by name, files.
#pragma once

#include <filesystem>
#include <string>

namespace cbq {

/// The folder that holds experiments/tables: the program's own folder, the current one, or one
/// above either. Throws std::runtime_error when there is none.
std::filesystem::path project_root();

/// The folder of a model: a name of this project (embedded: models/embedded; smollm2:
/// build/models/smollm2-135m, which ./setup.sh smollm2 makes), else the path itself. A folder of
/// that name in the current folder has precedence.
std::filesystem::path model_folder(const std::filesystem::path& name_or_path,
                                   const std::filesystem::path& root);

/// Throws std::runtime_error with the command that makes the file, unless the file of a text, a
/// folder's or of a token source (TokenSource) is there.
void require_file(const std::string& source, const std::string& what, const std::string& remedy);

}  // namespace cbq
