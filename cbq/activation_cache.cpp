#include "cbq/activation_cache.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "cbq/job_identity.h"
#include "cbq/stream.h"
#include "kernels/ops.h"
#include "nn/block_walk.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/hdf5.h"
#include "nn/formats/json.h"
#include "nn/formats/sealed_files.h"

namespace cbq {
namespace {

void check_finite(const Transformer& model, int64_t block, const Tensor& stream) {
  if (!kernels::has_non_finite(stream)) return;
  throw NonFiniteError(
      message_of("the original model's block ", block,
                 " produces NaN or infinity on the calibration segments; check its "
                 "weights (",
                 model.block_prefix(block), "*)"));
}

constexpr const char* computing = "computing the original activations";

/// Calls keep(boundary, stream) for every boundary, from the embedding to the last block's output.
template <class Keep>
void run_boundaries(Transformer& model, const Segments& segments, const Watch& watch, Keep&& keep) {
  const Poll poll = watch.poll_of(computing);
  Tensor stream = embed_segments(model, segments, poll);
  keep(int64_t{0}, stream);
  watch.step(0, model.block_count(), computing);
  for_each_block(model, [&](Block& block, int64_t b) {
    stream = run_block(block, stream, model.device(), poll);
    check_finite(model, b, stream);
    keep(b + 1, stream);
    watch.step(b + 1, model.block_count(), computing);
  });
}

class MemoryCache : public ActivationCache {
 public:
  /// Undefined streams are those that were not kept.
  MemoryCache(std::vector<Tensor> streams, const Segments& segments)
      : streams_(std::move(streams)),
        segments_(static_cast<int64_t>(segments.size())),
        tokens_(static_cast<int64_t>(segments.front().size())) {}
  Tensor get(int64_t boundary, int64_t begin, int64_t end) override {
    const Tensor& stream = streams_.at(static_cast<size_t>(boundary));
    if (!stream.defined()) {
      throw std::out_of_range(
          message_of("activations in front of block ", boundary, " were not to be kept"));
    }
    return stream.slice(begin, end);
  }
  int64_t segments() const override { return segments_; }
  int64_t tokens() const override { return tokens_; }
  int64_t boundaries() const override { return static_cast<int64_t>(streams_.size()); }

 private:
  std::vector<Tensor> streams_;
  int64_t segments_, tokens_;
};

class RollingCache : public ActivationCache {
 public:
  RollingCache(Transformer& model, const Segments& segments, const std::vector<int64_t>& boundaries,
               Watch watch)
      : model_(model),
        watch_(std::move(watch)),
        stream_(embed_segments(model, segments, watch_.poll_of(computing))) {
    for (const int64_t boundary : boundaries) ++uses_[boundary];
  }
  Tensor get(int64_t boundary, int64_t begin, int64_t end) override {
    int64_t& uses = uses_.at(boundary);
    for_each_opened_block(model_, at_, boundary, [this](Block& block, int64_t) { step(block); });
    const Tensor found = boundary == at_ ? stream_ : kept_.at(boundary);
    if (--uses <= 0) kept_.erase(boundary);
    return found.slice(begin, end);
  }
  int64_t segments() const override { return stream_.size(0); }
  int64_t tokens() const override { return stream_.size(1); }
  int64_t boundaries() const override { return model_.block_count() + 1; }

 private:
  void step(Block& block) {
    const auto uses = uses_.find(at_);
    if (uses != uses_.end() && uses->second > 0) kept_[at_] = stream_;
    stream_ = run_block(block, stream_, model_.device(), watch_.poll_of(computing));
    check_finite(model_, at_, stream_);
    ++at_;
  }

  Transformer& model_;
  Watch watch_;
  int64_t at_ = 0;  // boundary of stream_
  Tensor stream_;
  std::map<int64_t, int64_t> uses_;  // still to come, by boundary
  std::map<int64_t, Tensor> kept_;   // boundaries behind us that are still asked for
};

std::string dataset_name(int64_t boundary) { return fmt::format("boundary_{:04}", boundary); }

class DiskCache : public ActivationCache {
 public:
  DiskCache(Hdf5File file, Device device, Shape shape, int64_t boundaries)
      : file_(std::move(file)),
        device_(device),
        shape_(std::move(shape)),
        boundaries_(boundaries) {}
  Tensor get(int64_t boundary, int64_t begin, int64_t end) override {
    const std::string name = dataset_name(boundary);
    const Shape shape = {end - begin, shape_[1], shape_[2]};
    const Dtype dtype = file_.dtype(name);
    if (!belongs_on_host(element_count(shape) * size_of(dtype), device_)) {
      return file_.read_rows(name, begin, end, device_);
    }
    const Tensor stream = Tensor::page_locked(shape, dtype);
    stream.copy_from(file_.read_rows(name, begin, end, Device::cpu()));
    return stream;
  }
  int64_t segments() const override { return shape_[0]; }
  int64_t tokens() const override { return shape_[1]; }
  int64_t boundaries() const override { return boundaries_; }

