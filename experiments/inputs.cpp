#include "experiments/inputs.h"

#include <utility>

#include "nn/text/tokens.h"
#include "tensor/error.h"

namespace cbq {
std::filesystem::path project_root() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  for (std::filesystem::path start : {program.parent_path(), std::filesystem::current_path()}) {
    for (; !start.empty(); start = start.parent_path()) {
      if (std::filesystem::is_directory(start / "experiments" / "tables", error)) return start;
      if (start == start.root_path()) break;
    }
  }
  fail("the project's folder (with experiments/tables) is neither above ",
       program.parent_path().string(), " nor above the current folder; run from within it");
}

std::filesystem::path model_folder(const std::filesystem::path& name_or_path,
                                   const std::filesystem::path& root) {
  constexpr std::pair<const char*, const char*> named[] = {
      {"embedded", "models/embedded"}, {"smollm2", "build/models/smollm2-135m"}};
  std::error_code error;
  for (const auto& [name, folder] : named) {
    if (name_or_path == name && !std::filesystem::exists(name_or_path, error)) {
      return std::filesystem::relative(root / folder);
    }
  }
  return name_or_path;
}

void require_file(const std::string& source, const std::string& what, const std::string& remedy) {
  std::error_code error;
  const std::filesystem::path file = TokenSource::parse(source).path;
  if (std::filesystem::exists(file, error)) return;
  fail_to_open(ENOENT, what, " ", file.string(), " does not exist; ", remedy);
}

}  // namespace cbq
