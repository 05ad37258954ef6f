#include "experiments/original_states.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "cbq/job_identity.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/json.h"
#include "nn/formats/sealed_files.h"
#include "nn/perplexity.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;

struct StatesFile {
  fs::path path;
  JobIdentity identity;
  Shape shape;
  Dtype dtype = Dtype::f32;

  int64_t bytes() const { return element_count(shape) * size_of(dtype); }
};

StatesFile file_of(const Transformer& model, const std::string& digest, const Segments& segments,
                   int64_t batch, const fs::path& folder) {
  StatesFile file;
  file.identity = identity_of_activations(model, digest, segments);
  // The ids are those of a test text, and nothing else than the batch decides how they pass.
  file.identity.evaluation = std::exchange(file.identity.calibration, "");
  file.identity.segments_per_pass = std::to_string(batch);
  int64_t rows = 0;
  for (const auto& segment : segments) rows += static_cast<int64_t>(segment.size()) - 1;
  file.shape = {rows, model.config.hidden_size};
  file.dtype = model.dtype();
  file.path = folder / (file.identity.key() + ".h5");
  return file;
}

/// None where the file is not there or cannot serve, which is said.
std::shared_ptr<Hdf5File> opened(const StatesFile& wanted,
                                 const std::function<void(const std::string&)>& say,
                                 const Watch& watch) {
  if (!fs::exists(wanted.path)) return nullptr;
  const std::string where = wanted.path.string();
  const auto leave = [&](const std::string& why) -> std::shared_ptr<Hdf5File> {
    if (say) say(concat("states of the original model are computed again: ", why));
    return nullptr;
  };
  try {
    check_seal(wanted.path, [&](int64_t) { watch.poll("checking " + where); });
  } catch (const DamagedFile& damage) {
    return leave(damage.what());
  }
  auto file = std::make_shared<Hdf5File>(Hdf5File::open(wanted.path));
  const JobIdentity there =
      file->has("identity")
          ? JobIdentity::from_json(parse_json(file->read_string("identity"), where), where)
          : JobIdentity{};
  const std::vector<std::string> others = differences(there, wanted.identity);
  if (!others.empty()) return leave(concat(where, ": ", text_of(others)));
  if (!file->has("states") || file->shape("states") != wanted.shape ||
      file->dtype("states") != wanted.dtype) {
    return leave(concat(where, " has no complete states"));
  }
  return file;
}

void check_space(const StatesFile& file) {
  std::error_code error;
  const fs::space_info space = fs::space(file.path.parent_path(), error);
  if (error || static_cast<int64_t>(space.available) >= file.bytes()) return;
  fail(file.path.parent_path().string(), ": the original model's states on a test text need ",
       fmt::format("{:.1f} MB", static_cast<double>(file.bytes()) / 1e6), ", but only ",
       fmt::format("{:.1f} MB", static_cast<double>(space.available) / 1e6),
       " are free; choose another --output, or fewer test tokens (--eval-tokens)");
}

void write(const StatesFile& wanted, Transformer& model, const Segments& segments, int64_t batch,
           const Watch& watch) {
  fs::create_directories(wanted.path.parent_path());
  check_space(wanted);
  Hdf5File file = Hdf5File::create(wanted.path);
  file.write_string("identity", wanted.identity.to_json().dump());
  file.create_dataset("states", wanted.shape, wanted.dtype);
  PerplexityOptions options;
  options.progress = [&](int64_t, int64_t) { watch.poll("computing the original predictions"); };
  walk_segments(model, segments, batch, options, [&](int64_t first, const Tensor& hidden) {
    file.write_rows("states", first, hidden);
  });
  file.publish_sealed();
}

}  // namespace

OriginalStates::OriginalStates(Transformer& model, const std::string& digest,
                               const Segments& segments, int64_t batch, const fs::path& folder,
                               const std::function<void(const std::string&)>& say,
                               const Watch& watch) {
  const StatesFile wanted = file_of(model, digest, segments, batch, folder);
  sweep_temporaries(folder);  // other runs that share the folder may have been killed
  file_ = opened(wanted, say, watch);
  if (file_) return;
  if (say) {
    say(fmt::format("writing {:.1f} MB of the original model's states on a test text to {}",
                    static_cast<double>(wanted.bytes()) / 1e6, wanted.path.string()));
  }
  write(wanted, model, segments, batch, watch);
  file_ = std::make_shared<Hdf5File>(Hdf5File::open(wanted.path));
}

OriginalHead::OriginalHead(Transformer& model) {
  const ResidualEnds ends = model.residual_ends();
  const auto copy = [](const Var* parameter) {
    return parameter != nullptr && parameter->defined() ? parameter->value().clone() : Tensor();
  };
  norm_weight_ = copy(ends.norm_weight);
  norm_bias_ = copy(ends.norm_bias);
}

Tensor OriginalHead::logits(Transformer& model, const Tensor& hidden) const {
  const ResidualEnds ends = model.residual_ends();
  std::vector<std::pair<Var*, Var>> own;
  const auto exchange = [&own](Var* parameter, const Tensor& value) {
    if (parameter == nullptr || !value.defined()) return;
    own.emplace_back(parameter, *parameter);
    *parameter = Var(value);
  };
  exchange(ends.norm_weight, norm_weight_);
  exchange(ends.norm_bias, norm_bias_);
  const Tensor result = model.head(Var(hidden)).value();
  for (const auto& [parameter, value] : own) *parameter = value;
  return result;
}

}  // namespace cbq