 private:
  Hdf5File file_;
  Device device_;
  Shape shape_;
  int64_t boundaries_;
};

/// What is cached is another run's, or not all that is needed.
struct UnusableCache : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Throws UnusableCache, saying why, unless the file can serve.
void check_contents(const Hdf5File& file, const JobIdentity& identity, const Shape& shape,
                    Dtype dtype, int64_t boundaries) {
  const std::string where = file.path().string();
  const JobIdentity there =
      file.has("identity")
          ? JobIdentity::from_json(parse_json(file.read_string("identity"), where), where)
          : JobIdentity{};
  const std::vector<std::string> others = differences(there, identity);
  if (!others.empty()) {
    throw UnusableCache(message_of(where, " belongs to another run: ", text_of(others)));
  }
  for (int64_t b = 0; b < boundaries; ++b) {
    const std::string name = dataset_name(b);
    if (!file.has(name) || file.shape(name) != shape || file.dtype(name) != dtype) {
      throw UnusableCache(message_of(where, " has no complete ", name));
    }
  }
}

std::string megabytes(int64_t bytes) {
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

void check_space(const std::filesystem::path& folder, int64_t needed) {
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(folder, error);
  if (!error && static_cast<int64_t>(space.available) < needed) {
    fail(folder.string(), ": the original activations need ", megabytes(needed), ", but only ",
         megabytes(static_cast<int64_t>(space.available)),
         " are free; choose another folder or keep them in memory");
  }
}

void write_cache(Transformer& model, const Segments& segments, const std::filesystem::path& path,
                 const JobIdentity& identity, int64_t bytes, const Watch& watch) {
  check_space(path.parent_path(), bytes);
  try {
    Hdf5File file = Hdf5File::create(path);
    file.write_string("identity", identity.to_json().dump());
    run_boundaries(model, segments, watch, [&](int64_t boundary, const Tensor& stream) {
      file.write(dataset_name(boundary), stream);
    });
    file.publish_sealed();
  } catch (const NonFiniteError&) {
    throw;
  } catch (const Interrupted&) {
    throw;
  } catch (const std::runtime_error& error) {
    fail(error.what(), " (the original activations need ", megabytes(bytes), " in ",
         path.parent_path().string(), ")");
  }
}

}  // namespace

int64_t activation_bytes(const Transformer& model, const Segments& segments) {
  const int64_t tokens =
      segments.empty() ? 0 : static_cast<int64_t>(segments.size() * segments.front().size());
  return element_count({model.block_count() + 1, tokens, model.config.hidden_size}) *
         size_of(model.dtype());
}

std::shared_ptr<ActivationCache> cache_in_memory(Transformer& model, const Segments& segments,
                                                 const Watch& watch) {
  std::vector<Tensor> streams;
  run_boundaries(model, segments, watch,
                 [&](int64_t, const Tensor& stream) { streams.push_back(stream); });
  return std::make_shared<MemoryCache>(std::move(streams), segments);
}

std::shared_ptr<ActivationCache> cache_in_memory(Transformer& model, const Segments& segments,
                                                 const std::vector<int64_t>& boundaries,
                                                 const Watch& watch) {
  const std::set<int64_t> kept(boundaries.begin(), boundaries.end());
  std::vector<Tensor> streams(static_cast<size_t>(model.block_count()) + 1);
  run_boundaries(model, segments, watch, [&](int64_t boundary, const Tensor& stream) {
    if (kept.contains(boundary)) streams.at(static_cast<size_t>(boundary)) = stream;
  });
  return std::make_shared<MemoryCache>(std::move(streams), segments);
}

std::shared_ptr<ActivationCache> cache_on_the_way(Transformer& model, const Segments& segments,
                                                  const std::vector<int64_t>& boundaries,
                                                  const Watch& watch) {
  return std::make_shared<RollingCache>(model, segments, boundaries, watch);
}

std::shared_ptr<ActivationCache> cache_on_disk(Transformer& model, const Segments& segments,
                                               const std::filesystem::path& folder,
                                               const std::function<void(const std::string&)>& say,
                                               const Watch& watch, std::string model_digest) {
  check_segments(model, segments);
  sweep_temporaries(folder);  // other runs that share the folder may have been killed
  if (model_digest.empty()) model_digest = digest_of(model);
  const JobIdentity identity = identity_of_activations(model, model_digest, segments);
  const std::filesystem::path path = folder / (identity.key() + ".h5");
  const Shape shape = {static_cast<int64_t>(segments.size()),
                       static_cast<int64_t>(segments.front().size()), model.config.hidden_size};
  const int64_t boundaries = model.block_count() + 1;
  const auto check_bytes = [&] {
    const auto size = static_cast<int64_t>(std::filesystem::file_size(path));
    check_seal(path, [&](int64_t done) { watch.step(done, size, "checking " + path.string()); });
  };
  const auto open = [&]() -> std::shared_ptr<ActivationCache> {
    Hdf5File file = Hdf5File::open(path);
    check_contents(file, identity, shape, model.dtype(), boundaries);
    return std::make_shared<DiskCache>(std::move(file), model.device(), shape, boundaries);
  };
  const auto tell = [&](const std::string& line) {
    if (say) say(line);
  };
  if (std::filesystem::exists(path)) {
    const auto tell_why = [&](const std::exception& fault) {
      tell(concat("cached activations are not used and computed again: ", fault.what()));
    };
    try {
      check_bytes();  // before HDF5 sees them
      return open();
    } catch (const DamagedFile& damage) {
      tell_why(damage);
    } catch (const UnusableCache& cache) {
      tell_why(cache);
    }
  }
  std::filesystem::create_directories(folder);
  const int64_t bytes = activation_bytes(model, segments);
  tell(concat("writing ", megabytes(bytes), " of original activations to ", path.string()));
  write_cache(model, segments, path, identity, bytes, watch);
  return open();
}

}  // namespace cbq
