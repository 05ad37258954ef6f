#include "tests/fuzz/fuzz.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>

#include "tensor/error.h"

namespace fs = std::filesystem;

namespace cbq::fuzz {
namespace {

std::map<std::string, FuzzTarget>& registry() {
  static std::map<std::string, FuzzTarget> all;
  return all;
}

}  // namespace

bool add_target(FuzzTarget target) {
  const std::string name = target.name;
  check(registry().emplace(name, std::move(target)).second, "fuzz target '", name,
        "' is registered twice");
  return true;
}

std::vector<const FuzzTarget*> targets() {
  std::vector<const FuzzTarget*> all;
  for (const auto& [name, target] : registry()) all.push_back(&target);
  return all;
}

std::string read_bytes(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) fail("cannot open ", file.string());
  std::ostringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

void write_bytes(const fs::path& file, std::string_view bytes) {
  fs::create_directories(file.parent_path());
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out << bytes;
  if (!out.flush()) fail("cannot write ", file.string());
}

void write_seed(const fs::path& folder, size_t number, const std::string& file,
                std::string_view bytes) {
  write_bytes(folder / std::to_string(number) / file, bytes);
}

}  // namespace cbq::fuzz
