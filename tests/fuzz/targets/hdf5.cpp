// HDF5: files in general, token ids, cached activations.
#include "nn/formats/hdf5.h"

#include "cbq/activation_cache.h"
#include "cbq/job_identity.h"
#include "nn/text/tokens.h"
#include "tests/fuzz/fuzz.h"
#include "tests/tiny_model.h"

namespace fs = std::filesystem;

namespace cbq::fuzz {
namespace {

void hdf5_seeds(const fs::path& folder) {
  fs::create_directories(folder / "0");
  Hdf5File file = Hdf5File::create(folder / "0/file.h5");
  const Tensor matrix = Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {3, 2});
  file.set_attribute("key", "some text");
  file.set_attribute("version", int64_t{1});
  file.write("f32", matrix);
  file.write("bf16", kernels::cast(matrix, Dtype::bf16));
  file.write("ids", Tensor::zeros({4}, Dtype::i32));
  file.write_string("names", "[\"a\", \"b\"]");
  file.publish();
}

void read_everything(const fs::path& path) {
  const Hdf5File file = Hdf5File::open(path);
  for (const std::string& name : file.names()) {
    if (name == "names") {
      file.read_string(name);
      continue;
    }
    const Shape shape = file.shape(name);
    file.dtype(name);
    file.read(name);
    if (!shape.empty() && shape[0] > 1) file.read_rows(name, 1, shape[0]);
  }
  if (file.has_attribute("key")) file.string_attribute("key");
  if (file.has_attribute("version")) file.int_attribute("version");
}

const bool hdf5 = add_target({.name = "hdf5",
                              .format = Format::binary,
                              .file = "file.h5",
                              .seeds = hdf5_seeds,
                              .run = read_everything});

const bool token_ids_hdf5 =
    add_target({.name = "token_ids_hdf5",
                .format = Format::binary,
                .file = "tokens.h5",
                .seeds =
                    [](const fs::path& folder) {
                      fs::create_directories(folder / "0");
                      TokenSet set;
                      set.segments = {{1, 2, 3}, {4, 5}};
                      set.protocol = "given";
                      save_tokens(folder / "0/tokens.h5", set);
                    },
                .run = [](const fs::path& file) { load_tokens(file).hash(); }});

// A cache that cannot be used is computed again, so every one must be accepted in the end.
const std::vector<std::vector<int32_t>>& cached_segments() {
  static const auto segments = tiny_segments(2, 4);
  return segments;
}

Transformer& cached_model() {
  static const auto model = tiny_model(1, 8);
  return *model;
}

std::shared_ptr<ActivationCache> open_cache(const fs::path& folder) {
  return cache_on_disk(cached_model(), cached_segments(), folder, {});
}

std::string cache_name() {
  static const std::string model = digest_of(cached_model());
  return identity_of_activations(cached_model(), model, cached_segments()).key() + ".h5";
}

void activation_seeds(const fs::path& folder) {
  open_cache(folder / "0");
  const std::string name = cache_name();
  fs::rename(folder / "0" / name, folder / "0/cache.h5");
}

// There is no twin whose damaged files get a new seal: HDF5 never meets a damaged cache
// (nn/formats/sealed_files.h), and the targets above give it damaged files of its own.
const bool activations = add_target({.name = "activation_cache",
                                     .format = Format::binary,
                                     .file = "cache.h5",
                                     .seeds = activation_seeds,
                                     .run = [](const fs::path& file) {
                                       const std::string name = cache_name();
                                       fs::rename(file, file.parent_path() / name);
                                       const auto cache = open_cache(file.parent_path());
                                       for (int64_t b = 0; b < cache->boundaries(); ++b)
                                         cache->get(b, 0, cache->segments());
                                     }});

}  // namespace
}  // namespace cbq::fuzz
