// Results of the parts of figures, kept between runs.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "cbq/job_identity.h"

namespace cbq {

/// One file per part: <folder>/<key>.json, complete or not there, with a checksum.
class PartStore {
 public:
  using Say = std::function<void(const std::string&)>;

  explicit PartStore(std::filesystem::path folder) : folder_(std::move(folder)) {}
  /// None if it is not there; also, said through `say` (may be empty), where the file is damaged or
  /// of another identity, as after a change of the program.
  std::optional<nlohmann::json> find(const JobIdentity& identity, const Say& say) const;
  /// Throws std::runtime_error, naming the path, when it cannot be written.
  void put(const JobIdentity& identity, const nlohmann::json& result) const;

 private:
  std::filesystem::path path_of(const JobIdentity& identity) const;
  std::filesystem::path folder_;
};

}  // namespace cbq
