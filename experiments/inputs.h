// What a table runs on: the project's folder, the model's text, token segments.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "nn/text/tokens.h"

namespace cbq {

/// The folder that holds experiments/tables: the program's own folder, the current one, or one
/// above either. Throws std::runtime_error when there is none.
std::filesystem::path project_root();

/// `git describe --always --dirty` of the folder; "unknown" without git.
std::string git_version(const std::filesystem::path& folder);

/// The folder of a model: a name of this project (embedded: models/embedded; smollm2:
/// build/models/smollm2-135m, which ./setup.sh smollm2 makes), else the path itself. A folder of
/// that name in the current folder has precedence.
std::filesystem::path model_folder(const std::filesystem::path& name_or_path,
                                   const std::filesystem::path& root);

/// Throws std::runtime_error with the command that makes the file, unless the file of a text, a
/// folder's or of a token source (TokenSource) is there.
void require_file(const std::string& source, const std::string& what, const std::string& remedy);

/// Calibration segments of a text (`tokenizer_folder` holds its vocabulary) or a token source
/// (FILE.h5, FILE.json:KEY). Text: `count` random segments of `length` ids, seed 0 (GPTQ's
/// protocol). Token file: its first `count` segments, cut to `length`. Throws std::invalid_argument
/// when there are too few.
TokenSet calibration_tokens(const std::string& source,
                            const std::filesystem::path& tokenizer_folder, int64_t count,
                            int64_t length);

/// Segments to score. Text: consecutive segments of `length` ids (GPTQ's protocol). Token file: its
/// own segments, which must fit into `length` ids. Of these as many as hold `max_tokens` ids,
/// evenly spaced over the file (a dictionary begins with A); 0: all. The protocol says so.
TokenSet evaluation_tokens(const std::string& source, const std::filesystem::path& tokenizer_folder,
                           int64_t length, int64_t max_tokens);

}  // namespace cbq
