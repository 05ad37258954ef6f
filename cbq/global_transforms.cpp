#include "cbq/global_transforms.h"

#include "quant/stages.h"
#include "tensor/error.h"

namespace cbq {
namespace {

/// One transform, as settings name it.
struct Request {
  std::string name, variant;
  uint64_t seed;
  /// As in Transformer::transforms.
  std::string text() const {
    return concat(name, variant.empty() ? "" : " ", variant, ", seed ", seed);
  }
  std::unique_ptr<GlobalTransform> made() const {
    std::unique_ptr<GlobalTransform> transform = global_transforms().make(name);
    transform->configure(variant, seed);
    return transform;
  }
};

/// In the order in which they are applied.
std::vector<Request> requests_of(const Settings& settings) {
  std::vector<Request> requests;
  if (settings.transform != "none") {
    for (const NamedStage& stage : stages_of("transform", settings.transform)) {
      check(stage.name != "rotation",
            "transform: the rotation has a setting of its own, 'rotation' (--rotation)");
      requests.push_back({stage.name, stage.arguments, settings.seed});
    }
  }
  // The rotation comes last: it may leave an online part before a layer, and nothing can be moved
  // into the weights past that.
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

std::vector<std::unique_ptr<GlobalTransform>> global_transforms_of(const Settings& settings) {
  std::vector<std::unique_ptr<GlobalTransform>> transforms;
  for (const Request& request : requests_of(settings)) transforms.push_back(request.made());
  return transforms;
}

std::vector<std::string> apply_global_transforms(Transformer& model, const Settings& settings) {
  check(model.transforms.empty(), "the model was transformed already: ", joined(model.transforms));
  std::vector<std::string> notes;
  for (const Request& request : requests_of(settings)) {
    for (std::string& note : request.made()->apply(model)) notes.push_back(std::move(note));
    model.transforms.push_back(request.text());
  }
  return notes;
}

std::map<OnlinePlace, std::string> online_kinds(const Settings& settings) {
  std::map<OnlinePlace, std::string> all;
  for (const Request& request : requests_of(settings)) {
    for (const auto& [place, kind] : request.made()->online_kinds()) {
      check(place != OnlinePlace::attention || settings.quantize_attention, request.name, ": ",
            request.variant,
            " transforms queries and keys online, which serves their quantization "
            "alone and takes time for every token; set quantize_attention, or leave it out");
      check(all.emplace(place, kind).second, request.name,
            ": an earlier transform leaves an online part at the same place; leave one of them "
            "out");
    }
  }
  return all;
}

void check_global_transforms(const Transformer& model, const Settings& settings) {
  std::vector<std::string> wanted;
  for (const Request& request : requests_of(settings)) wanted.push_back(request.text());
  check(model.transforms == wanted,
        "quantize: the settings ask for these transforms of the whole model: ", joined(wanted),
        "; it has these: ", joined(model.transforms), ". apply_global_transforms makes them");
}

}  // namespace cbq
