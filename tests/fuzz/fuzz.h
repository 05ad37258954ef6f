// Fuzzing: every parser of the project gets thousands of damaged files and must refuse or accept
// each of them in good order. docs/design.md, "Errors", says what is expected of a parser.
//
// A target is a parser, a corpus of valid files, and a registration in its own file
// (tests/fuzz/targets/). Case `number` of a target under `seed` is always the same input, so a
// failure is reproduced by these three, or by the file that was kept of it.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/random.h"

namespace cbq::fuzz {

/// Which mutators beside those of bytes change a file.
enum class Format {
  text,         // lines
  json,         // numbers, strings, nesting, keys; also several documents, as in JSON lines
  safetensors,  // length and JSON of the header, then bytes
  protobuf,     // tags, variable-length integers, lengths
  binary,       // integers of 1 to 8 bytes
};

struct FuzzTarget {
  std::string name;
  Format format = Format::text;
  /// Name of the file that is changed.
  std::string file;
  /// Writes the corpus: a folder per seed below `folder`, with `file` in it and whatever the parser
  /// expects beside it. Every seed must be accepted by `run`.
  std::function<void(const std::filesystem::path& folder)> seeds;
  /// Parses the file, and does with an accepted one what a program would do next.
  std::function<void(const std::filesystem::path& file)> run;
  /// An error must contain the path of the seed's folder, or one of these: for what does not come
  /// from a file, the name of the option.
  std::vector<std::string> names;
  /// Further damage that only this target knows; may be empty. Returns the changed bytes.
  std::function<std::string(const std::string& bytes, Random& random)> damage;
};

/// Returns true, so that a file can register its targets during static initialization.
bool add_target(FuzzTarget target);
/// Sorted by name. Those whose names begin with "self_" have faults on purpose, to test the
/// harness.
std::vector<const FuzzTarget*> targets();

/// `bytes` with a few mutations. `other`: another seed of the same target, for splices.
std::string mutated(const std::string& bytes, const std::string& other, const FuzzTarget& target,
                    Random& random);

// Mutations of one kind each; used by mutated(), and by what a target adds to it.
std::string mutated_bytes(std::string bytes, const std::string& other, Random& random);
std::string mutated_lines(const std::string& bytes, Random& random);
std::string mutated_json(const std::string& bytes, Random& random);
std::string mutated_safetensors(const std::string& bytes, Random& random);
std::string mutated_protobuf(const std::string& bytes, Random& random);

// The header of a safetensors file as text, and a file with another one of the right length.
std::string safetensors_header(const std::string& bytes);
std::string with_safetensors_header(const std::string& bytes, const std::string& header);

/// A variable-length integer of protocol buffers.
std::string varint(uint64_t value);

// For corpora.
std::string read_bytes(const std::filesystem::path& file);
/// Makes the folders above, too.
void write_bytes(const std::filesystem::path& file, std::string_view bytes);
/// Writes seed `number` of a corpus as the only file of its folder.
void write_seed(const std::filesystem::path& folder, size_t number, const std::string& file,
                std::string_view bytes);

}  // namespace cbq::fuzz
