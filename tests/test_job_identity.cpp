// Whose results something is: what two identities say of each other, and what guards a cell.
#include "cbq/activation_cache.h"
#include "cbq/job_identity.h"
#include "cbq/resume.h"
#include "cbq/setting_values.h"
#include "experiments/cell.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/json.h"
#include "tensor/runtime/program_version.h"
#include "tests/environment.h"
#include "tests/flipped_bits.h"
#include "tests/no_more_descriptors.h"
#include "tests/test_data.h"
#include "tests/tiny_model.h"

namespace cbq::test_job_identity {
namespace {

JobIdentity identity_of_tiny(const Settings& settings = {}, int64_t blocks = 4) {
  const auto model = tiny_model(blocks);
  return identity_of_run(*model, digest_of(*model), tiny_segments(3, 8), settings);
}

void expect_differences(const JobIdentity& there, const JobIdentity& here,
                        const std::string& expected) {
  const std::vector<std::string> found = differences(there, here);
  EXPECT_EQ(text_of(found), expected);
  EXPECT_TRUE(differences(here, here).empty());
}

TEST(JobIdentity, SaysWhatDiffers) {
  const JobIdentity here = identity_of_tiny();
  EXPECT_TRUE(differences(here, identity_of_tiny()).empty());
  JobIdentity there = here;
  there.model = "another";
  expect_differences(there, here, "it differs in the model");
  there.calibration = "another";
  Settings settings;
  settings.epochs = 7;
  there.settings = to_json(canonical(settings, 4));
  expect_differences(
      there, here, "it differs in the model, the calibration tokens and epochs (7 there, 3 here)");
  there = here;
  there.program = "0.1.0+old";
  expect_differences(
      there, here,
      "it differs in the program's version (0.1.0+old there, " + program_version() + " here)");
  EXPECT_EQ(there.key(), here.key()) << "the same place, for another program to find";
  there = here;
  there.dtype = "bf16";
  there.export_format = "dense";
  expect_differences(
      there, here,
      "it differs in the dtype (bf16 there, f32 here) and the export (dense there, none here)");
  EXPECT_NE(there.key(), here.key());
}

TEST(JobIdentity, EveryFieldSurvivesAFileAndEntersTheComparison) {
  JobIdentity all = identity_of_tiny();
  all.evaluation = "texts";
  all.export_format = "dense";
  all.export_dtype = "f16";
  all.environment = "CBQ_FAST=0";
  const nlohmann::json json = all.to_json();
  EXPECT_EQ(json.size(), 11u) << "a field of JobIdentity is not in files: " << json.dump();
  const JobIdentity back = JobIdentity::from_json(parse_json(json.dump(), "json"), "json");
  EXPECT_TRUE(differences(back, all).empty());
  for (const auto& [name, value] : json.items()) {
    nlohmann::json other = json;
    other[name] = "other";
    const JobIdentity changed = JobIdentity::from_json(other, "json");
    EXPECT_EQ(differences(changed, all).size(), 1u) << name;
    EXPECT_EQ(changed.key() == all.key(), name == "program") << name;
    other.erase(name);
    EXPECT_FALSE(differences(JobIdentity::from_json(other, "json"), all).empty()) << name;
  }
}

TEST(JobIdentity, KnowsWhatMovesBits) {
  const JobIdentity here = identity_of_tiny();
  {
    const Environment moved("CBQ_GEMM_CANDIDATES", "2");
    EXPECT_EQ(differences(identity_of_tiny(), here).size(), 1u);
  }
  const auto model = tiny_model(4);
  auto segments = tiny_segments(3, 8);
  segments[2][7] ^= 1;
  const std::string digest = digest_of(*model);
  expect_differences(identity_of_run(*model, digest, segments, {}), here,
                     "it differs in the calibration tokens");
  model->blocks[3]->linears()[2].linear->weight.value().data<float>()[5] += 1e-3f;
  EXPECT_NE(digest_of(*model), digest);
  const auto other_config = tiny_model(4);
  other_config->config.norm_eps *= 2;
  EXPECT_NE(digest_of(*other_config), digest) << "parameters alone do not make a model";
}

TEST(ProgramVersion, NamesTheVersionAndTheSources) {
  const std::string version = program_version();
  const size_t plus = version.find('+');
  ASSERT_NE(plus, std::string::npos) << version;
  EXPECT_EQ(version.size() - plus - 1, 12u) << version;
  EXPECT_EQ(version.find_first_not_of("0123456789abcdef", plus + 1), std::string::npos) << version;
}

// A finished folder is taken for this command's by its identity, whose program must therefore be
// all that decides bytes.
TEST(ProgramVersion, CoversTheCommandLine) {
  const std::string sources = read_text_file(build_folder() / "generated/program_version.sources");
  for (const char* file : {"kernels/matmul/gemm.cpp", "nn/formats/json.h", "cbq/pipeline.cpp",
                           "tools/cbq.cpp", "tools/cli/quantize.cpp", "tools/cli/quantize_job.h",
                           "experiments/run_ablation.cpp", "cmake/Sources.cmake"}) {
    EXPECT_NE(sources.find(std::string(file) + "\n"), std::string::npos) << file;
  }
}

TEST(JobIdentity, NamesTheLibraryOfProducts) {
  const std::string name = name_of_processor(Device::cpu());
  EXPECT_TRUE(name.starts_with("cpu (")) << name;
  EXPECT_NE(name.find("OpenBLAS 0."), std::string::npos) << name;
}

// ---- settings -----------------------------------------------------------------------------------

template <class Member>
void change(const std::string& name, Member& member) {
  if constexpr (std::is_same_v<Member, std::string>) {
    // Some texts are read as what they choose while a setting's stage is found.
    std::vector<std::string> others = values_of(name);
    std::erase(others, member);
    member = others.empty() ? member + "x" : others.front();
  } else if constexpr (std::is_same_v<Member, bool>) {
    member = !member;
  } else {
    member += 1;
  }
}

std::string key_of(const Settings& settings) {
  return make_cell(settings, 4, {}, {"model", "calibration", "texts"}).key;
}

/// Calls f(name, stage, key with this one setting changed) for every setting.
void for_each_changed(
    const Settings& base,
    const std::function<void(const std::string&, SettingStage, const std::string&)>& f) {
  Settings changed = base;
  visit_staged_settings(
      changed, [&](const std::string& name, auto& member, const char*, SettingStage stage) {
        const auto before = member;
        if (name == "schedule") {
          changed.schedule = "0-2,1-3";
        } else if (name == "reconstruct") {
          changed.reconstruct = base.reconstruct == "none" ? "cbq" : "none";
        } else {
          change(name, member);
        }
        f(name, stage, key_of(changed));
        member = before;
      });
}

TEST(CellKey, EverySettingThatIsReadChangesIt) {
  Settings base;
  base.window = 3;  // one more block, or one more of overlap, is another schedule
  base.abits = 8;
  base.rotation = "r1";
  base.preprocess = "smoothquant";
  base.polish_epochs = 1;
  const std::string key = key_of(base);
  for_each_changed(base, [&](const std::string& name, SettingStage stage, const std::string& its) {
    EXPECT_EQ(its == key, stage == SettingStage::label) << name;
  });
}

TEST(CellKey, WithoutReconstructionExactlyItsSettingsDoNotMatter) {
  Settings base;
  base.reconstruct = "none";
  base.abits = 8;
  base.rotation = "r1";
  base.preprocess = "smoothquant";
  const std::string key = key_of(base);
  for_each_changed(base, [&](const std::string& name, SettingStage stage, const std::string& its) {
    const bool unread = stage == SettingStage::label || name.starts_with("rate_polish") ||
                        (stage == SettingStage::reconstruction && name != "reconstruct");
    EXPECT_EQ(its == key, unread) << name;
  });
}

TEST(CellKey, PolishReadsItsSettingsWithoutReconstruction) {
  Settings base;
  base.reconstruct = "none";
  base.abits = 8;
  base.polish_epochs = 1;
  const std::string key = key_of(base);
  for_each_changed(base, [&](const std::string& name, SettingStage stage, const std::string& its) {
    const bool reads = name == "batch" || name == "rate_activation" || name == "rate_floor" ||
                       name == "learn_activation" || name == "reconstruct";
    const bool unread = stage == SettingStage::label || name == "rotation_seed" ||
                        (stage == SettingStage::reconstruction && !reads);
    EXPECT_EQ(its == key, unread) << name;
  });
}

TEST(CellKey, WhatQuantizesNothingHasNoGridAndNothingRandom) {
  Settings base;
  base.reconstruct = "none";
  base.wbits = base.abits = float_bits;
  const std::string key = key_of(base);
  for_each_changed(base, [&](const std::string& name, SettingStage stage, const std::string& its) {
    const bool read = stage == SettingStage::bits || stage == SettingStage::preprocessing ||
                      name == "rotation" || name == "transform" || name == "reconstruct";
    EXPECT_EQ(its != key, read) << name;
  });
}

// ---- damage -------------------------------------------------------------------------------------

TEST(ResumeFolder, EveryFlippedBitIsNoticedOrChangesNothing) {
  const TemporaryFolder folder;
  const ResumeFolder resume(folder / "state", identity_of_tiny());
  RunState state;
  state.finished = 1;
  state.stream = Tensor::from<float>({1, 2, 3, 4, 5, 6, 7, 8}, {2, 2, 2});
  state.live = {{"a.weight_quantizer.v", Tensor::from<float>({0.5f, 0.25f}, {2})}};
  state.reports.resize(2);
  resume.save_block(0, {{"a.codes", Tensor::from<int32_t>({1, 0, 3}, {3})}});
  resume.save(state);
  const std::string block = read_text_file(folder / "state/block-0.safetensors"),
                    whole = read_text_file(folder / "state/state.safetensors");
  const auto restore = [&] {  // what is damaged was moved away
    folder.write("state/block-0.safetensors", block);
    folder.write("state/state.safetensors", whole);
  };
  for (const char* name : {"state.safetensors", "block-0.safetensors"}) {
    const std::string good = read_text_file(folder / "state" / name);
    int told = 0, tried = 0;
    for_each_flipped_bit(good, 0, 1, [&](const std::string& flipped) {
      ++tried;
      restore();
      folder.write(std::string("state/") + name, flipped);
      std::string said;
      const auto found = resume.load([&](const std::string& line) { said = line; });
      if (!found) {
        EXPECT_NE(said.find(name), std::string::npos) << said;
        EXPECT_EQ(read_text_file(folder / "state/state.damaged" / name), flipped);
        EXPECT_FALSE(ResumeFolder::has_state(folder / "state"));
        ++told;
        return;
      }
      EXPECT_EQ(found->stream.to_vector<float>(), state.stream.to_vector<float>());
      EXPECT_EQ(found->live.at("a.weight_quantizer.v").to_vector<float>(),
                (std::vector<float>{0.5f, 0.25f}));
      EXPECT_EQ(found->windows, 2);
      EXPECT_EQ(resume.load_block(0).at("a.codes").to_vector<int32_t>(),
                (std::vector<int32_t>{1, 0, 3}));
    });
    EXPECT_GT(told, tried * 9 / 10);
    restore();
    EXPECT_TRUE(resume.load({}));
  }
  ResumeFolder::remove(folder / "state");
  EXPECT_FALSE(std::filesystem::exists(folder / "state"));
}

// It says nothing about the files, and the same command may succeed a minute later.
TEST(ResumeFolder, AnErrorThatIsNoDamageKeepsTheState) {
  const TemporaryFolder folder;
  const ResumeFolder resume(folder / "state", identity_of_tiny());
  RunState state;
  state.stream = Tensor::from<float>({1, 2}, {1, 1, 2});
  resume.save(state);
  {
    const NoMoreDescriptors none;
    EXPECT_THROW(resume.load({}), std::runtime_error);
  }
  EXPECT_TRUE(resume.load({}));
}

TEST(CellStore, AnErrorThatIsNoDamageIsNotTakenForOne) {
  const TemporaryFolder folder;
  const CellStore store(folder.path());
  const Cell cell = make_cell({}, 4, {}, {"model", "calibration", "texts"});
  CellResult result;
  result.version = result.device = "x";
  store.put(cell, result);
  const NoMoreDescriptors none;
  EXPECT_THROW(store.find(cell, {}), std::runtime_error);
}

TEST(ResumeFolder, KeepsWhatARunHasSeen) {
  const TemporaryFolder folder;
  const ResumeFolder resume(folder / "state", identity_of_tiny());
  RunState state;
  state.stream = Tensor::zeros({1, 2, 3}, Dtype::f32, Device::cpu());
  state.notes = {"window 1: trouble", "a solver's note", "window 2: trouble"};
  state.seconds = 12.5;
  state.peak_bytes = 4096;
  resume.save(state);
  const std::optional<RunState> back = resume.load({});
  ASSERT_TRUE(back);
  EXPECT_EQ(back->notes, state.notes);
  EXPECT_EQ(back->seconds, 12.5);
  EXPECT_EQ(back->peak_bytes, 4096);
}

TEST(ResumeFolder, SaysWhatDiffers) {
  const TemporaryFolder folder;
  RunState state;
  state.stream = Tensor::from<float>({1, 2}, {1, 1, 2});
  JobIdentity old = identity_of_tiny();
  old.program = "0.0.9+abc";
  ResumeFolder(folder / "state", old).save(state);
  expect_error<std::runtime_error>(
      [&] { ResumeFolder(folder / "state", identity_of_tiny()).load({}); },
      {"state.safetensors", "the program's version (0.0.9+abc there", "--overwrite"});
  // As programs up to 0.1.0 wrote it.
  write_safetensors(folder / "state/state.safetensors", {{"quantized_stream", state.stream}},
                    {{"hash", "0123"}, {"run", "{}"}});
  expect_error<std::runtime_error>(
      [&] { ResumeFolder(folder / "state", identity_of_tiny()).load({}); },
      {"state.safetensors", "it differs in the program's version", "--overwrite"});
}

TEST(CellStore, EveryFlippedBitIsNoticedOrChangesNothing) {
  const TemporaryFolder folder;
  const CellStore store(folder.path());
  const Cell cell = make_cell({}, 4, {}, {"model", "calibration", "texts"});
  CellResult result;
  result.texts = {{3.2500000001, 1000}};
  result.notes = {"a note"};
  result.version = "v1";
  result.device = "cpu";
  store.put(cell, result);
  const std::string name = cell.key + ".json", good = read_text_file(folder / name);
  int told = 0;
  for_each_flipped_bit(good, 0, 1, [&](const std::string& flipped) {
    folder.write(name, flipped);
    std::string said;
    const auto found = store.find(cell, [&](const std::string& line) { said = line; });
    if (found) {
      EXPECT_EQ(to_json(*found), to_json(result));
    } else {
      EXPECT_NE(said.find(name), std::string::npos) << said;
      ++told;
    }
  });
  EXPECT_GT(told, static_cast<int>(good.size() / 2));
}

TEST(CellStore, ACellOfAnotherProgramIsComputedAnew) {
  const TemporaryFolder folder;
  const CellStore store(folder.path());
  JobIdentity inputs = {"model", "calibration", "texts"};
  inputs.program = "0.1.0+a";
  CellResult result;
  result.version = result.device = "x";
  store.put(make_cell({}, 4, {}, inputs), result);
  EXPECT_TRUE(store.find(make_cell({}, 4, {}, inputs), {}));
  inputs.program = "0.1.0+b";
  std::string said;
  EXPECT_FALSE(store.find(make_cell({}, 4, {}, inputs), [&](const auto& line) { said = line; }));
  EXPECT_NE(said.find("it differs in the program's version (0.1.0+a there, 0.1.0+b here)"),
            std::string::npos)
      << said;
}

}  // namespace
}  // namespace cbq::test_job_identity
