// Tiny models in folders, and the program `cbq` as a user runs it.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/formulas/philox.h"
#include "kernels/ops.h"
#include "nn/transformer.h"
#include "tests/test_data.h"

namespace cbq::test {

inline ModelConfig tiny_config(int64_t blocks = 2) {
  ModelConfig config;
  config.vocab_size = 48;
  config.hidden_size = 16;
  config.intermediate_size = 24;
  config.num_layers = blocks;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 8;
  config.max_position_embeddings = 16;
  return config;
}

/// Weights far larger than those training starts with, so that quantization changes the output.
inline std::unique_ptr<Transformer> tiny_model(const ModelConfig& config = tiny_config(),
                                               uint64_t seed = 1) {
  auto model = make_model(config, Dtype::f32, Device::cpu());
  uint64_t stream = 0;
  model->visit("", [&](const std::string&, Var& p) {
    if (p.value().rank() == 2) {
      kernels::fill_normal(p.value(), 0.0, 0.4, seed, stream++);
    } else {
      kernels::fill_uniform(p.value(), 0.5, 1.5, seed, stream++);
    }
  });
  return model;
}

inline std::vector<std::vector<int32_t>> tiny_segments(int count, int length, uint64_t seed = 7) {
  std::vector<std::vector<int32_t>> segments(static_cast<size_t>(count));
  for (size_t s = 0; s < segments.size(); ++s) {
    for (int i = 0; i < length; ++i) {
      segments[s].push_back(
          static_cast<int32_t>(philox_bits(seed, s, static_cast<uint64_t>(i)) % 48));
    }
  }
  return segments;
}

inline std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in) << path;
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

inline nlohmann::json json_of(const std::filesystem::path& path) {
  return nlohmann::json::parse(bytes_of(path));
}

struct RunOfCbq {
  int code = -1;
  std::string out, err;
};

/// While it lives, programs that tests run may use a GPU. Else they see none: with the default,
/// "--device auto", they compute on every machine what the CPU computes.
class ProgramsSeeDevices {
 public:
  ProgramsSeeDevices() { see_ = true; }
  ~ProgramsSeeDevices() { see_ = false; }
  ProgramsSeeDevices(const ProgramsSeeDevices&) = delete;
  ProgramsSeeDevices& operator=(const ProgramsSeeDevices&) = delete;
  static bool see() { return see_; }

 private:
  static inline bool see_ = false;
};

/// Runs bin/`name` of this build. `meanwhile` gets the process id once the program runs.
inline RunOfCbq run_program(const std::string& name, std::vector<std::string> arguments,
                            const std::function<void(pid_t)>& meanwhile = {},
                            const char* standard_output = nullptr) {
  const TemporaryFolder folder;
  const std::string program = (build_folder() / "bin" / name).string();
  if (!std::filesystem::exists(program)) {
    ADD_FAILURE() << program << " is not there; build all targets";
    return {};
  }
  arguments.insert(arguments.begin(), program);
  std::vector<char*> argv;
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  const std::string out = standard_output ? standard_output : (folder / "out").string();
  const std::string err = (folder / "err").string();
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT, 0600), 1);
    ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT, 0600), 2);
    ::setenv("OMP_NUM_THREADS", "1", 1);
    if (!ProgramsSeeDevices::see()) ::setenv("CUDA_VISIBLE_DEVICES", "", 1);
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  if (meanwhile) meanwhile(child);
  int status = 0;
  ::waitpid(child, &status, 0);
  RunOfCbq result;
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  if (!standard_output) result.out = bytes_of(out);
  result.err = bytes_of(err);
  return result;
}

inline RunOfCbq cbq(std::vector<std::string> arguments,
                    const std::function<void(pid_t)>& meanwhile = {},
                    const char* standard_output = nullptr) {
  return run_program("cbq", std::move(arguments), meanwhile, standard_output);
}

/// A folder with a model, token segments as JSON, and room for results.
class CliTest : public ::testing::Test {
 protected:
  void SetUp() override {
    save_model(*tiny_model(tiny_config(4)), model(), Dtype::f32);
    folder_.write("ids.json", nlohmann::json({{"calibration", tiny_segments(6, 12)},
                                              {"test", tiny_segments(8, 14, 8)}})
                                  .dump());
  }
  std::string model() const { return (folder_ / "model").string(); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string calibration() const { return path("ids.json") + ":calibration"; }
  std::string test_tokens() const { return path("ids.json") + ":test"; }
  /// What is in the folder now: a failed command must not change it.
  std::vector<std::string> listing() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_.path())) {
      names.push_back(entry.path().lexically_relative(folder_.path()).string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  /// `cbq quantize` of the model to `output`; `more` adds options or gives them another value.
  std::vector<std::string> quantize(const std::string& output,
                                    const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = {"quantize", model()};
    const std::pair<std::string, std::string> usual[] = {{"--output", path(output)},
                                                         {"--calibration", calibration()},
                                                         {"--epochs", "1"},
                                                         {"--wbits", "2"},
                                                         {"--device", "cpu"}};
    for (const auto& [name, value] : usual) {
      all.insert(all.end(), {name, value});
    }
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  TemporaryFolder folder_;
};

inline void expect_in(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts) {
    EXPECT_NE(text.find(part), std::string::npos) << "not in the text: " << part << "\n" << text;
  }
}

}  // namespace cbq::test
