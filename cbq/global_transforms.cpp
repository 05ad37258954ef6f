#include "cbq/global_transforms.h"

#include <memory>

#include "quant/transforms/global/global_transform.h"
#include "quant/transforms/global/rotation.h"
#include "quant/transforms/online_hadamard.h"
#include "tensor/error.h"

namespace cbq {
namespace {

/// One transform, as settings name it.
struct Request {
  std::string name, variant;
  uint64_t seed;
  /// As in Transformer::transforms.
  std::string text() const { return concat(name, " ", variant, ", seed ", seed); }
};

/// In the order in which they are applied.
std::vector<Request> requests_of(const Settings& settings) {
  std::vector<Request> requests;
  if (settings.rotation != "none") {
    requests.push_back({"rotation", settings.rotation, settings.rotation_seed});
  }
  return requests;
}

std::string joined(const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) all += (all.empty() ? "" : "; ") + text;
  return all.empty() ? "none" : all;
}

}  // namespace

std::vector<std::string> apply_global_transforms(Transformer& model, const Settings& settings) {
  check(model.transforms.empty(), "the model was transformed already: ", joined(model.transforms));
  std::vector<std::string> notes;
  for (const Request& request : requests_of(settings)) {
    const std::unique_ptr<GlobalTransform> transform = global_transforms().make(request.name);
    transform->configure(request.variant, request.seed);
    for (std::string& note : transform->apply(model)) notes.push_back(std::move(note));
    model.transforms.push_back(request.text());
  }
  return notes;
}

std::string online_kind(const Settings& settings) {
  return rotation_parts(settings.rotation).r4 ? OnlineHadamard::kind_name : "";
}

void check_global_transforms(const Transformer& model, const Settings& settings) {
  std::vector<std::string> wanted;
  for (const Request& request : requests_of(settings)) wanted.push_back(request.text());
  check(model.transforms == wanted,
        "quantize: the settings ask for these transforms of the whole model: ", joined(wanted),
        "; it has these: ", joined(model.transforms), ". apply_global_transforms makes them");
}

}  // namespace cbq
