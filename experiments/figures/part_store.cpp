#include "experiments/figures/part_store.h"

#include "nn/formats/atomic_file.h"
#include "nn/formats/json.h"
#include "nn/formats/sealed_files.h"

namespace cbq {

std::filesystem::path PartStore::path_of(const JobIdentity& identity) const {
  return folder_ / (identity.key() + ".json");
}

std::optional<nlohmann::json> PartStore::find(const JobIdentity& identity, const Say& say) const {
  const std::filesystem::path path = path_of(identity);
  if (!std::filesystem::exists(path)) return std::nullopt;
  const std::string what = path.string();
  try {
    const nlohmann::json json = read_sealed_json(path);
    const std::vector<std::string> others =
        differences(JobIdentity::from_json(json_at(json, "identity", what), what), identity);
    if (others.empty()) return json_at(json, "result", what);
    if (say) say(message_of("not used, computed anew: ", what, ": ", text_of(others)));
  } catch (const DamagedFile& damage) {
    if (say) say(concat("not used, computed anew: ", damage.what()));
  }
  return std::nullopt;
}

void PartStore::put(const JobIdentity& identity, const nlohmann::json& result) const {
  std::filesystem::create_directories(folder_);
  const nlohmann::json json = {{"identity", identity.to_json()}, {"result", result}};
  write_text_atomically(path_of(identity), sealed(json).dump() + "\n");
}

}  // namespace cbq
