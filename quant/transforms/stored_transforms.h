// Reading of stored transforms (nn/stored_transform.h): one reader per kind, each in the file of
// its transform.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "nn/stored_transform.h"
#include "quant/registry.h"

namespace cbq {

/// What a reader gets: the record of a transform, and where it stands.
struct StoredRecord {
  const nlohmann::json& json;
  std::string what;   // in messages: file and place
  int64_t width = 0;  // of the rows that it is applied to
};

class StoredTransformReader {
 public:
  virtual ~StoredTransformReader() = default;
  /// The tensors that belong to this record, with their shapes: they are compared with the file
  /// before anything is read. Throws std::runtime_error naming `what` and the fault.
  virtual std::vector<std::pair<std::string, Shape>> shapes(const StoredRecord& record) const = 0;
  /// The transform; `load(name)` gives a tensor of shapes(), f32 on `device`. Throws as shapes()
  /// does.
  virtual std::shared_ptr<const StoredTransform> read(
      const StoredRecord& record, const std::function<Tensor(const std::string&)>& load,
      Device device) const = 0;
};

/// By StoredTransform::kind.
Registry<StoredTransformReader>& stored_transforms();

}  // namespace cbq
